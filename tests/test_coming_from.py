"""What docs/coming-from.md says of BART's commands and SigPy's calls, done by both."""

import re
from pathlib import Path

import numpy as np
import pytest

from bart_tool import bart, needs_bart
from sbim_deploy.experiment.peers import pics
from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.combine import normalise_maps, root_sum_of_squares
from sbim_deploy.mri.compression import compression_matrix
from sbim_deploy.mri.espirit import espirit_maps
from sbim_deploy.mri.fourier import centre_crop, centre_pad, centred_fft, centred_ifft
from sbim_deploy.mri.masks import line_mask, sampled_mask
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.mri.phantom import shepp_logan
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.runs.simulate import SimulateSettings, sampled_lines, simulate_slice

PAGE = Path(__file__).parents[1] / "docs" / "coming-from.md"
SHAPE = (31, 48)  # an odd and an even size
RNG = np.random.default_rng(0)


def noise(*shape):
    return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(np.complex64)


def to_bart(folder, name, array):
    """Write (coil, rows, columns) or (rows, columns) with BART's axes: read, phase, slice, coil."""
    coils = array.reshape(-1, *array.shape[-2:])
    write_cfl(folder / f"{name}.cfl", np.moveaxis(coils, 0, -1)[:, :, None, :].astype(np.complex64))


def from_bart(folder, name):
    """Read (coil, rows, columns)."""
    sizes = [int(size) for size in (folder / f"{name}.hdr").read_text().splitlines()[1].split()]
    array = np.fromfile(folder / f"{name}.cfl", np.complex64).reshape(sizes, order="F")
    rows, columns, slices, coils = (*sizes, 1, 1, 1)[:4]
    assert slices == 1
    return np.moveaxis(array.reshape(rows, columns, coils, order="F"), -1, 0)


