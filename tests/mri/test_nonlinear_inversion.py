from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from bart_tool import bart
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.combine import normalise_maps, root_sum_of_squares
from sbim_deploy.mri.espirit import espirit_maps
from sbim_deploy.mri.fourier import centre_crop, centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.nonlinear_inversion import JointModel, nonlinear_inversion_maps
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.records import BoolArray, ComplexArray


class Scan(NamedTuple):
    maps: ComplexArray
    image: ComplexArray
    kspace: ComplexArray


def simulate(n_coils: int, shape: tuple[int, int], noise: float = 0.01) -> Scan:
    """A structured object with a phase of its own, seen by coils on a ring."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(*(2 * (np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    # Off the centre and unequal along the axes, so that a shift, a flip or a transposition shows.
    support = ((x - 0.1) / 0.65) ** 2 + ((y + 0.05) / 0.8) ** 2 < 1
    texture = 1 + 0.4 * np.cos(9 * x + 4 * y) * np.sin(7 * y - 3 * x) - 0.6 * ((x + 0.3) ** 2 + y**2 < 0.05)
    image = (support * texture * smooth_phase(shape, rng)).astype(np.complex64)
    maps = birdcage_maps(n_coils, shape)
    kspace = centred_fft(maps * image)
    kspace += noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return Scan(maps, image, kspace)


def unexplained(maps: ComplexArray, scan: Scan) -> float:
    """The share of the coils' images that maps of unit norm cannot give, whatever the image is."""
    coil_images = scan.maps * scan.image
    rest = coil_images - maps * (maps.conj() * coil_images).sum(axis=0)
    return float(np.linalg.norm(rest) / np.linalg.norm(coil_images))


def centre_block(shape: tuple[int, int], share: float, side: int) -> BoolArray:
    """A random mask in both directions with a block in the centre."""
    mask = np.random.default_rng(1).random(shape) < share
    centre_crop(mask, (side, side))[:] = True
    return mask


def random_complex(rng: np.random.Generator, *shape: int) -> ComplexArray:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("shape", [(9, 14), (31, 27)])
@pytest.mark.parametrize("both", [False, True])
class TestJointModel:
    def model(self, shape: tuple[int, int], both: bool) -> tuple[JointModel, np.random.Generator]:
        rng = np.random.default_rng(2)
        model = JointModel(rng.random(shape if both else (1, shape[1])) < 0.5, 3, shape)
        model.measure(random_complex(rng, model.size))
        return model, rng

    def test_the_adjoint_is_that_of_the_derivative(self, shape, both):
        model, rng = self.model(shape, both)
        change = random_complex(rng, model.size)
        measured = model.derivative(change)
        kspace = random_complex(rng, 3, *shape) * (measured != 0)
        expected = np.vdot(measured, kspace)
        np.testing.assert_allclose(np.vdot(change, model.adjoint(kspace)), expected, rtol=1e-4)

    def test_the_derivative_is_the_limit_of_differences(self, shape, both):
        model, rng = self.model(shape, both)
        point, change = random_complex(rng, model.size), random_complex(rng, model.size)
        # F is bilinear: the central difference of any step is exact.
        difference = (model.measure(point + change) - model.measure(point - change)) / 2
        model.measure(point)
        np.testing.assert_allclose(model.derivative(change), difference, atol=1e-4)


@pytest.mark.parametrize(("n_coils", "shape"), [(8, (96, 80)), (6, (75, 91)), (20, (72, 72))])
@pytest.mark.parametrize(("acceleration", "width", "limit"), [(4, 4, 0.03), (2, 10, 0.01)])
def test_maps_explain_the_coils_images(n_coils, shape, acceleration, width, limit):
    scan = simulate(n_coils, shape)
    mask = line_mask(shape[1], acceleration, calib_width=width)[None]
    maps = nonlinear_inversion_maps(scan.kspace * mask, mask)
    assert maps.shape == (n_coils, *shape)
    assert maps.dtype == np.complex64
    assert unexplained(maps, scan) < limit


def test_five_lines_are_enough_where_a_calibration_matrix_needs_more():
    scan = simulate(8, (96, 96))
    mask = line_mask(96, 8, calib_width=5)[None]
    maps = nonlinear_inversion_maps(scan.kspace * mask, mask)
    from_centre = espirit_maps(centre_crop(scan.kspace, (96, 5)), (96, 96), kernel_width=3)
    assert unexplained(maps, scan) < 0.5 * unexplained(from_centre, scan)


def test_no_calibration_lines_are_needed_where_sampling_is_irregular():
    scan = simulate(8, (96, 96))
    mask = np.random.default_rng(3).random((96, 96)) < 0.5
    assert unexplained(nonlinear_inversion_maps(scan.kspace * mask, mask), scan) < 0.1


@pytest.mark.parametrize("shape", [(80, 72), (61, 75)])
def test_masks_in_both_directions(shape):
    scan = simulate(8, shape)
    mask = centre_block(shape, 0.2, 8)
    assert unexplained(nonlinear_inversion_maps(scan.kspace * mask, mask), scan) < 0.015


