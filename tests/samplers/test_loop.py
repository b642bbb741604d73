"""The loop and the plans against Gaussians, for which everything is known in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import SamplingError
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.uncertainty import RunningMoments
from sbim_deploy.samplers import plan as plans
from sbim_deploy.samplers.choice import Prior, SamplerChoice, make_plan
from sbim_deploy.samplers.conjugate_gradient import solve_proximal
from sbim_deploy.samplers.loop import run_plan, starting_point
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import GuidedStep, Plan, ProximalStep
from sbim_deploy.samplers.schedules import geometric

SHAPE = (6, 5)
NOISE_LEVEL = 0.5
PRIOR = Prior(10.0, 0.02, 400, step_lr=1e-4, n_steps_each=3, data_weight=5.0, start_level=0)


def random_complex(rng, shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def problem(n=1, seed=0):
    """A SENSE problem, its A^H A as a matrix, and A^H y of a random object with a little noise."""
    rng = np.random.default_rng(seed)
    maps = random_complex(rng, (n, 3, *SHAPE)) / np.float32(np.sqrt(6))
    sense = Sense(maps, np.tile(np.arange(SHAPE[1]) % 2 == 0, (n, 1, 1)))
    identity = np.eye(np.prod(SHAPE), dtype=np.complex64).reshape(-1, 1, *SHAPE)
    matrix = np.stack([sense.normal(np.repeat(e, n, axis=0)).reshape(n, -1) for e in identity], axis=-1)
    y = sense.forward(random_complex(rng, (n, *SHAPE))) + np.float32(0.1) * random_complex(rng, maps.shape)
    return sense, matrix, sense.adjoint(y)


def run(plan, score, sense, backprojection, n=1, seed=0, start=None, **options):
    zeros = np.zeros((n, *SHAPE), dtype=np.complex64)
    noise = NoiseStream(seed, range(n), SHAPE)
    noise_level = np.full(n, NOISE_LEVEL, dtype=np.float32)
    return run_plan(
        plan,
        score,
        sense.normal,
        backprojection,
        starting_point(plan, zeros if start is None else start, noise),
        noise,
        noise_level,
        **options,
    )


class TestPosterior:
    """x ~ N(m, tau^2), y = A x + N(0, s^2): the posterior is Gaussian with a known mean and covariance.

    Its noised versions are Gaussians too, so their exact score drives the plans with no guidance of their
    own, and what they end with must have the posterior's mean and covariance.
    """

    TAU, NOISE = 1.0, NOISE_LEVEL

    @pytest.fixture(scope="class")
    @classmethod
    def posterior(cls):
        _, matrix, backprojection = problem()
        precision = matrix[0].astype(np.complex128) / cls.NOISE**2 + np.eye(matrix.shape[-1]) / cls.TAU**2
        mean = np.linalg.solve(precision, backprojection.reshape(-1) / cls.NOISE**2)
        values, vectors = np.linalg.eigh(np.linalg.inv(precision))
        return mean, values, vectors

    def score(self, posterior):
        mean, values, vectors = posterior

        def score(x, sigma):
            offset = (x.reshape(len(x), -1) - mean) @ vectors.conj()
            s = -(offset / (values + sigma**2)) @ vectors.T
            return s.astype(np.complex64).reshape(x.shape)

        return score

    @pytest.mark.parametrize(
        "make",
        [
            lambda sigmas: plans.langevin(sigmas, 0.0, 0.25, [8] * len(sigmas)),
            lambda sigmas: plans.sbim_ld(sigmas, 0.0, 0.25, corrector_steps=8),
            lambda sigmas: plans.reverse_diffusion(sigmas, 0.0),
            lambda sigmas: plans.ddim(sigmas, 0.0),
        ],
        ids=["langevin", "sbim-ld", "reverse-diffusion", "ddim"],
    )
    def test_samples_have_the_posteriors_mean_and_variance(self, posterior, make):
        mean, values, vectors = posterior
        n = 150
        plan = replace(make(geometric(5, 0.02, 80)), start_image=1.0, start_noise=5.0)
        start = np.tile(mean.astype(np.complex64).reshape(1, *SHAPE), (n, 1, 1))
        sense, _, backprojection = problem()
        samples = run(plan, self.score(posterior), sense, backprojection, n=n, start=start).reshape(n, -1)
        along = (samples - mean) @ vectors.conj()
        standard_errors = along.mean(axis=0) / np.sqrt(2 * values / n)
        assert np.sqrt(np.mean(np.abs(standard_errors) ** 2 / 2)) < 1.3
        ratio = np.mean(np.abs(along) ** 2, axis=0) / (2 * values)
        assert ratio.mean() == pytest.approx(1, abs=0.1)
        # Both what the data determine and what the prior alone does.
        assert ratio[:8].mean() == pytest.approx(1, abs=0.15)
        assert ratio[-8:].mean() == pytest.approx(1, abs=0.15)

    def test_the_standard_deviation_over_samples_is_the_posteriors(self, posterior):
        """Reverse diffusion with the exact score samples the posterior.

        Over K samples of a pixel with variance V, sd^2 K / (K - 1) is V on average, with a standard error of
        V / sqrt(K - 1); 4.5 of them, and 0.05 V for the plan's finite steps, are allowed in each pixel.
        """
        mean, values, vectors = posterior
        expected = (2 * values * np.abs(vectors) ** 2).sum(axis=1).reshape(SHAPE)
        assert expected.max() > 1.5 * expected.min()
        k, at_once = 400, 50
        plan = plans.reverse_diffusion(geometric(5, 0.02, 80), 0.0)
        plan = replace(plan, start_image=1.0, start_noise=5.0)
        start = np.tile(mean.astype(np.complex64).reshape(1, *SHAPE), (at_once, 1, 1))
        sense, _, backprojection = problem()
        moments = RunningMoments(SHAPE)
        for first in range(0, k, at_once):
            noise = NoiseStream(3, [7] * at_once, SHAPE, range(first, first + at_once))
            drawn = run_plan(
                plan,
                self.score(posterior),
                sense.normal,
                backprojection,
                starting_point(plan, start, noise),
                noise,
                np.full(at_once, NOISE_LEVEL, dtype=np.float32),
            )
            for image in drawn:
                moments.add(image)
        ratio = moments.variance() * k / (k - 1) / expected
        assert np.abs(ratio - 1).max() < 4.5 / np.sqrt(k - 1) + 0.05
        offset = np.abs(moments.mean.reshape(-1) - mean) ** 2 / (expected.reshape(-1) / k)
        assert offset.max() < 16  # of an exponential variable of mean 1

    @pytest.mark.parametrize("steps", [20, 80])
    def test_sbim_leaves_more_noise_than_ddim_because_its_steps_are_shorter(self, posterior, steps):
        """The square root of p. 64-65 makes each step shorter than the exact one."""
        mean = posterior[0]
        n = 150
        sense, _, backprojection = problem()
        sigmas = geometric(5, 0.02, steps + 1)
        start = np.tile(mean.astype(np.complex64).reshape(1, *SHAPE), (n, 1, 1))
        spread = []
        for make in (plans.sbim, plans.ddim):
            plan = replace(make(sigmas, 0.0), start_image=1.0, start_noise=5.0)
            samples = run(plan, self.score(posterior), sense, backprojection, n=n, start=start)
            spread.append(np.std(samples.reshape(n, -1) - mean))
        assert spread[0] > 1.3 * spread[1]

    def test_one_proximal_row_is_the_posterior_mean(self, posterior):
        """At a sigma that hides the image x0 is the prior's mean, and u the regularised solution."""
        mean, _, _ = posterior
        sense, _, backprojection = problem()
        sigma = 1e4
        plan = Plan("dds", 0.0, 0.0, (ProximalStep(sigma, 0.0, 1 / self.TAU**2, 60, 0.0, 0.0),))
        image = run(plan, lambda x, s: -x / np.float32(self.TAU**2 + s**2), sense, backprojection)
        np.testing.assert_allclose(image.reshape(-1), mean, atol=2e-4)


