import numpy as np
import pytest
import scipy.ndimage

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.noise_level import estimate_noise, measure_noise, shrink_covariance
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase


def complex_noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]


def scan(noise=0.02, shape=(128, 128), n_coils=8, acceleration=4.0, calib_width=12, window=None, mixing=None):
    """An object's k-space with noise of a standard deviation per part, windowed and undersampled after it."""
    image = scipy.ndimage.gaussian_filter(shepp_logan(shape), 0.6) * smooth_phase(
        shape, np.random.default_rng(1)
    )
    image = image * (1 + 0.01 * np.random.default_rng(2).standard_normal(shape))  # texture fills k-space
    kspace = centred_fft(birdcage_maps(n_coils, shape) * image).astype(np.complex64)
    added = noise * complex_noise(kspace.shape)
    kspace += added if mixing is None else np.einsum("dc,cyx->dyx", mixing, added)
    if window is not None:
        kspace *= window
    return (kspace * line_mask(shape[1], acceleration, calib_width=calib_width)).astype(np.complex64)


def radii(n):
    return np.abs(np.arange(n) - n // 2) / (n / 2)


def hamming(n):
    return 0.54 + 0.46 * np.cos(np.pi * radii(n))


def fermi(n):
    return 1 / (1 + np.exp((radii(n) - 0.9) / 0.03))


def tukey(n):
    return 0.5 * (1 + np.cos(np.pi * np.clip(2 * radii(n) - 1, 0, 1)))


@pytest.mark.parametrize("noise", [0.01, 0.1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_coils": 4, "acceleration": 8, "calib_width": 8},
        {"n_coils": 32, "calib_width": 16},
        {"shape": (96, 160), "acceleration": 2, "calib_width": 24},
        {"calib_width": 4},
        {"acceleration": 1},
    ],
    ids=str,
)
def test_the_noise_of_raw_kspace_is_found_to_a_tenth(noise, options):
    assert estimate_noise(scan(noise, **options)) == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("window", [hamming, fermi, tukey])
@pytest.mark.parametrize("directions", ["rows", "columns", "both"])
def test_the_noise_of_windowed_kspace_is_that_of_its_centre(window, directions):
    weights = np.ones((128, 128))
    if directions != "columns":
        weights *= window(128)[:, None]
    if directions != "rows":
        weights *= window(128)
    assert estimate_noise(scan(0.02, window=weights)) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("rest", [0.0, 1e-9], ids=["zeros", "rounding"])
def test_zero_padding_is_not_taken_for_silence(rest):
    kspace = np.full((8, 256, 256), rest, dtype=np.complex64)
    kspace[:, 64:192, 64:192] = scan(0.02)
    assert estimate_noise(kspace) == pytest.approx(0.02, rel=0.1)


def test_the_object_at_the_edge_of_kspace_is_no_noise():
    estimate = measure_noise(scan(0.008, acceleration=2.0, calib_width=20))
    assert estimate.sd == pytest.approx(0.008, rel=0.05)
    assert estimate.source == "calibration lines"


def test_partial_fourier_and_a_mask_of_rows_change_nothing():
    kspace = scan(0.02)
    partial = kspace.copy()
    partial[:, :, 96:] = 0
    assert estimate_noise(partial) == pytest.approx(0.02, rel=0.1)
    turned = np.ascontiguousarray(kspace.swapaxes(1, 2))
    assert estimate_noise(turned) == pytest.approx(0.02, rel=0.1)


def test_a_mask_in_both_directions_has_a_calibration_block():
    kspace = scan(0.02, acceleration=1)
    mask = np.random.default_rng(0).random((128, 128)) < 0.15
    mask[52:76, 52:76] = True
    estimate = measure_noise(kspace * mask)
    assert estimate.sd == pytest.approx(0.02, rel=0.15)
    weights = hamming(128)[:, None] * hamming(128)
    assert measure_noise((kspace * weights * mask).astype(np.complex64)).sd == pytest.approx(0.02, rel=0.3)


def test_without_calibration_lines_the_noise_is_found_all_the_same():
    kspace = scan(0.02, acceleration=1)
    kspace[:, :, np.arange(128) % 4 != 1] = 0
    assert estimate_noise(kspace) == pytest.approx(0.02, rel=0.1)


def test_the_covariance_of_correlated_and_unequal_coils_is_found():
    rng = np.random.default_rng(3)
    mixing = np.eye(8) + 0.25 * (rng.standard_normal((8, 8)) + 1j * rng.standard_normal((8, 8))) / np.sqrt(2)
    mixing[2] *= 10
    truth = 2 * 0.02**2 * mixing @ mixing.conj().T
    for window in (None, fermi(128)[:, None] * fermi(128)):
        estimate = measure_noise(scan(0.02, calib_width=16, mixing=mixing, window=window))
        inverse = np.linalg.inv(np.linalg.cholesky(truth))
        values = np.linalg.eigvalsh(inverse @ estimate.covariance @ inverse.conj().T)
        assert 0.6 < np.sqrt(values[0]) <= np.sqrt(values[-1]) < 1.4
        np.testing.assert_allclose(estimate.coil_sds, np.sqrt(np.diag(truth).real / 2), rtol=0.3)


def test_the_noise_of_equal_coils_is_a_multiple_of_the_unit_matrix():
    covariance = measure_noise(scan(0.05)).covariance / (2 * 0.05**2)
    np.testing.assert_allclose(covariance, np.eye(8), atol=0.1)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_estimate_scales_with_kspace(scale):
    kspace = scan()
    expected = measure_noise(kspace).coil_sds
    scaled = measure_noise((kspace * np.float32(scale)).astype(np.complex64))
    np.testing.assert_allclose(scaled.coil_sds / scale, expected, rtol=1e-3)


def test_the_estimate_follows_a_unitary_mixing_of_the_coils():
    kspace = scan(window=hamming(128)[:, None], calib_width=16)
    rng = np.random.default_rng(4)
    unitary = np.linalg.qr(rng.standard_normal((8, 8)) + 1j * rng.standard_normal((8, 8))).Q
    mixed = np.einsum("dc,cyx->dyx", unitary, kspace).astype(np.complex64)
    assert measure_noise(mixed).sd == pytest.approx(measure_noise(kspace).sd, rel=0.02)


def test_dead_and_doubled_coils_make_the_covariance_singular_and_leave_the_others_as_they_are():
    kspace = scan()
    expected = measure_noise(kspace).covariance
    dead = np.insert(kspace, 3, 0, axis=0)
    estimate = measure_noise(dead)
    assert not estimate.covariance[3].any()
    np.testing.assert_allclose(np.delete(np.delete(estimate.covariance, 3, 0), 3, 1), expected, atol=1e-7)
    assert estimate.sd == pytest.approx(0.02, rel=0.1)
    doubled = measure_noise(np.concatenate([kspace, kspace[:1]]))
    assert np.linalg.matrix_rank(doubled.covariance, tol=1e-3 * expected[0, 0].real) == 8
    assert doubled.sd == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("n_coils", [1, 2, 8])
def test_kspace_without_noise_gives_a_small_positive_number(n_coils):
    kspace = scan(0.0, n_coils=n_coils)
    estimate = measure_noise(kspace)
    assert 1e-5 < estimate.sd < 0.05
    assert np.isfinite(estimate.covariance).all()


def test_pure_noise_is_measured_exactly_and_zeros_are_refused():
    assert estimate_noise(3 * complex_noise((8, 64, 64))) == pytest.approx(3, rel=0.03)
    assert estimate_noise(np.ones((2, 1, 4), dtype=np.complex64) * np.array([0, 0, 1, 0])) > 0
    with pytest.raises(ValueError, match="zero everywhere"):
        estimate_noise(np.zeros((2, 8, 8), dtype=np.complex64))


def test_shrinking_takes_out_chance_and_keeps_what_many_samples_say():
    samples = complex_noise((6, 60)) / np.sqrt(2)
    shrunk = shrink_covariance(samples @ samples.conj().T / 60, 60)
    np.testing.assert_allclose(shrunk, np.eye(6) * shrunk[0, 0].real, atol=0.05)
    truth = np.array([[4, 0.5], [0.5, 1]], dtype=complex)
    np.testing.assert_allclose(shrink_covariance(truth, 100000), truth, atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [16, 24])
def test_kspace_without_any_noise_in_its_windows_has_a_level_all_the_same(size):
    measured = measure_noise(np.ones((2, size, size), np.complex64), np.ones((1, size), np.bool_))
    assert np.isfinite(measured.sd)
