import numpy as np
import pytest
import scipy.ndimage

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.noise_level import estimate_noise, measure_noise
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.mri.whitening import (
    mix_coils,
    whitening_of_covariance,
    whitening_without_dependent_coils,
)


def random_covariance(n_coils=5, n_independent=5, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n_coils, n_independent, 2)).view(complex)[..., 0]
    return mixing @ mixing.conj().T


def scan(noise=0.02, mixing=None, n_coils=6):
    rng = np.random.default_rng(1)
    image = scipy.ndimage.gaussian_filter(shepp_logan((96, 96)), 0.6) * smooth_phase((96, 96), rng)
    kspace = centred_fft(birdcage_maps(n_coils, (96, 96)) * image)
    added = noise * rng.standard_normal((*kspace.shape, 2)).view(complex)[..., 0]
    return (kspace + (added if mixing is None else mix_coils(mixing, added))).astype(np.complex64)


def test_independent_coils_are_all_kept_and_whitened_as_by_cholesky():
    covariance = random_covariance(5, 20)
    whitening = whitening_without_dependent_coils(covariance)
    assert whitening.left_out == ()
    np.testing.assert_allclose(whitening.matrix, whitening_of_covariance(covariance), rtol=1e-4)
    white = whitening.matrix @ covariance @ whitening.matrix.conj().T
    np.testing.assert_allclose(white, 2 * np.eye(5), atol=1e-4)


def test_a_dead_coil_is_left_out():
    covariance = random_covariance().astype(np.complex64)
    covariance = np.insert(np.insert(covariance, 2, 0, axis=0), 2, 0, axis=1)
    for rest in (0, 1e-12):
        covariance[2, 2] = rest
        whitening = whitening_without_dependent_coils(covariance)
        assert whitening.left_out == (2,)
        assert whitening.matrix.shape == (5, 6)
        assert not whitening.matrix[:, 2].any()


def test_of_two_equal_coils_one_is_left_out_and_a_weak_but_independent_one_stays():
    mixing = np.eye(4)[[0, 1, 2, 3, 1]] * np.array([1, 1, 1, 1e-3, 1])[:, None]
    covariance = (mixing @ random_covariance(4, 4) @ mixing.T).astype(np.complex64)
    whitening = whitening_without_dependent_coils(covariance)
    assert whitening.left_out in ((1,), (4,))
    white = whitening.matrix @ covariance @ whitening.matrix.conj().T
    np.testing.assert_allclose(white, 2 * np.eye(4), atol=2e-3)


def test_as_many_coils_stay_as_the_noise_has_independent_parts():
    whitening = whitening_without_dependent_coils(random_covariance(8, 3).astype(np.complex64))
    assert whitening.matrix.shape == (3, 8)
    assert len(whitening.left_out) == 5


@pytest.mark.parametrize("covariance", [np.zeros((3, 3)), np.full((2, 2), np.nan)], ids=["zeros", "NaN"])
def test_a_covariance_without_noise_is_refused(covariance):
    with pytest.raises(ValueError, match="zero or not finite"):
        whitening_without_dependent_coils(covariance)


def test_the_scan_s_own_covariance_leaves_coils_of_equal_noise_as_they_are():
    whitening = whitening_without_dependent_coils(measure_noise(scan(0.05)).covariance)
    assert whitening.left_out == ()
    np.testing.assert_allclose(whitening.matrix * 0.05, np.eye(6), atol=0.05)


def test_the_scan_s_own_covariance_whitens_unequal_and_correlated_coils():
    mixing = np.eye(6, dtype=complex)
    mixing[0, 0], mixing[3, 1] = 10, 0.5j
    kspace = scan(0.02, mixing)
    whitening = whitening_without_dependent_coils(measure_noise(kspace).covariance)
    white = whitening.matrix @ (2 * 0.02**2 * mixing @ mixing.conj().T) @ whitening.matrix.conj().T
    np.testing.assert_allclose(white, 2 * np.eye(6), atol=0.5)
    assert estimate_noise(mix_coils(whitening.matrix, kspace)) == pytest.approx(1, rel=0.1)


def test_dead_and_doubled_coils_of_a_scan_are_left_out():
    kspace = scan()
    kspace[2] = 0
    kspace[4] = kspace[5] * 2
    whitening = whitening_without_dependent_coils(measure_noise(kspace).covariance)
    assert whitening.left_out in ((2, 4), (2, 5))
    assert mix_coils(whitening.matrix, kspace).dtype == np.complex64