class TestPosteriorOfAnUnevenPrior:
    """x ~ N(0, C), y = A x + N(0, s^2), with eigenvectors of C that are none of A's.

    The exact score of the noised prior drives the plan, and the data do the rest.
    """

    N, VARIANCES = 500, np.geomspace(0.02, 1, 30)

    @pytest.fixture(scope="class")
    @classmethod
    def prior_directions(cls):
        return np.linalg.qr(random_complex(np.random.default_rng(1), (30, 30)).astype(np.complex128))[0]

    def sampled(self, directions, plan, last_spread):
        """Return the samples (N, pixel) of a plan whose last step samples too."""

        def score(x, sigma):
            along = x.reshape(len(x), -1) @ directions.conj() / (self.VARIANCES + sigma**2)
            return -(along @ directions.T).astype(np.complex64).reshape(x.shape)

        sense, _, backprojection = problem()
        sense = Sense(np.repeat(sense.maps, self.N, axis=0), np.repeat(sense.mask, self.N, axis=0))
        noise = NoiseStream(0, range(self.N), SHAPE)
        kspace = np.empty_like(sense.maps)
        *steps, last = plan.steps
        plan = replace(plan, start_image=0.0, steps=(*steps, replace(last, spread=last_spread)))
        return run_plan(
            plan,
            score,
            sense.normal,
            np.repeat(backprojection, self.N, axis=0),
            starting_point(plan, np.zeros((self.N, *SHAPE), np.complex64), noise),
            noise,
            np.full(self.N, NOISE_LEVEL, np.float32),
            draw_data=lambda: sense.adjoint(noise.fill(kspace)),
        ).reshape(self.N, -1)

    def test_daps_has_the_posteriors_mean_and_covariance(self, prior_directions):
        _, matrix, backprojection = problem()
        precision = matrix[0].astype(np.complex128) / NOISE_LEVEL**2
        precision += prior_directions / self.VARIANCES @ prior_directions.conj().T
        covariance = np.linalg.inv(precision)
        mean = covariance @ backprojection.reshape(-1) / NOISE_LEVEL**2
        values, vectors = np.linalg.eigh(covariance)
        plan = plans.daps(geometric(5, 0.02, 160), n_cg=30)
        samples = self.sampled(prior_directions, plan, last_spread=0.02)
        along = (samples - mean) @ vectors.conj() / np.sqrt(2 * values)
        # Of a sample covariance of independent ones, an entry has the standard error 1 / sqrt(N).
        found = along.conj().T @ along / self.N
        assert np.abs(along.mean(axis=0)).max() < 4 / np.sqrt(self.N)
        assert np.abs(found - np.eye(30)).max() < 4.5 / np.sqrt(self.N) + 0.05
        assert np.trace(found).real / 30 == pytest.approx(1, abs=0.04)


