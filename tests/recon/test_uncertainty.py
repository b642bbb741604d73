import numpy as np
import pytest

from sbim_deploy.recon.grid import SliceBatch, stack_slices
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.uncertainty import conditional_variance
from sbim_deploy.samplers.plan import GuidedStep, Plan, ProximalStep

SHAPE, N_COILS = (6, 5), 3
NOISE, SCALE, TAU = 0.5, 4.0, 0.3


def batch_of(*indices: int, noise: float = NOISE) -> SliceBatch:
    problems = []
    for index in indices:
        rng = np.random.default_rng(index)
        maps = rng.standard_normal((N_COILS, *SHAPE, 2)).astype(np.float32).view(np.complex64)[..., 0] / 2
        mask = (np.arange(SHAPE[1]) % 2 == 0)[None]
        zeros = np.zeros(SHAPE, np.complex64)
        problems.append(SliceProblem(index, zeros * maps, maps, mask, zeros, SCALE, noise, SHAPE))
    return stack_slices(problems)


def one_step(noise_gamma: float = 1 / TAU**2) -> Plan:
    """A step that knows nothing of the image but a Gaussian of variance tau^2, in units of the scale."""
    return Plan("dds", 0.0, 1.0, (ProximalStep(1e4, 0.0, noise_gamma, 15, 0.0, 0.0),))


def test_one_proximal_row_has_the_variance_of_the_gaussian_posterior():
    """x ~ N(0, (tau scale)^2), y = A x + N(0, s^2), in each part: the covariance is known in closed form."""
    batch = batch_of(4)
    identity = np.eye(np.prod(SHAPE), dtype=np.complex64).reshape(-1, 1, *SHAPE)
    normal = np.stack([batch.sense.normal(e).reshape(-1) for e in identity], axis=-1)
    covariance = np.linalg.inv(normal / NOISE**2 + np.eye(len(normal)) / (TAU * SCALE) ** 2)
    expected = 2 * np.diag(covariance).real.reshape(SHAPE)
    assert expected.max() > 1.5 * expected.min()
    n = 800
    got = conditional_variance(batch, one_step(), seed=0, n_probes=n)[0]
    # |z|^2 of a complex normal has a standard deviation of its mean.
    np.testing.assert_allclose(got / expected, 1, atol=4.5 / np.sqrt(n))


def test_the_error_of_the_denoised_image_adds_to_its_variance():
    batch = batch_of(4)
    error = 0.4 * SCALE  # with TAU = 0.3 a deviation of 0.5
    together = one_step(noise_gamma=1 / 0.5**2)
    got = conditional_variance(batch, one_step(), seed=0, model_error=np.array([error], np.float32))
    np.testing.assert_allclose(got, conditional_variance(batch, together, seed=0), rtol=1e-4)


def test_without_noise_the_error_of_the_denoised_image_is_where_data_leave_it_open():
    batch = batch_of(4, noise=0.0)
    got = conditional_variance(batch, one_step(), seed=0, model_error=np.array([1.0], np.float32))
    assert 0 < np.median(got) < 2


def test_a_slice_has_its_own_noise_in_any_batch():
    together = conditional_variance(batch_of(4, 7), one_step(), seed=0)
    np.testing.assert_allclose(
        together[1], conditional_variance(batch_of(7), one_step(), seed=0)[0], rtol=1e-5
    )
    assert not np.allclose(together[1], conditional_variance(batch_of(7), one_step(), seed=1)[0])


@pytest.mark.parametrize(
    ("plan", "noise"),
    [(Plan("sbim", 0.0, 1.0, (GuidedStep(0.1, 0.01, 0.0, 0.0),)), NOISE), (one_step(), 0.0)],
    ids=["guided", "no noise"],
)
def test_where_nothing_is_left_open_nothing_is_added(plan, noise):
    assert not conditional_variance(batch_of(4, noise=noise), plan, seed=0).any()


def test_two_sets_of_maps_have_the_variance_of_both_solved_together():
    rng = np.random.default_rng(7)
    maps = rng.standard_normal((2, N_COILS, *SHAPE, 2)).astype(np.float32).view(np.complex64)[..., 0] / 2
    mask = (np.arange(SHAPE[1]) % 2 == 0)[None]
    zeros = np.zeros((2, *SHAPE), np.complex64)
    problem = SliceProblem(4, zeros[0] * maps[0], maps, mask, zeros, SCALE, NOISE, SHAPE)
    batch = stack_slices([problem])
    identity = np.eye(zeros.size, dtype=np.complex64).reshape(-1, 1, 2, *SHAPE)
    normal = np.stack([batch.sense.normal(e).reshape(-1) for e in identity], axis=-1)
    covariance = np.linalg.inv(normal / NOISE**2 + np.eye(len(normal)) / (TAU * SCALE) ** 2)
    expected = 2 * np.diag(covariance).real.reshape(zeros.shape)
    n = 800
    got = conditional_variance(batch, one_step(), seed=0, n_probes=n)[0]
    np.testing.assert_allclose(got / expected, 1, atol=4.5 / np.sqrt(n))
