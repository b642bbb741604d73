import numpy as np
import pytest

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centred_fft
from sbim_deploy.mri.map_choice import AUTO, BOTH, ESPIRIT, NLINV, ONES, espirit_kernel_width, estimate_maps
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase

SHAPE = (96, 96)


def simulate(cycles=0.0):
    """A head seen by a ring of coils, each with a linear phase of so many cycles over the field of view."""
    rng = np.random.default_rng(0)
    y, x = (np.arange(n) / n for n in SHAPE)
    angles = rng.uniform(0, 2 * np.pi, 8)[:, None, None]
    phase = np.exp(2j * np.pi * cycles * (np.cos(angles) * x + np.sin(angles) * y[:, None]))
    maps = (birdcage_maps(8, SHAPE) * phase).astype(np.complex64)
    image = (0.3 + shepp_logan(SHAPE)) * (shepp_logan(SHAPE) > 0) * smooth_phase(SHAPE, rng)
    kspace = centred_fft(maps * image)
    kspace += 0.01 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return maps, image, kspace.astype(np.complex64)


def unexplained(maps, true_maps, image):
    coil_images = true_maps * image
    rest = coil_images - maps * (maps.conj() * coil_images).sum(axis=0)
    return np.linalg.norm(rest) / np.linalg.norm(coil_images)


@pytest.mark.parametrize(("acceleration", "width"), [(8, 5), (4, 4), (4, 10), (2, 24)])
def test_smooth_maps_come_from_all_samples(acceleration, width):
    true_maps, image, kspace = simulate()
    mask = line_mask(96, acceleration, calib_width=width)[None]
    estimate = estimate_maps(kspace * mask, mask)
    assert estimate.method == (NLINV if width < 8 else BOTH)
    assert unexplained(estimate.maps, true_maps, image) < 0.05
    norm = root_sum_of_squares(estimate.maps)
    assert (norm[np.abs(image) > 0] > 0).all()
    assert not norm.all()
    np.testing.assert_allclose(norm[norm > 0], 1, atol=1e-5)


def test_maps_too_rough_for_the_inversion_come_from_the_calibration_lines():
    true_maps, image, kspace = simulate(cycles=3)
    mask = line_mask(96, 2, calib_width=24)[None]
    estimate = estimate_maps(kspace * mask, mask)
    assert estimate.method == ESPIRIT
    assert unexplained(estimate.maps, true_maps, image) < 0.03


def test_a_calibration_block_in_both_directions_is_found():
    kspace = simulate(cycles=3)[2]
    mask = np.random.default_rng(1).random(SHAPE) < 0.3
    centre_crop(mask, (24, 24))[:] = True
    assert estimate_maps(kspace * mask, mask).method == ESPIRIT
    assert estimate_maps(simulate()[2] * mask, mask).method == BOTH


def test_the_choice_is_the_same_in_every_run():
    kspace = simulate()[2]
    mask = line_mask(96, 4, calib_width=10)[None]
    first, again = (estimate_maps(kspace * mask, mask) for _ in range(2))
    np.testing.assert_array_equal(first.maps, again.maps)
    assert first.method == again.method


@pytest.mark.parametrize(("acceleration", "width"), [(4, 10), (3, 12), (6, 16)])
def test_the_mean_of_two_estimates_that_explain_the_samples_alike_is_nearer_than_either(acceleration, width):
    true_maps, image, kspace = simulate()
    mask = line_mask(96, acceleration, calib_width=width)[None]
    errors = {
        method: unexplained(estimate_maps(kspace * mask, mask, method).maps, true_maps, image)
        for method in (AUTO, NLINV, ESPIRIT)
    }
    assert estimate_maps(kspace * mask, mask).method == BOTH
    assert errors[AUTO] < min(errors[NLINV], errors[ESPIRIT])


@pytest.mark.parametrize("method", [AUTO, NLINV, ESPIRIT])
def test_a_coil_that_measured_zeros_has_a_map_of_zeros(method):
    kspace = simulate()[2]
    kspace[3] = 0
    mask = line_mask(96, 2, calib_width=24)[None]
    maps = estimate_maps(kspace * mask, mask, method).maps
    assert not maps[3].any()
    assert maps[2].any()


def test_a_slice_without_signal_is_refused():
    mask = line_mask(32, 2, calib_width=10)[None]
    with pytest.raises(ValueError, match="zeros only"):
        estimate_maps(np.zeros((2, 32, 32), np.complex64), mask)


@pytest.mark.parametrize(("lines", "width"), [(4, 3), (8, 4), (12, 6), (200, 6)])
def test_kernels_are_half_as_wide_as_few_calibration_lines(lines, width):
    assert espirit_kernel_width(lines) == width


def test_the_map_of_a_single_coil_without_calibration_lines_is_1():
    kspace = simulate()[2][:1]
    lattice = (np.arange(96) % 3 == 0)[None]
    for mask in (lattice, np.random.default_rng(0).random(SHAPE) < 0.3):
        for method in (AUTO, ESPIRIT, NLINV):
            estimate = estimate_maps(kspace * mask, mask, method)
            assert estimate.method == ONES
            np.testing.assert_array_equal(estimate.maps, np.ones((1, *SHAPE)))
    with pytest.raises(ValueError, match="calibration lines"):
        estimate_maps(simulate()[2][:2] * lattice, lattice)
    assert estimate_maps(kspace, np.ones((1, 96), bool)).method != ONES