def test_a_proximal_step_with_a_spread_solves_for_perturbed_data_and_a_perturbed_image():
    sense, matrix, backprojection = problem(n=2)
    rng = np.random.default_rng(5)
    s, start = random_complex(rng, (2, *SHAPE)), random_complex(rng, (2, *SHAPE))
    step = ProximalStep(0.7, 0.0, 1 / 0.4**2, n_cg=100, renoise=0.0, noise_scale=0.2, spread=0.4)
    plan = Plan("x", 1.0, 0.0, (step,))
    noise = NoiseStream(0, range(2), SHAPE)
    kspace = np.empty_like(sense.maps)
    image = run_plan(
        plan,
        lambda x, sigma: s.copy(),
        sense.normal,
        backprojection,
        starting_point(plan, start.copy(), noise),
        noise,
        np.full(2, NOISE_LEVEL, np.float32),
        draw_data=lambda: sense.adjoint(noise.fill(kspace)),
    )
    noise = NoiseStream(0, range(2), SHAPE)
    noise.draw()
    centre = start + 0.7**2 * s + 0.4 * noise.draw()
    data = backprojection + NOISE_LEVEL * sense.adjoint(noise.fill(kspace))
    g = (NOISE_LEVEL / 0.4) ** 2
    z = noise.draw()
    for i in range(2):
        u = np.linalg.solve(matrix[i] + g * np.eye(30), (data[i] + g * centre[i]).reshape(-1))
        np.testing.assert_allclose(image[i], u.reshape(SHAPE) + 0.2 * z[i], atol=2e-4)


