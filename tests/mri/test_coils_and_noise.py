import numpy as np
import pytest

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.compression import compression_matrix
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.mri.whitening import mix_coils, whitening_matrix


@pytest.mark.parametrize("n_coils", [1, 2, 8, 15, 20])
def test_birdcage_maps_are_distinct_smooth_and_of_unit_norm(n_coils):
    maps = birdcage_maps(n_coils, (32, 30))
    np.testing.assert_allclose(root_sum_of_squares(maps), 1, atol=1e-5)
    assert np.abs(np.diff(maps, axis=-1)).max() < 0.35
    overlap = np.abs(np.einsum("crk,drk->cd", maps.conj(), maps))
    norms = np.sqrt(np.diag(overlap))
    assert (overlap / np.outer(norms, norms) - np.eye(n_coils)).max() < 0.98


def correlated_noise(rng, n_coils=5, n_samples=20000):
    mixing = rng.standard_normal((n_coils, n_coils)) + 1j * rng.standard_normal((n_coils, n_coils))
    white = rng.standard_normal((n_coils, n_samples)) + 1j * rng.standard_normal((n_coils, n_samples))
    return mixing @ white


def test_whitened_noise_has_unit_variance_in_each_part_and_no_correlation():
    noise = correlated_noise(np.random.default_rng(0))
    white = mix_coils(whitening_matrix(noise), noise.reshape(5, 100, 200)).reshape(5, -1)
    np.testing.assert_allclose(white @ white.conj().T / (white.shape[1] - 1), 2 * np.eye(5), atol=1e-9)
    assert white.real.var() == pytest.approx(1, rel=0.02)


def test_whitening_scales_with_the_square_root_of_the_bandwidth_ratio():
    noise = correlated_noise(np.random.default_rng(0))
    np.testing.assert_allclose(whitening_matrix(noise, 4.0), 2 * whitening_matrix(noise), rtol=1e-12)


def test_a_dead_coil_and_too_few_samples_are_refused():
    noise = correlated_noise(np.random.default_rng(0))
    noise[3] = 0
    with pytest.raises(ValueError, match="linearly dependent"):
        whitening_matrix(noise)
    with pytest.raises(ValueError, match="4 samples for 5 coils"):
        whitening_matrix(noise[:, :4])


def test_compression_keeps_the_strongest_subspace():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((6, 2)) + 1j * rng.standard_normal((6, 2)))[0]
    kspace = np.einsum("cv,vrk->crk", basis, rng.standard_normal((2, 8, 8)) + 0j)
    matrix = compression_matrix(kspace, 2)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(2), atol=1e-12)
    compressed = mix_coils(matrix, kspace)
    assert np.linalg.norm(compressed) == pytest.approx(np.linalg.norm(kspace))
    np.testing.assert_allclose(mix_coils(matrix.conj().T, compressed), kspace, atol=1e-12)
    with pytest.raises(ValueError, match="expected 1 to 6"):
        compression_matrix(kspace, 7)


def test_shepp_logan_has_its_published_values():
    phantom = shepp_logan((256, 256))
    assert phantom[128, 128] == pytest.approx(0.2, abs=1e-6)
    assert phantom[0, 0] == 0
    assert phantom.max() == pytest.approx(1)
    # The brighter ellipse lies towards the top of the head.
    assert phantom[128 - 45, 128] == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (63, 50)])
def test_smooth_phase_is_a_smooth_unit_phasor_that_follows_its_generator(shape):
    phasor, again = (smooth_phase(shape, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(phasor, again)
    np.testing.assert_allclose(np.abs(phasor), 1, atol=1e-6)
    assert np.abs(np.angle(phasor[1:] / phasor[:-1])).max() < 0.5
    assert np.std(np.unwrap(np.angle(phasor[:, 0]))) > 0.1
