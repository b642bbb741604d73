"""A variance-preserving process, and the samplers' plans for it, against the papers' own recursions."""

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import Prior, SamplerChoice, make_plan
from sbim_deploy.samplers.schedules import variance_preserving

BETAS = np.linspace(1e-4, 0.02, 1000)
A = np.cumprod(1 - BETAS)
SIGMAS = variance_preserving(BETAS)
PRIOR = Prior(
    SIGMAS[0],
    SIGMAS[-1],
    1000,
    step_lr=1e-4,
    n_steps_each=3,
    data_weight=5.0,
    start_level=0,
    vp_sigmas=tuple(SIGMAS),
)
# The image is N(MEAN, SPREAD^2), so that its noise is known at every step.
MEAN, SPREAD = 0.7, 0.3


def score(x, sigma):
    return -(x - MEAN) / (SPREAD**2 + sigma**2)


def noise_in(x_vp, a):
    """The expected noise of x_VP = sqrt(a) x_0 + sqrt(1 - a) noise."""
    return np.sqrt(1 - a) * (x_vp - np.sqrt(a) * MEAN) / (a * SPREAD**2 + 1 - a)


def run(plan, x, draws):
    for step, z in zip(plan.steps, [*draws, 0.0], strict=True):
        x = x + step.step_size * score(x, step.sigma) + step.noise_scale * z
    return x


def problem(n_steps):
    rng = np.random.default_rng(0)
    steps = 999 - np.round(np.linspace(0, 999, n_steps + 1)).astype(int)
    return rng.standard_normal(100), steps, rng.standard_normal((n_steps, 100))


def test_sigma_is_the_bijection_of_the_product_of_the_alphas():
    np.testing.assert_allclose(SIGMAS[::-1], np.sqrt(1 / A - 1), rtol=1e-11)
    np.testing.assert_allclose(1 / (1 + SIGMAS[::-1] ** 2), A, rtol=1e-11)
    assert SIGMAS[-1] == pytest.approx(0.01, rel=1e-4)
    assert SIGMAS[0] == pytest.approx(157.4, rel=1e-3)


@pytest.mark.parametrize("n_steps", [1, 10, 50, 999])
def test_the_ddim_plan_is_ddim_in_the_preserving_variables(n_steps):
    z, steps, draws = problem(n_steps)
    x = z
    for t, previous in zip(steps, [*steps[1:], None], strict=True):
        # Song, Meng and Ermon 2020, equation 12 with sigma_t = 0; the last step ends at a = 1.
        a, a_next = A[t], 1.0 if previous is None else A[previous]
        noise = noise_in(x, a)
        x = np.sqrt(a_next) * (x - np.sqrt(1 - a) * noise) / np.sqrt(a) + np.sqrt(1 - a_next) * noise
    plan = make_plan(SamplerChoice("ddim", steps=n_steps), PRIOR)
    np.testing.assert_allclose(run(plan, plan.start_noise * z, 0 * draws), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_steps", [1, 10, 50, 999])
def test_the_reverse_diffusion_plan_is_ddpms_ancestral_sampling(n_steps):
    z, steps, draws = problem(n_steps)
    x = z
    for t, previous, draw in zip(steps, [*steps[1:], None], [*draws, 0.0], strict=True):
        # Ho, Jain and Abbeel 2020 (arXiv:2006.11239), equations 6 and 7: the posterior's mean and variance.
        a, a_next = A[t], 1.0 if previous is None else A[previous]
        beta = 1 - a / a_next
        image = (x - np.sqrt(1 - a) * noise_in(x, a)) / np.sqrt(a)
        mean = (np.sqrt(a_next) * beta * image + np.sqrt(1 - beta) * (1 - a_next) * x) / (1 - a)
        x = mean + np.sqrt((1 - a_next) / (1 - a) * beta) * draw
    plan = make_plan(SamplerChoice("reverse-diffusion", steps=n_steps), PRIOR)
    np.testing.assert_allclose(run(plan, plan.start_noise * z, draws), x, rtol=1e-9, atol=1e-9)


def test_the_larger_variance_of_ddpm_is_another_sampler():
    """Of variance beta_t it adds (sigma_t^2 - sigma_{t-1}^2) (1 + sigma_{t-1}^2) / (1 + sigma_t^2)."""
    plan = make_plan(SamplerChoice("reverse-diffusion", steps=999), PRIOR)
    for step, t in zip(plan.steps[:-1], range(999, 0, -1), strict=True):
        high, low = np.sqrt(1 / A[t] - 1), np.sqrt(1 / A[t - 1] - 1)
        large = BETAS[t] / A[t - 1]
        assert large == pytest.approx((high**2 - low**2) * (1 + low**2) / (1 + high**2), rel=1e-9)
        assert step.noise_scale**2 < large


def test_pure_noise_starts_where_the_preserving_process_ends_and_images_do_not_change():
    for name in ("sbim", "ddim", "reverse-diffusion", "langevin"):
        plan = make_plan(SamplerChoice(name, steps=10), PRIOR)
        assert plan.start_noise == pytest.approx(1 / np.sqrt(A[999]))
    dds = make_plan(SamplerChoice("dds"), PRIOR)
    assert (dds.start_image, dds.start_noise) == (1.0, 0.3)


def test_steps_are_the_models_own_and_geometric_models_keep_theirs():
    plan = make_plan(SamplerChoice("ddim", steps=9), PRIOR)
    own = [np.sqrt(1 / A[t] - 1) for t in (999, 888, 777, 666, 555, 444, 333, 222, 111, 0)]
    np.testing.assert_allclose([step.sigma for step in plan.steps], own, rtol=1e-9)
    geometric = Prior(10.0, 0.01, 10, step_lr=1e-4, n_steps_each=3, data_weight=5.0, start_level=0)
    assert make_plan(SamplerChoice("ddim", steps=9), geometric).start_noise == 1.0


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1, 1.0], "not all between 0 and 1"),
        ([0.0, 0.1], "not all between 0 and 1"),
        ([0.1, float("nan")], "not all between 0 and 1"),
        ([0.9] * 1000, "ends at a sigma of inf: expected at most 1e"),
    ],
)
def test_what_preserves_no_variance_is_refused(betas, message):
    with pytest.raises(InputError, match=message):
        variance_preserving(np.array(betas))
