from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import SAMPLERS, Prior, SamplerChoice, make_plan
from sbim_deploy.samplers.loop import likelihood_gain
from sbim_deploy.samplers.plan import GuidedStep, largest_langevin_step
from sbim_deploy.samplers.presets import PRESETS, find_preset
from sbim_deploy.samplers.schedules import karras

PUBLISHED = Prior(232, 0.0066, 2311, step_lr=5e-5, n_steps_each=3, data_weight=5.0, start_level=1155)


@pytest.mark.parametrize("name", SAMPLERS)
def test_n_steps_are_n_steps(name):
    n_steps = len(make_plan(SamplerChoice(name, steps=32), PUBLISHED).steps)
    assert (
        n_steps
        == {
            "dds": 32,
            "daps": 32,
            "sbim": 33,
            "sbim-ld": 97,
            "ddim": 33,
            "reverse-diffusion": 33,
            "langevin": 96,
        }[name]
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "sbmi"}, "unknown sampler 'sbmi': expected one of dds, daps, sbim"),
        ({"steps": 0}, "steps is 0: expected 1 to 100000"),
        ({"steps": 10**9}, "steps is 1000000000: expected 1 to 100000"),
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
        ({"name": "sbim-ld", "langevin_step": 0.0}, "langevin step is 0: expected a finite number above 0"),
        (
            {"name": "sbim", "langevin_step": 0.5},
            "sbim has no Langevin steps: leave it out, or use sbim-ld or l",
        ),
        (
            {"name": "langevin", "corrector_step_from": "own"},
            "langevin has no corrector after a predictor: leave it out, or use sbim-ld",
        ),
        (
            {"name": "sbim-ld", "corrector_step_from": "next"},
            "unknown corrector step from 'next': expected one of own, previous",
        ),
        ({"name": "langevin", "denoising": "guided"}, "langevin has no last denoising"),
        ({"name": "sbim", "denoising": "none"}, "unknown denoising 'none': expected one of prior, guided"),
        ({"published": True}, "dds has no published form: leave it out, or use sbim or sbim-ld or langevin"),
        ({"name": "sbim", "published": True, "start_sigma": 1.0}, "the published form has its own levels"),
        ({"start_sigma": 0.0}, "start sigma is 0: expected a finite number above 0"),
        ({"start": "l1"}, "unknown start 'l1': expected one of zero-filled, l1-wavelet"),
        ({"name": "sbim", "start": "l1-wavelet"}, "sbim starts from noise: leave start out, or give"),
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


@pytest.mark.parametrize(("steps", "sigma"), [(4, 0.1), (8, 0.1), (16, 0.15), (32, 0.3), (64, 0.3)])
def test_a_nearer_start_begins_at_a_lower_level(steps, sigma):
    plan = make_plan(SamplerChoice("dds", steps=steps, start="l1-wavelet"), PUBLISHED)
    assert (plan.start, plan.start_image) == ("l1-wavelet", 1.0)
    assert (plan.start_noise, plan.steps[0].sigma) == (pytest.approx(sigma), pytest.approx(sigma))
    assert plan.steps[-1].sigma == pytest.approx(0.01)
    cold = make_plan(SamplerChoice("dds", steps=steps), PUBLISHED)
    assert (cold.start, cold.start_noise) == ("zero-filled", 0.3)
    guided = make_plan(SamplerChoice("sbim", start="l1-wavelet", start_sigma=0.5), PUBLISHED)
    assert (guided.start, guided.start_image, guided.start_noise) == ("l1-wavelet", 1.0, 0.5)


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


def test_the_likelihood_of_page_67_counts_x_as_clean():
    clean = make_plan(SamplerChoice("sbim", steps=4, guidance="clean-likelihood"), PUBLISHED).steps
    noised = make_plan(SamplerChoice("sbim", steps=4, guidance="likelihood"), PUBLISHED).steps
    level = np.array([0.5])
    for step, other in zip(clean[:-1], noised[:-1], strict=True):
        assert likelihood_gain(step, level) == pytest.approx(1 / 0.25)
        assert likelihood_gain(other, level) == pytest.approx(1 / (0.25 + step.sigma**2), rel=1e-6)
    assert likelihood_gain(clean[-1], level) == 0