def distance(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def angle(maps, others):
    """The cosine of the angle between the maps of each pixel: maps have a free phase."""
    return np.abs(np.sum(maps.conj() * others, axis=0))


@pytest.fixture(scope="module")
def scan():
    """A head at R = 2, with its maps and mask."""
    settings = SimulateSettings(n_slices=1, n_coils=4, size=64, acceleration=2, noise=0.002)
    mask = sampled_lines(settings)
    return simulate_slice(settings, mask, 0), mask


# BART


def test_bart_fft_with_u_is_the_transform_here(tmp_path):
    image = noise(2, *SHAPE)
    to_bart(tmp_path, "image", image)
    bart(tmp_path, "fft", "-u", 3, "image", "kspace")
    assert distance(from_bart(tmp_path, "kspace"), centred_fft(image)) < 1e-6
    bart(tmp_path, "fft", "-u", "-i", 3, "kspace", "back")
    assert distance(from_bart(tmp_path, "back"), image) < 1e-6


def test_bart_fft_without_u_is_larger_by_the_root_of_the_pixels(tmp_path):
    image = noise(1, *SHAPE)
    to_bart(tmp_path, "image", image)
    bart(tmp_path, "fft", 3, "image", "kspace")
    assert distance(from_bart(tmp_path, "kspace"), centred_fft(image) * np.sqrt(np.prod(SHAPE))) < 1e-6


def test_bart_rss_pattern_and_resize(tmp_path):
    coils = noise(3, *SHAPE)
    coils[:, :, 1::3] = 0
    to_bart(tmp_path, "coils", coils)
    bart(tmp_path, "rss", 8, "coils", "rss")
    assert distance(from_bart(tmp_path, "rss")[0], root_sum_of_squares(coils)) < 1e-6
    bart(tmp_path, "pattern", "coils", "pattern")
    assert np.array_equal(from_bart(tmp_path, "pattern")[0] != 0, np.broadcast_to(sampled_mask(coils), SHAPE))
    for side in (20, 61):
        bart(tmp_path, "resize", "-c", 0, side, 1, side, "coils", "resized")
        resized = centre_crop if side == 20 else centre_pad
        assert np.array_equal(from_bart(tmp_path, "resized"), resized(coils, (side, side)))


def test_bart_nrmse_is_nrmse(tmp_path):
    reference, image = np.abs(noise(*SHAPE)), np.abs(noise(*SHAPE))
    to_bart(tmp_path, "reference", reference)
    to_bart(tmp_path, "image", image)
    printed = bart(tmp_path, "nrmse", "reference", "image")
    assert float(printed) == pytest.approx(nrmse(image, reference), rel=1e-5)


def test_bart_ecalib_gives_the_maps_of_espirit(tmp_path, scan):
    fully, _ = scan
    kspace = centred_fft(fully.reference * fully.maps)
    to_bart(tmp_path, "kspace", kspace)
    bart(tmp_path, "ecalib", "-m", 1, "-c", 0, "kspace", "maps")
    block = centre_crop(kspace, (24, 24))
    inside = np.abs(fully.reference) > 0.1
    assert (
        np.min(angle(normalise_maps(from_bart(tmp_path, "maps")), espirit_maps(block, (64, 64)))[inside])
        > 0.999
    )


def test_bart_cc_keeps_the_same_coils(tmp_path):
    mixing = noise(8, 3)  # eight coils that see what three would
    kspace = np.einsum("vc,cyx->vyx", mixing, noise(3, 24, 24)) + 0.01 * noise(8, 24, 24)
    to_bart(tmp_path, "kspace", kspace)
    bart(tmp_path, "cc", "-p", 3, "-A", "-S", "kspace", "compressed")
    here = np.einsum("vc,cyx->vyx", compression_matrix(kspace, 3), kspace)
    assert np.linalg.norm(here) == pytest.approx(np.linalg.norm(from_bart(tmp_path, "compressed")), rel=1e-4)


@needs_bart
def test_bart_pics_with_l2_is_cg_sense(scan):
    slice_, mask = scan
    problem = prepare_slice(slice_.kspace, 0, mask, slice_.maps, noise=0.002)
    image, _ = classical_image(problem, Classical.CG_SENSE)  # which takes 12 steps
    assert distance(pics(problem, ("-l2", "-r", "0.01", "-i", "100")), image) < 0.05


@needs_bart
def test_bart_pics_with_l1_is_alike_l1_wavelet(scan):
    slice_, mask = scan
    problem = prepare_slice(slice_.kspace, 0, mask, slice_.maps, noise=0.002)
    image, _ = classical_image(problem, Classical.L1_WAVELET)
    assert distance(pics(problem, ("-l1", "-r", "0.001", "-i", "100")), image) < 0.05


def test_bart_upat_equispaced_lines_without_a_centre_are_ours(tmp_path):
    bart(tmp_path, "upat", "-Y", 64, "-Z", 1, "-y", 4, "-z", 1, "-c", 0, "mask")
    lines = np.fromfile(tmp_path / "mask.cfl", np.complex64) != 0
    ours = line_mask(64, 4, calib_width=0)
    assert set(np.diff(np.flatnonzero(lines))) == set(np.diff(np.flatnonzero(ours))) == {4}


def test_bart_s_files_are_read_and_written(tmp_path, cli):
    bart(tmp_path, "phantom", "-x", 64, "-s", 4, "-k", "kspace")
    bart(tmp_path, "ecalib", "-m", 1, "kspace", "maps")
    bart(tmp_path, "pics", "-S", "-l2", "-r", 0.01, "-i", 100, "kspace", "maps", "theirs")
    files = [tmp_path / "kspace.cfl", "-o", tmp_path / "ours.cfl", "--maps", tmp_path / "maps.cfl"]
    done = cli("recon", *files, "--method", "cg-sense", "--keep-grid")
    assert done.code == 0, done.err
    assert distance(from_bart(tmp_path, "ours"), from_bart(tmp_path, "theirs")) < 0.05


# SigPy


@pytest.fixture(scope="module")
def sp():
    return pytest.importorskip("sigpy", reason="sigpy is not installed")


@pytest.fixture(scope="module")
def sp_mri(sp):
    import sigpy.mri

    return sigpy.mri


def test_sigpy_fft_is_the_transform_here(sp):
    image = noise(2, *SHAPE)
    assert distance(centred_fft(image), sp.fft(image, axes=(-2, -1))) < 1e-6
    assert distance(centred_ifft(image), sp.ifft(image, axes=(-2, -1))) < 1e-6


def test_sigpy_resize_and_rss(sp):
    coils = noise(3, *SHAPE)
    assert np.array_equal(sp.resize(coils, (3, 20, 20)), centre_crop(coils, (20, 20)))
    assert np.array_equal(sp.resize(coils, (3, 61, 60)), centre_pad(coils, (61, 60)))
    assert distance(root_sum_of_squares(coils), sp.rss(coils, axes=(0,))) < 1e-6


def test_sigpy_sense_operator_is_sense(sp_mri):
    maps, image = noise(3, *SHAPE), noise(*SHAPE)
    mask = line_mask(SHAPE[1], 3)[None]
    operator = sp_mri.linop.Sense(maps, weights=mask.astype(np.float32))
    ours = Sense(maps, mask)
    assert distance(ours.forward(image), operator * image) < 1e-6
    kspace = noise(3, *SHAPE)
    assert distance(ours.adjoint(kspace), operator.H * kspace) < 1e-6


def test_sigpy_espirit_gives_the_maps_of_espirit(sp_mri, scan):
    fully, _ = scan
    kspace = centred_fft(fully.reference * fully.maps)
    maps = sp_mri.app.EspiritCalib(kspace, crop=0, show_pbar=False).run()
    inside = np.abs(fully.reference) > 0.1
    ours = espirit_maps(centre_crop(kspace, (24, 24)), (64, 64))
    assert np.min(angle(normalise_maps(maps.astype(np.complex64)), ours)[inside]) > 0.995


def test_sigpy_sense_recon_is_cg_sense(sp_mri, scan):
    slice_, mask = scan
    problem = prepare_slice(slice_.kspace, 0, mask, slice_.maps, noise=0.002)
    image = sp_mri.app.SenseRecon(
        problem.kspace, problem.maps, lamda=0.01, max_iter=100, show_pbar=False
    ).run()
    ours, _ = classical_image(problem, Classical.CG_SENSE)
    assert distance(ours, image) < 0.05


def test_sigpy_birdcage_maps_are_other_maps_of_the_same_kind(sp_mri):
    theirs, ours = sp_mri.birdcage_maps((4, *SHAPE)), birdcage_maps(4, SHAPE)
    for maps in (theirs, ours):
        assert np.allclose(np.linalg.norm(maps, axis=0), 1, atol=1e-5)


def test_sigpy_s_shepp_logan_is_another_one(sp):
    ours, theirs = shepp_logan((64, 64)), np.abs(sp.shepp_logan((64, 64)))
    assert ours.shape == theirs.shape
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.5


# fastMRI and MRpro, by the formulas that their code states


def test_fastmri_fft2c_and_mrpro_s_operator_are_the_transform_here():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    image = noise(2, *SHAPE)
    shifted = torch.fft.ifftshift(torch.from_numpy(image), dim=(-2, -1))
    formula = torch.fft.fftshift(torch.fft.fftn(shifted, dim=(-2, -1), norm="ortho"), dim=(-2, -1))
    assert distance(centred_fft(image), formula.numpy()) < 1e-6


# The page


def test_every_row_names_the_test_that_shows_it_or_says_that_none_does():
    here = Path(__file__).read_text(encoding="utf-8")
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) >= 25
    for row in rows:
        shown = row.strip("|").split("|")[-1].strip()
        if shown in ("documented", "not run"):
            continue
        named = re.fullmatch(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", shown)
        assert named, row
        text = (PAGE.parents[1] / named[1]).read_text(encoding="utf-8") if named[1] else here
        assert f"def {named[2]}(" in text, row