def test_a_guided_step_is_its_formula_with_norms_per_slice():
    sense, matrix, backprojection = problem(n=3)
    rng = np.random.default_rng(5)
    s, start = random_complex(rng, (3, *SHAPE)), random_complex(rng, (3, *SHAPE))
    plan = Plan("x", 1.0, 0.0, (GuidedStep(0.7, 0.3, 0.2, 5.0),))
    image = run(plan, lambda x, sigma: s.copy(), sense, backprojection, n=3, start=start)
    noise = NoiseStream(0, range(3), SHAPE)
    noise.draw()
    z = noise.draw()
    for i in range(3):
        g = (matrix[i] @ start[i].reshape(-1)).reshape(SHAPE) - backprojection[i]
        guided = s[i] - 5.0 * g * np.linalg.norm(s[i]) / np.linalg.norm(g)
        np.testing.assert_allclose(image[i], start[i] + 0.3 * guided + 0.2 * z[i], atol=2e-5)


def test_likelihood_guidance_is_the_gradient_of_the_noised_likelihood():
    sense, matrix, backprojection = problem(n=2)
    rng = np.random.default_rng(5)
    s, start = random_complex(rng, (2, *SHAPE)), random_complex(rng, (2, *SHAPE))
    step = GuidedStep(0.7, 0.3, 0.0, 0.0, likelihood_weight=2.0, likelihood_sigma=0.7)
    plan = Plan("x", 1.0, 0.0, (step,))
    image = run(plan, lambda x, sigma: s.copy(), sense, backprojection, n=2, start=start)
    for i in range(2):
        g = (matrix[i] @ start[i].reshape(-1)).reshape(SHAPE) - backprojection[i]
        expected = start[i] + 0.3 * (s[i] - 2.0 / (NOISE_LEVEL**2 + 0.7**2) * g)
        np.testing.assert_allclose(image[i], expected, atol=2e-5)


def test_likelihood_guidance_samples_the_likelihood_where_the_prior_is_flat():
    """With A = I and no prior the noised posterior is N(y, sigma_y^2 + sigma^2), and its score is exact."""
    shape, y = (64, 64), np.complex64(2 - 1j)
    plan = make_plan(SamplerChoice("reverse-diffusion", steps=200, guidance="likelihood"), PRIOR)
    noise = NoiseStream(1, [0], shape)
    data = np.full((1, *shape), y)
    plan = replace(plan, start_noise=PRIOR.sigma_begin)
    start = starting_point(plan, np.zeros_like(data), noise)

    def copied(x, out):
        out[...] = x
        return out

    level = np.array([NOISE_LEVEL], dtype=np.float32)
    image = run_plan(plan, lambda x, sigma: np.zeros_like(x), copied, data, start, noise, level)
    assert image.mean() == pytest.approx(y, abs=0.05)
    variance = NOISE_LEVEL**2 + PRIOR.sigma_end**2
    assert np.var(image) / 2 == pytest.approx(variance, rel=0.08)