def test_a_mask_of_lines_may_be_written_in_full():
    scan = simulate(4, (48, 50))
    mask = line_mask(50, 3, calib_width=8)[None]
    full = np.broadcast_to(mask, (48, 50))
    maps, expected = (nonlinear_inversion_maps(scan.kspace * mask, m) for m in (full, mask))
    inside = np.abs(scan.image) > 0
    np.testing.assert_allclose(maps[:, inside], expected[:, inside], atol=0.01)


def test_rows_and_columns_are_treated_alike():
    scan = simulate(4, (56, 48))
    mask = line_mask(56, 3, calib_width=6)[:, None]
    maps = nonlinear_inversion_maps(scan.kspace * mask, mask)
    swapped = nonlinear_inversion_maps((scan.kspace * mask).swapaxes(1, 2).copy(), mask.T)
    np.testing.assert_allclose(maps, swapped.swapaxes(1, 2), atol=1e-4)
    assert unexplained(maps, scan) < 0.02


def test_every_pixel_has_unit_norm_and_maps_are_smooth():
    scan = simulate(8, (80, 80))
    mask = line_mask(80, 4, calib_width=8)[None]
    maps = nonlinear_inversion_maps(scan.kspace * mask, mask)
    np.testing.assert_allclose(root_sum_of_squares(maps), 1, atol=1e-5)
    inside = np.abs(scan.image) > 0
    step = np.linalg.norm(np.diff(maps, axis=1), axis=0)[inside[1:] & inside[:-1]]
    assert step.max() < 0.15


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_the_samples_does_not_matter(unit):
    scan = simulate(4, (64, 64))
    mask = line_mask(64, 4, calib_width=6)[None]
    expected = nonlinear_inversion_maps(scan.kspace * mask, mask)
    maps = nonlinear_inversion_maps((scan.kspace * mask * unit).astype(np.complex64), mask)
    inside = np.abs(scan.image) > 0
    np.testing.assert_allclose(maps[:, inside], expected[:, inside], atol=2e-3)


def test_the_same_samples_give_the_same_maps_and_are_left_as_they_were():
    scan = simulate(4, (48, 48))
    mask = line_mask(48, 4, calib_width=6)[None]
    kspace = scan.kspace * mask
    kspace.setflags(write=False)
    first, again = (nonlinear_inversion_maps(kspace, mask) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_dead_coil_has_no_map_and_does_not_harm_the_others():
    scan = simulate(8, (64, 64))
    mask = line_mask(64, 4, calib_width=8)[None]
    kspace = scan.kspace * mask
    kspace[3] = 0
    scan.maps[3] = 0
    maps = nonlinear_inversion_maps(kspace, mask)
    assert np.abs(maps[3]).max() < 1e-4
    assert unexplained(maps, scan) < 0.015


def test_one_coil_sees_everything():
    scan = simulate(1, (48, 47))
    mask = line_mask(47, 2, calib_width=12)[None]
    maps = nonlinear_inversion_maps(scan.kspace * mask, mask)
    np.testing.assert_allclose(np.abs(maps), 1, atol=1e-5)


def test_maps_are_as_good_as_those_of_bart(tmp_path: Path):
    scan = simulate(8, (96, 96))
    mask = line_mask(96, 6, calib_width=6)[None]
    kspace = (scan.kspace * mask).transpose(1, 2, 0)[:, :, None]
    (tmp_path / "kspace.hdr").write_text("# Dimensions\n96 96 1 8" + 12 * " 1" + "\n")
    kspace.ravel(order="F").tofile(tmp_path / "kspace.cfl")
    bart(tmp_path, "nlinv", "-S", "-i", 10, "-a", 220, "-b", 16, "kspace", "image", "maps")
    theirs = np.fromfile(tmp_path / "maps.cfl", np.complex64).reshape((96, 96, 8), order="F")
    expected = unexplained(normalise_maps(theirs.transpose(2, 0, 1).copy()), scan)
    assert unexplained(nonlinear_inversion_maps(scan.kspace * mask, mask), scan) < expected < 0.1


@pytest.mark.parametrize(
    ("kspace", "mask", "message"),
    [
        (np.ones((8, 8)), np.ones((1, 8)), r"k-space: got shape \(8, 8\), expected \(coil, rows, columns\)"),
        (np.ones((0, 8, 8)), np.ones((1, 8)), r"k-space: got shape \(0, 8, 8\)"),
        (np.ones((2, 8, 9)), np.ones((1, 8)), r"mask: got shape \(1, 8\), expected \(1, 9\)"),
        (np.ones((2, 8, 8)), np.ones(8), r"mask: got shape \(8,\), expected"),
        (np.full((2, 8, 8), np.inf), np.ones((1, 8)), "k-space: got NaN or infinite samples"),
        (np.zeros((2, 8, 8)), np.ones((1, 8)), "k-space: got zeros only in its 8 x 8 centre"),
        (np.ones((2, 8, 8)), np.zeros((1, 8)), "k-space: got zeros only"),
    ],
)
def test_faults_are_told_in_one_line(kspace, mask, message):
    with pytest.raises(ValueError, match=message) as caught:
        nonlinear_inversion_maps(kspace.astype(np.complex64), mask.astype(bool))
    assert "\n" not in str(caught.value)
