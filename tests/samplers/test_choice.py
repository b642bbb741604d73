import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import PRESETS, SAMPLERS, Prior, SamplerChoice, find_preset, make_plan
from sbim_deploy.samplers.schedules import karras

PUBLISHED = Prior(232, 0.0066, 2311, step_lr=5e-5, n_steps_each=3, data_weight=5.0, start_level=1155)


@pytest.mark.parametrize("name", SAMPLERS)
def test_n_steps_are_n_steps(name):
    n_steps = len(make_plan(SamplerChoice(name, steps=32), PUBLISHED).steps)
    assert (
        n_steps
        == {"dds": 32, "sbim": 33, "sbim-ld": 97, "ddim": 33, "reverse-diffusion": 33, "langevin": 96}[name]
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "sbmi"}, "unknown sampler 'sbmi': expected one of dds, sbim"),
        ({"steps": 0}, "steps is 0: expected at least 1"),
        ({"name": "sbim-ld", "corrector_steps": 0}, "corrector steps is 0"),
        ({"name": "sbim", "corrector_steps": 2}, "use sbim-ld or langevin"),
        ({"name": "sbim", "data_weight": -1.0}, "data weight is -1"),
        ({"name": "sbim", "data_weight": float("nan")}, "data weight is nan"),
        ({"name": "dds", "data_weight": 5.0}, "dds has no data weight"),
        ({"name": "dds", "guidance": "likelihood"}, "dds has no guidance"),
        ({"name": "sbim", "guidance": "both"}, "unknown guidance 'both': expected one of norm-matched, like"),
        ({"name": "sbim", "prior_weight": 1.0}, "sbim has no prior weight"),
        ({"prior_weight": -1.0}, "prior weight is -1"),
        ({"name": "sbim", "eta": 0.5}, "sbim has no eta: leave it out, or use ddim"),
        ({"name": "ddim", "eta": 1.5}, "eta is 1.5: expected 0 to 1"),
        ({"name": "ddim", "eta": float("nan")}, "eta is nan: expected 0 to 1"),
        ({"schedule": "linear"}, "unknown schedule 'linear': expected one of geometric, karras"),
        ({"start_sigma": 0.0}, "start sigma is 0: expected a finite number above 0"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(choice, message):
    with pytest.raises(InputError, match=message):
        SamplerChoice(**choice)


def test_a_plan_starts_from_the_measured_image_at_the_sigma_that_is_asked_for():
    plan = make_plan(SamplerChoice("ddim", steps=4, start_sigma=0.5, schedule="karras"), PUBLISHED)
    assert (plan.start_image, plan.start_noise) == (1.0, 0.5)
    assert [step.sigma for step in plan.steps] == pytest.approx(karras(0.5, 0.0066, 5).tolist())
    dds = make_plan(SamplerChoice("dds", steps=4, start_sigma=0.5, prior_weight=2.0), PUBLISHED)
    assert (dds.start_image, dds.start_noise, dds.steps[0].sigma) == (1.0, 0.5, 0.5)
    assert dds.steps[0].noise_gamma == pytest.approx(2.0 / 0.5**2)


@pytest.mark.parametrize("start_sigma", [0.001, 300.0])
def test_a_start_that_the_model_does_not_know_is_refused(start_sigma):
    with pytest.raises(InputError, match=f"start sigma is {start_sigma:g}: expected more than the last"):
        make_plan(SamplerChoice("sbim", start_sigma=start_sigma), PUBLISHED)


def test_likelihood_guidance_takes_the_place_of_matched_norms():
    matched = make_plan(SamplerChoice("sbim", steps=4), PUBLISHED).steps
    likely = make_plan(SamplerChoice("sbim", steps=4, guidance="likelihood"), PUBLISHED).steps
    assert [(step.data_weight, step.likelihood_weight) for step in matched] == [(5.0, 0.0)] * 4 + [(0.0, 0.0)]
    assert [(step.data_weight, step.likelihood_weight) for step in likely] == [(0.0, 1.0)] * 4 + [(0.0, 0.0)]
    assert [step.step_size for step in likely] == [step.step_size for step in matched]


def test_eta_is_that_of_ddims_plan():
    fresh = make_plan(SamplerChoice("ddim", steps=4, eta=1.0), PUBLISHED).steps
    ancestral = make_plan(SamplerChoice("reverse-diffusion", steps=4), PUBLISHED).steps
    assert [step.noise_scale for step in fresh] == pytest.approx([step.noise_scale for step in ancestral])
    still = make_plan(SamplerChoice("ddim", steps=4, eta=0.0), PUBLISHED)
    assert still == make_plan(SamplerChoice("ddim", steps=4), PUBLISHED)


def test_more_steps_than_levels_is_refused():
    with pytest.raises(InputError, match="2311 noise levels"):
        make_plan(SamplerChoice("sbim", steps=2311), PUBLISHED)


DEMO = Prior(50.0, 0.01, 500, step_lr=5e-5, n_steps_each=4, data_weight=5.0, start_level=0)


def calls(name):
    preset = find_preset(name)
    return len(make_plan(preset.choice, DEMO).steps) * preset.samples


def test_presets_keep_to_their_budgets():
    assert {name: calls(name) for name in PRESETS} == {"fast": 8, "balanced": 32, "thesis": 97, "best": 96}


def test_what_is_done_by_default_is_balanced():
    assert make_plan(SamplerChoice(), DEMO) == make_plan(PRESETS["balanced"].choice, DEMO)
    assert PRESETS["balanced"].samples == 1


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(
        InputError, match="unknown preset 'slow': expected one of fast, balanced, thesis, best"
    ):
        find_preset("slow")
