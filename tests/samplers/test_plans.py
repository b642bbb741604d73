import math

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.samplers import plan as plans
from sbim_deploy.samplers.choice import SAMPLERS, Prior, SamplerChoice, make_plan
from sbim_deploy.samplers.plan import GuidedStep, plan_as_dict
from sbim_deploy.samplers.schedules import geometric, karras, starting_at, subsample

PUBLISHED = Prior(232, 0.0066, 2311, step_lr=5e-5, n_steps_each=3, data_weight=5.0, start_level=1155)
SIGMAS = np.array([2.0, 1.0, 0.5])


def test_the_published_schedule():
    sigmas = geometric(232, 0.0066, 2311)
    assert sigmas[0] == pytest.approx(232)
    assert sigmas[-1] == pytest.approx(0.0066)
    np.testing.assert_allclose(sigmas[1:] / sigmas[:-1], (0.0066 / 232) ** (1 / 2310))


@pytest.mark.parametrize("n", [1, 2, 3, 32, 33, 257, 2310, 2311])
def test_subsampling_gives_exactly_the_levels_asked_for(n):
    sigmas = subsample(geometric(232, 0.0066, 2311), n)
    assert sigmas.size == n == np.unique(sigmas).size
    assert sigmas[-1] == pytest.approx(0.0066)
    assert n == 1 or sigmas[0] == pytest.approx(232)


def test_more_levels_than_there_are_is_an_error():
    with pytest.raises(InputError, match="has 10 noise levels and the sampler asks for 11"):
        subsample(geometric(1, 0.1, 10), 11)


def test_a_lower_start_keeps_the_levels_below():
    np.testing.assert_array_equal(starting_at(SIGMAS, 1), [1.0, 0.5])
    with pytest.raises(InputError, match="start level is 3: expected 0 to 2"):
        starting_at(SIGMAS, 3)


def test_sbim_is_the_formula_of_page_66_and_ends_with_the_prior_alone():
    plan = plans.sbim(SIGMAS, data_weight=5.0)
    assert [step.sigma for step in plan.steps] == [2.0, 1.0, 0.5]
    assert plan.steps[0] == GuidedStep(2.0, 2 / math.sqrt(5) * (2 - 1), 0.0, 5.0)
    assert plan.steps[1] == GuidedStep(1.0, 1 / math.sqrt(2) * 0.5, 0.0, 5.0)
    assert plan.steps[2] == GuidedStep(0.5, 0.25, 0.0, 0.0)
    assert (plan.start_image, plan.start_noise) == (0.0, 1.0)


def test_sbim_ld_corrects_at_the_lower_level_with_the_step_of_the_upper_one():
    plan = plans.sbim_ld(SIGMAS, data_weight=5.0, eps=0.01, corrector_steps=2)
    assert [step.sigma for step in plan.steps] == [2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    step = 0.01 * (2.0 / 0.5) ** 2
    assert plan.steps[1] == plan.steps[2] == GuidedStep(1.0, step, math.sqrt(2 * step), 5.0)
    assert plan.steps[0] == plans.sbim(SIGMAS, 5.0).steps[0]


def test_the_published_langevin_step_is_1_148_sigma_squared():
    plan = make_plan(SamplerChoice("langevin"), PUBLISHED)
    assert len(plan.steps) == (2311 - 1155) * 3
    for step in (plan.steps[0], plan.steps[-1]):
        assert step.step_size == pytest.approx(1.148 * step.sigma**2, rel=1e-3)
        assert step.noise_scale == pytest.approx(math.sqrt(2 * step.step_size))


def test_ddim_is_sbim_without_the_square_root():
    for exact, published in zip(
        plans.ddim(SIGMAS, 5.0).steps, plans.sbim(SIGMAS, 5.0).steps[:-1], strict=False
    ):
        assert exact.step_size == pytest.approx(published.step_size * math.sqrt(1 + exact.sigma**2))


def test_reverse_diffusion_keeps_the_variance_of_the_process():
    # Under s = -x / sigma_t^2, the exact score of pure noise, the variance becomes sigma_{t-1}^2.
    for step, low in zip(plans.reverse_diffusion(SIGMAS, 0.0).steps, SIGMAS[1:], strict=False):
        shrink = 1 - step.step_size / step.sigma**2
        assert (shrink * step.sigma) ** 2 + step.noise_scale**2 == pytest.approx(low**2)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_dds_adds_back_the_noise_of_the_next_level_and_none_in_the_last_row(eta):
    plan = plans.dds(SIGMAS, gamma=0.03, noise_weight=2.0, n_cg=6, eta=eta)
    for step, following in zip(plan.steps, [1.0, 0.5, 0.0], strict=True):
        assert math.hypot(step.renoise, step.noise_scale) == pytest.approx(following)
        assert step.noise_scale == pytest.approx(eta * following)
        assert step.noise_gamma == pytest.approx(2.0 / step.sigma**2)
    assert (plan.start_image, plan.start_noise) == (1.0, 2.0)


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
        ({"schedule": "linear"}, "unknown schedule 'linear': expected one of geometric, karras"),
        ({"start_sigma": 0.0}, "start sigma is 0: expected a finite number above 0"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(choice, message):
    with pytest.raises(InputError, match=message):
        SamplerChoice(**choice)


def test_the_karras_schedule_is_equation_5():
    sigmas = karras(80.0, 0.002, 18)
    at = (80 ** (1 / 7) + 5 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert (sigmas[0], sigmas[-1], sigmas.size) == (80.0, 0.002, 18)
    assert sigmas[5] == pytest.approx(at, rel=1e-12)
    assert karras(80.0, 0.002, 1).tolist() == [0.002]


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


def test_more_steps_than_levels_is_refused():
    with pytest.raises(InputError, match="2311 noise levels"):
        make_plan(SamplerChoice("sbim", steps=2311), PUBLISHED)


def test_a_plan_as_json_has_the_rows_by_name():
    as_dict = plan_as_dict(plans.sbim(SIGMAS, 5.0))
    assert as_dict["start"] == {"image": 0.0, "noise": 1.0}
    assert as_dict["rows"][2] == {"sigma": 0.5, "step_size": 0.25, "noise_scale": 0.0, "data_weight": 0.0} | {
        "likelihood_weight": 0.0
    }
