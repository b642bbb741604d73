import math

import numpy as np
import pytest

from sbim_deploy.samplers import plan as plans
from sbim_deploy.samplers.choice import Prior, SamplerChoice, make_plan
from sbim_deploy.samplers.plan import GuidedStep, plan_as_dict

PUBLISHED = Prior(232, 0.0066, 2311, step_lr=5e-5, n_steps_each=3, data_weight=5.0, start_level=1155)
SIGMAS = np.array([2.0, 1.0, 0.5])


def test_sbim_is_the_formula_of_page_66_and_ends_with_the_prior_alone():
    plan = plans.sbim(SIGMAS, data_weight=5.0)
    assert [step.sigma for step in plan.steps] == [2.0, 1.0, 0.5]
    assert plan.steps[0] == GuidedStep(2.0, 2 / math.sqrt(5) * (2 - 1), 0.0, 5.0)
    assert plan.steps[1] == GuidedStep(1.0, 1 / math.sqrt(2) * 0.5, 0.0, 5.0)
    assert plan.steps[2] == GuidedStep(0.5, 0.25, 0.0, 0.0)
    assert (plan.start_image, plan.start_noise) == (0.0, 1.0)


@pytest.mark.parametrize(("of_previous", "sigma"), [(False, 1.0), (True, 2.0)])
def test_sbim_ld_corrects_at_the_lower_level_with_the_step_of_it_or_of_the_upper_one(of_previous, sigma):
    plan = plans.sbim_ld(SIGMAS, 5.0, langevin_step=0.04, corrector_steps=2, step_of_previous=of_previous)
    assert [step.sigma for step in plan.steps] == [2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    step = 0.04 * sigma**2
    assert plan.steps[1] == plan.steps[2] == GuidedStep(1.0, step, math.sqrt(2 * step), 5.0)
    assert plan.steps[0] == plans.sbim(SIGMAS, 5.0).steps[0]


def test_a_last_predictor_to_zero_is_followed_by_steps_at_the_smallest_level():
    plan = plans.sbim_ld(np.array([2.0, 1.0, 0.0]), 5.0, 0.5, corrector_steps=1, step_of_previous=True)
    assert [step.sigma for step in plan.steps] == [2.0, 1.0, 1.0, 1.0, 1.0]
    assert plan.steps[2] == GuidedStep(1.0, 1 / math.sqrt(2), 0.0, 5.0)
    assert plan.steps[3] == GuidedStep(1.0, 0.5, 1.0, 5.0)
    assert plan.steps[4] == GuidedStep(1.0, 1.0, 0.0, 0.0)


def test_the_published_langevin_step_is_1_148_sigma_squared():
    plan = make_plan(SamplerChoice("langevin"), PUBLISHED)
    assert len(plan.steps) == (2311 - 1155) * 3
    for step in (plan.steps[0], plan.steps[-1]):
        assert step.step_size == pytest.approx(1.148 * step.sigma**2, rel=1e-3)
        assert step.noise_scale == pytest.approx(math.sqrt(2 * step.step_size))
    assert plans.largest_langevin_step(plan) == pytest.approx(1.148, rel=1e-3)


def test_steps_without_noise_are_no_langevin_steps():
    assert plans.largest_langevin_step(plans.sbim(SIGMAS, 5.0)) == 0.0


def test_ddim_is_sbim_without_the_square_root():
    for exact, published in zip(
        plans.ddim(SIGMAS, 5.0).steps, plans.sbim(SIGMAS, 5.0).steps[:-1], strict=False
    ):
        assert exact.step_size == pytest.approx(published.step_size * math.sqrt(1 + exact.sigma**2))


def test_ddim_with_eta_1_is_reverse_diffusion():
    for ours, ancestral in zip(
        plans.ddim(SIGMAS, 5.0, eta=1.0).steps, plans.reverse_diffusion(SIGMAS, 5.0).steps, strict=True
    ):
        assert ours.step_size == pytest.approx(ancestral.step_size, rel=1e-14)
        assert ours.noise_scale == pytest.approx(ancestral.noise_scale, rel=1e-14)
        assert (ours.sigma, ours.data_weight) == (ancestral.sigma, ancestral.data_weight)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_level_of_the_noise_and_renews_a_share_of_it(eta):
    # x = x0 + sigma_t z has the score -z / sigma_t: what is left of z and what is fresh make sigma_{t-1}.
    for step, low in zip(plans.ddim(SIGMAS, 0.0, eta).steps, SIGMAS[1:], strict=False):
        kept = step.sigma - step.step_size / step.sigma
        assert math.hypot(kept, step.noise_scale) == pytest.approx(low)
        assert step.noise_scale == pytest.approx(eta * low * math.sqrt(1 - (low / step.sigma) ** 2))


def test_reverse_diffusion_keeps_the_variance_of_the_process():
    # Under s = -x / sigma_t^2, the exact score of pure noise, the variance becomes sigma_{t-1}^2.
    for step, low in zip(plans.reverse_diffusion(SIGMAS, 0.0).steps, SIGMAS[1:], strict=False):
        shrink = 1 - step.step_size / step.sigma**2
        assert (shrink * step.sigma) ** 2 + step.noise_scale**2 == pytest.approx(low**2)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_dds_adds_a_share_of_the_next_levels_noise_and_none_in_the_last_step(eta):
    plan = plans.dds(SIGMAS, gamma=0.03, noise_weight=2.0, n_cg=6, eta=eta)
    for step, following in zip(plan.steps, [1.0, 0.5, 0.0], strict=True):
        assert step.renoise == 0
        assert step.noise_scale == pytest.approx(eta * following)
        assert step.noise_gamma == pytest.approx(2.0 / step.sigma**2)
    assert (plan.start_image, plan.start_noise) == (1.0, 2.0)


def test_a_plan_as_json_has_the_steps_by_name():
    as_dict = plan_as_dict(plans.sbim(SIGMAS, 5.0))
    assert as_dict["start"] == {"image": 0.0, "noise": 1.0, "of": "zero-filled"}
    assert as_dict["rows"][2] == {"sigma": 0.5, "step_size": 0.25, "noise_scale": 0.0, "data_weight": 0.0} | {
        "likelihood_weight": 0.0,
        "likelihood_sigma": 0.0,
    }