@pytest.mark.parametrize(("name", "steps"), [("sbim", 32), ("sbim-ld", 32), ("sbim-ld", 64)])
def test_the_published_predictors_go_to_zero_and_end_with_guidance(name, steps):
    """N levels at a uniform stride, sigma_t (sigma_t - sigma_{t-1}) / sqrt(1 + sigma_t^2), sigma_{-1} = 0."""
    plan = make_plan(SamplerChoice(name, steps=steps, published=True), PUBLISHED)
    levels = 232 * (0.0066 / 232) ** (np.round(np.linspace(2310, 0, steps)[::-1]) / 2310)
    predictors = [step for step in plan.steps if not step.noise_scale][:-1]
    following = [*levels[1:], 0.0]
    assert [step.sigma for step in predictors] == pytest.approx(levels.tolist())
    expected = levels * (levels - following) / np.sqrt(1 + levels**2)
    assert [step.step_size for step in predictors] == pytest.approx(expected.tolist())
    assert plan.steps[-1] == GuidedStep(plan.steps[-1].sigma, pytest.approx(0.0066**2), 0.0, 5.0)
    corrected = [step for step in plan.steps if step.noise_scale]
    assert len(corrected) == (0 if name == "sbim" else 2 * steps)
    for first, sigma, high in zip(corrected[::2], [*levels[1:], levels[-1]], levels, strict=False):
        assert first.sigma == pytest.approx(sigma)
        assert first.step_size == pytest.approx(5e-5 * (high / 0.0066) ** 2)


def test_the_published_langevin_takes_three_steps_a_level_then_four_and_3975_calls():
    plan = make_plan(SamplerChoice("langevin", published=True), PUBLISHED)
    assert len(plan.steps) == 3975
    levels = 232 * (0.0066 / 232) ** (np.arange(2311) / 2310)
    sigmas = np.array([step.sigma for step in plan.steps])
    counts = [np.isclose(sigmas, level).sum() for level in levels]
    assert counts == [0] * 1156 + [3] * 645 + [4] * 510


def test_options_compose_to_the_published_form():
    published = make_plan(SamplerChoice("sbim-ld", steps=8, published=True), DEMO)
    own = SamplerChoice("sbim-ld", steps=8, published=True, denoising="prior", corrector_step_from="own")
    assert make_plan(own, DEMO).steps[-1] == replace(published.steps[-1], data_weight=0.0)
    assert make_plan(own, DEMO).steps[1].step_size < published.steps[1].step_size
    guided = make_plan(SamplerChoice("sbim", steps=8, denoising="guided"), DEMO)
    assert guided.steps[-1].data_weight == 5.0


@pytest.mark.parametrize("name", ["sbim-ld", "langevin"])
def test_the_langevin_step_is_in_units_of_sigma_squared_for_any_levels(name):
    for prior in (PUBLISHED, DEMO):
        plan = make_plan(SamplerChoice(name, steps=8, langevin_step=0.7), prior)
        assert largest_langevin_step(plan) == pytest.approx(0.7)


def test_corrector_steps_that_diverge_are_refused_with_the_number_of_steps_that_would_do():
    choice = SamplerChoice("sbim-ld", steps=8, corrector_step_from="previous")
    with pytest.raises(InputError, match=r"sbim-ld are 4\.3 sigma\^2.* use (\d+) steps or more") as error:
        make_plan(choice, DEMO)
    enough = int(str(error.value).split("use ")[1].split()[0])
    assert largest_langevin_step(make_plan(replace(choice, steps=enough), DEMO)) <= 2
    with pytest.raises(InputError, match="they diverge"):
        make_plan(replace(choice, steps=enough - 1), DEMO)


def test_a_langevin_step_that_no_number_of_steps_mends_is_refused():
    with pytest.raises(InputError, match=r"langevin are 2\.5 sigma\^2.*; use a smaller Langevin step"):
        make_plan(SamplerChoice("langevin", langevin_step=2.5), DEMO)


def test_the_presets_are_stable_on_the_published_levels():
    for preset in PRESETS.values():
        assert largest_langevin_step(make_plan(preset.choice, PUBLISHED)) < 2


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
    assert {name: calls(name) for name in PRESETS} == {"fast": 8, "balanced": 32, "thesis": 257, "best": 96}


def test_what_is_done_by_default_is_balanced():
    assert make_plan(SamplerChoice(), DEMO) == make_plan(PRESETS["balanced"].choice, DEMO)
    assert PRESETS["balanced"].samples == 1


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(
        InputError, match="unknown preset 'slow': expected one of fast, balanced, thesis, best"
    ):
        find_preset("slow")