def test_a_proximal_step_is_its_formula():
    sense, matrix, backprojection = problem()
    rng = np.random.default_rng(5)
    s, start = random_complex(rng, (1, *SHAPE)), random_complex(rng, (1, *SHAPE))
    step = ProximalStep(sigma=0.7, gamma=0.06, noise_gamma=0.16, n_cg=100, renoise=0.4, noise_scale=0.0)
    image = run(Plan("x", 1.0, 0.0, (step,)), lambda x, sigma: s.copy(), sense, backprojection, start=start)
    x0 = start + 0.7**2 * s
    u = np.linalg.solve(matrix[0] + 0.1 * np.eye(30), (backprojection + 0.1 * x0).reshape(-1))
    np.testing.assert_allclose(image, u.reshape(1, *SHAPE) + 0.4 * (start - x0) / 0.7, atol=1e-4)


def test_data_that_are_met_exactly_do_not_pull():
    zeros = np.zeros((1, *SHAPE), dtype=np.complex64)
    sense, _, _ = problem()
    plan = Plan("x", 1.0, 0.0, (GuidedStep(1.0, 0.5, 0.0, 5.0),))
    image = run(plan, lambda x, sigma: np.ones_like(x), sense, zeros)
    np.testing.assert_allclose(image, 0.5)


def test_conjugate_gradients_leave_a_converged_slice_alone():
    sense, _, backprojection = problem(n=2)
    backprojection[0] = 0
    u = solve_proximal(sense.normal, backprojection, np.zeros_like(backprojection), np.full(2, 0.1), 50)
    assert not u[0].any()
    np.testing.assert_allclose(sense.normal(u)[1] + 0.1 * u[1], backprojection[1], atol=1e-4)


def test_a_slice_is_the_same_in_any_batch():
    sense, _, backprojection = problem(n=4)
    plan = plans.sbim_ld(geometric(5, 0.1, 6), 5.0, 1e-3, 2)

    def score(x, sigma):
        return -x / np.float32(1 + sigma**2)

    together = run(plan, score, sense, backprojection, n=4)
    for i in range(4):
        noise = NoiseStream(0, [i], SHAPE)
        alone = run_plan(
            plan,
            score,
            Sense(sense.maps[i : i + 1], sense.mask[i : i + 1]).normal,
            backprojection[i : i + 1],
            starting_point(plan, np.zeros((1, *SHAPE), dtype=np.complex64), noise),
            noise,
            np.zeros(1, dtype=np.float32),
        )
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


def test_progress_counts_the_steps():
    sense, _, backprojection = problem()
    seen = []
    run(plans.sbim(geometric(5, 0.1, 4), 5.0), lambda x, s: -x, sense, backprojection, on_step=seen.append)
    assert seen == [1, 2, 3, 4]


def test_the_state_can_be_watched_from_the_start_to_the_image():
    sense, _, backprojection = problem()
    seen = []
    image = run(
        plans.sbim(geometric(5, 0.1, 4), 5.0),
        lambda x, s: -x,
        sense,
        backprojection,
        on_state=lambda steps, x: seen.append((steps, x.copy())),
    )
    assert [steps for steps, _ in seen] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(seen[0][1], NoiseStream(0, [0], SHAPE).draw())
    np.testing.assert_array_equal(seen[-1][1], image)


def test_the_first_non_finite_score_stops_the_run_and_names_the_slice():
    sense, _, backprojection = problem(n=2)
    calls = []

    def score(x, sigma):
        calls.append(sigma)
        s = -x
        if len(calls) == 2:
            s[1, 0, 0] = np.nan
        return s

    plan = plans.sbim(geometric(5, 0.1, 4), 5.0)
    with pytest.raises(SamplingError, match=r"sbim diverged: slice 1 is not finite in step 2 of 4"):
        run(plan, score, sense, backprojection, n=2)
    assert len(calls) == 2


def test_a_last_step_that_overflows_is_not_an_image():
    sense, _, backprojection = problem()
    plan = Plan("x", 1.0, 0.0, (GuidedStep(1.0, 3e38, 0.0, 0.0),))
    with pytest.raises(SamplingError, match="step 1 of 1"):
        run(plan, lambda x, sigma: np.full_like(x, 1e3), sense, backprojection)
