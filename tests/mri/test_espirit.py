import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray

from bart_tool import bart
from sbim_deploy.mri import espirit
from sbim_deploy.mri.espirit import espirit_map_sets, espirit_maps, needs_two_sets
from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft

Complex = NDArray[Any]


class Scan(NamedTuple):
    maps: Complex
    support: NDArray[np.bool_]
    kspace: Complex


def simulate(n_coils: int, shape: tuple[int, int], noise: float = 0.02) -> Scan:
    """A structured object seen by coils on a ring, each with the phase of the direction to it."""
    y, x = np.meshgrid(*(2 * (np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    angles = 2 * np.pi * np.arange(n_coils)[:, None, None] / n_coils
    dy, dx = y - 1.2 * np.sin(angles), x - 1.2 * np.cos(angles)
    maps = np.exp(1j * np.arctan2(dy, dx)) / np.hypot(dy, dx)
    maps /= np.linalg.norm(maps, axis=0)
    # Off the centre and unequal along the axes, so that a shift, a flip or a transposition shows.
    support = ((x - 0.1) / 0.65) ** 2 + ((y + 0.05) / 0.8) ** 2 < 1
    texture = 1 + 0.4 * np.cos(9 * x + 4 * y) * np.sin(7 * y - 3 * x) - 0.6 * ((x + 0.3) ** 2 + y**2 < 0.05)
    rng = np.random.default_rng(0)
    kspace = centred_fft(maps * support * texture * np.exp(0.8j * (x + y**2)))
    kspace += noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return Scan(maps, support, kspace.astype(np.complex64))


def agreement(a: Complex, b: Complex) -> NDArray[Any]:
    overlap: NDArray[Any] = np.abs((a.conj() * b).sum(axis=0))
    return overlap


@pytest.mark.parametrize(
    ("n_coils", "shape", "calib"),
    [
        (12, (144, 120), (24, 24)),
        (8, (121, 90), (24, 24)),
        (8, (72, 175), (24, 24)),
        (5, (65, 63), (24, 25)),
        (6, (100, 100), (20, 32)),
        (4, (30, 34), (30, 34)),
    ],
)
def test_maps_are_the_true_ones_on_the_object(
    n_coils: int, shape: tuple[int, int], calib: tuple[int, int]
) -> None:
    scan = simulate(n_coils, shape)
    maps = espirit_maps(centre_crop(scan.kspace, calib), shape)
    assert maps.shape == (n_coils, *shape)
    assert maps.dtype == np.complex64
    match = agreement(maps, scan.maps)[scan.support]
    assert match.mean() > 0.999
    assert match.min() > 0.98


@pytest.mark.parametrize("kernel_width", [3, 5, 8])
def test_kernels_of_other_widths_find_the_same_maps(kernel_width: int) -> None:
    scan = simulate(8, (100, 90))
    maps = espirit_maps(centre_crop(scan.kspace, (24, 24)), (100, 90), kernel_width=kernel_width)
    assert agreement(maps, scan.maps)[scan.support].mean() > 0.999


@pytest.mark.parametrize("threshold", [1e-6, 1e-4, 0.01])
def test_noiseless_calibration_allows_any_threshold(threshold: float) -> None:
    scan = simulate(8, (100, 90), noise=0)
    maps = espirit_maps(centre_crop(scan.kspace, (24, 24)), (100, 90), threshold=threshold)
    assert agreement(maps, scan.maps)[scan.support].mean() > 0.998


@pytest.mark.parametrize("shape", [(96, 80), (91, 75)])
def test_coarse_grid_gives_the_maps_of_the_full_grid(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = simulate(8, shape)
    calibration = centre_crop(scan.kspace, (24, 24))
    maps = espirit_maps(calibration, shape, kernel_width=4)
    monkeypatch.setattr(espirit, "GRID_POINTS_PER_KERNEL_SAMPLE", max(shape))
    full = espirit_maps(calibration, shape, kernel_width=4)
    np.testing.assert_allclose(maps[:, scan.support], full[:, scan.support], atol=1e-3)
    assert agreement(maps, full).mean() > 0.995


def test_every_pixel_has_unit_norm() -> None:
    scan = simulate(8, (110, 91))
    maps = espirit_maps(centre_crop(scan.kspace, (24, 24)), (110, 91))
    np.testing.assert_allclose(np.linalg.norm(maps, axis=0), 1, atol=1e-5)


def test_crop_zeroes_the_background_and_leaves_the_object() -> None:
    scan = simulate(8, (96, 84))
    calibration = centre_crop(scan.kspace, (24, 24))
    cropped, whole = (espirit_maps(calibration, (96, 84), crop=crop) for crop in (0.9, 0.0))
    kept = np.linalg.norm(cropped, axis=0) > 0
    assert kept[scan.support].all()
    assert kept[~scan.support].mean() < 0.35
    assert not kept[[0, -1]].any()
    np.testing.assert_array_equal(cropped[:, kept], whole[:, kept])


def test_phase_is_smooth_and_that_of_the_principal_coil() -> None:
    scan = simulate(8, (96, 84))
    calibration = centre_crop(scan.kspace, (24, 24))
    maps = espirit_maps(calibration, (96, 84))
    left, _, _ = np.linalg.svd(calibration.reshape(8, -1), full_matrices=False)
    principal = np.einsum("c,cyx->yx", left[:, 0].conj(), maps)[scan.support]
    phase = np.angle(principal * principal[0].conj())
    assert np.abs(phase).max() < 0.01
    step = np.linalg.norm(np.diff(maps, axis=1), axis=0)[scan.support[1:] & scan.support[:-1]]
    assert step.max() < 0.1


@pytest.mark.parametrize("calib", [(96, 24), (24, 96)])
def test_long_readout_counts_only_at_its_centre(calib: tuple[int, int]) -> None:
    scan = simulate(8, (96, 96))
    expected = espirit_maps(centre_crop(scan.kspace, (24, 24)), (96, 96))
    maps = espirit_maps(centre_crop(scan.kspace, calib), (96, 96))
    np.testing.assert_allclose(maps[:, scan.support], expected[:, scan.support], atol=1e-4)


def test_all_of_kspace_gives_the_maps_of_its_centre() -> None:
    # The noise of 128 x 128 samples would pass for signal, and leave no null space.
    scan = simulate(8, (128, 128), noise=0.05)
    maps = espirit_maps(scan.kspace, (128, 128))
    assert agreement(maps, scan.maps)[scan.support].mean() > 0.999
    np.testing.assert_array_equal(maps, espirit_maps(centre_crop(scan.kspace, (24, 24)), (128, 128)))


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_unit_of_the_samples_does_not_matter(unit: float) -> None:
    scan = simulate(4, (64, 64))
    calibration = centre_crop(scan.kspace, (24, 24))
    maps = espirit_maps((calibration * unit).astype(np.complex64), (64, 64))
    expected = espirit_maps(calibration, (64, 64))
    np.testing.assert_allclose(maps[:, scan.support], expected[:, scan.support], atol=1e-3)


def test_one_coil_sees_everything() -> None:
    scan = simulate(1, (48, 47))
    maps = espirit_maps(centre_crop(scan.kspace, (24, 24)), (48, 47))
    np.testing.assert_allclose(maps, 1, atol=1e-4)


def test_calibration_is_left_as_it_was() -> None:
    calibration = centre_crop(simulate(4, (64, 64)).kspace, (24, 24)).copy()
    calibration.setflags(write=False)
    espirit_maps(calibration, (64, 64))


def write_cfl(path: Path, array: Complex) -> None:
    sizes = " ".join(map(str, (*array.shape, *[1] * (16 - array.ndim))))
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{sizes}\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read_cfl(path: Path) -> Complex:
    sizes = [int(size) for size in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(sizes, order="F")


@pytest.mark.parametrize("shape", [(96, 80), (75, 90)])
@pytest.mark.parametrize("threshold", [0.001, 0.01])
def test_maps_are_those_of_bart(shape: tuple[int, int], threshold: float, tmp_path: Path) -> None:
    bart = shutil.which("bart")
    if bart is None:
        pytest.skip("bart is not on PATH")
    scan = simulate(8, shape)
    write_cfl(tmp_path / "kspace", scan.kspace.transpose(1, 2, 0)[:, :, None])
    options = ["-m1", "-r24", "-c0.9", f"-t{threshold}"]
    subprocess.run(
        [bart, "ecalib", *options, "kspace", "maps"], cwd=tmp_path, check=True, capture_output=True
    )
    expected = read_cfl(tmp_path / "maps").reshape(*shape, 8).transpose(2, 0, 1)
    maps = espirit_maps(centre_crop(scan.kspace, (24, 24)), shape, threshold=threshold, crop=0.9)
    kept = np.linalg.norm(expected, axis=0) > 0
    assert (kept == (np.linalg.norm(maps, axis=0) > 0)).mean() > 0.99
    kept &= scan.support
    assert kept.sum() > 0.9 * scan.support.sum()
    assert agreement(maps, expected)[kept].mean() > 0.999
    # The common phase is BART's choice; the phase from pixel to pixel is the same.
    rotation = np.vdot(expected[:, kept], maps[:, kept])
    assert abs(rotation) > 0.998 * kept.sum()


@pytest.mark.parametrize(
    ("calibration", "options", "message"),
    [
        (np.ones((2, 24, 5)), {}, r"calibration: got 24 x 5 samples, expected the kernel's 6 x 6 or more"),
        (np.ones((24, 24)), {}, r"calibration: got shape \(24, 24\), expected \(coil, ky, kx\)"),
        (np.ones((0, 24, 24)), {}, r"calibration: got shape \(0, 24, 24\)"),
        (np.full((2, 24, 24), np.nan), {}, "calibration: got NaN or infinite samples"),
        (np.zeros((2, 24, 24)), {}, "calibration: got zeros only"),
        (np.ones((2, 24, 24)), {"shape": (0, 32)}, r"shape: got \(0, 32\)"),
        (np.ones((2, 24, 24)), {"kernel_width": 0}, "kernel_width: got 0"),
        (np.ones((2, 24, 24)), {"threshold": 0.0}, r"threshold: got 0\.0"),
        (np.ones((2, 24, 24)), {"crop": float("nan")}, "crop: got nan"),
    ],
)
def test_faults_are_told_in_one_line(
    calibration: NDArray[np.float64], options: dict[str, Any], message: str
) -> None:
    arguments = {"shape": (32, 32), **options}
    with pytest.raises(ValueError, match=message) as caught:
        espirit_maps(calibration.astype(np.complex64), **arguments)
    assert "\n" not in str(caught.value)


def fold(n_coils: int, width: int, noise: float = 0.02) -> Scan:
    """Return a scan whose field of view holds ``width`` of the 120 columns; ``support`` is where it folds."""
    scan = simulate(n_coils, (96, 120), noise=0)
    coil_images = centred_ifft(scan.kspace)
    padded = np.pad(coil_images, ((0, 0), (0, 0), (120, 120)))
    object_padded = np.pad(scan.support, ((0, 0), (120, 120)))
    first = 120 + 60 - width // 2
    windows = [np.s_[..., first + shift : first + shift + width] for shift in (-width, 0, width)]
    rng = np.random.default_rng(1)
    kspace = centred_fft(sum(padded[window] for window in windows))
    kspace += noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    folds = sum(object_padded[window].astype(int) for window in windows) > 1
    return Scan(scan.maps, folds, kspace.astype(np.complex64))


def unexplained(maps: Complex, kspace: Complex) -> float:
    """Return the share of the coil images that no image in each set explains."""
    coil_images = centred_ifft(kspace)
    images = np.einsum("scyx,cyx->syx", maps.conj(), coil_images)
    explained = np.einsum("scyx,syx->cyx", maps, images)
    return float(np.linalg.norm(coil_images - explained) / np.linalg.norm(coil_images))


@pytest.mark.parametrize("width", [60, 71])
def test_two_sets_explain_an_object_that_folds_over(width: int) -> None:
    scan = fold(8, width, noise=0)
    sets = espirit_map_sets(centre_crop(scan.kspace, (24, 24)), (96, width))
    assert sets.shape == (2, 8, 96, width)
    assert sets.dtype == np.complex64
    assert unexplained(sets, scan.kspace) < 0.05
    assert unexplained(sets[:1], scan.kspace) > 4 * unexplained(sets, scan.kspace)
    overlap = np.abs(np.einsum("cyx,cyx->yx", sets[0].conj(), sets[1]))
    assert overlap.max() < 0.05


def test_the_second_set_is_there_where_the_object_folds_and_zero_elsewhere() -> None:
    scan = fold(8, 60)
    sets = espirit_map_sets(centre_crop(scan.kspace, (24, 24)), (96, 60), noise=0.02)
    np.testing.assert_allclose(np.linalg.norm(sets[0], axis=0), 1, atol=1e-5)
    second = np.linalg.norm(sets[1], axis=0)
    assert np.all((second == 0) | (np.abs(second - 1) < 1e-5))
    assert (second > 0)[scipy.ndimage.binary_erosion(scan.support, iterations=2)].mean() > 0.9
    assert (second > 0)[~scipy.ndimage.binary_dilation(scan.support, iterations=5)].mean() < 0.02


def test_two_sets_are_those_of_bart(tmp_path: Path) -> None:
    scan = fold(8, 70)
    write_cfl(tmp_path / "kspace", scan.kspace.transpose(1, 2, 0)[:, :, None])
    bart(tmp_path, "ecalib", "-m2", "-r24", "kspace", "maps")
    expected = read_cfl(tmp_path / "maps").reshape(96, 70, 8, 2).transpose(3, 2, 0, 1)
    sets = espirit_map_sets(centre_crop(scan.kspace, (24, 24)), (96, 70))
    got, wanted = (np.linalg.norm(each[1], axis=0) > 0 for each in (sets, expected))
    assert (got == wanted).mean() > 0.99
    both = got & wanted
    assert both.sum() > 0.8 * scan.support.sum()
    # The two vectors of a pixel are any two of the plane that they span: the planes are the same.
    overlaps = np.einsum("scyx,tcyx->styx", expected.conj(), sets)[:, :, both]
    assert (np.abs(overlaps) ** 2).sum(axis=(0, 1)).min() > 1.99


@pytest.mark.parametrize("n_coils", [2, 4, 12])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.15])
def test_one_set_will_do_within_the_field_of_view(n_coils: int, noise: float) -> None:
    scan = simulate(n_coils, (96, 84), noise)
    assert not needs_two_sets(centre_crop(scan.kspace, (24, 24)), noise=noise)


@pytest.mark.parametrize("n_coils", [4, 12])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.15])
def test_an_object_that_folds_over_needs_two_sets(n_coils: int, noise: float) -> None:
    scan = fold(n_coils, 66, noise)
    assert needs_two_sets(centre_crop(scan.kspace, (24, 24)), noise=noise)


def test_one_coil_has_no_second_set() -> None:
    calibration = centre_crop(fold(1, 66).kspace, (24, 24))
    assert not needs_two_sets(calibration)
    with pytest.raises(ValueError, match="calibration: got 1 coil, expected 2 or more for two sets of maps"):
        espirit_map_sets(calibration, (96, 66))
