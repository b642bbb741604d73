"""Maps that are given with a file: they are those of its coils, whatever whitens these when they are read."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.fourier import turned
from sbim_deploy.recon.classical import Classical
from sbim_deploy.recon.prepare import GIVEN
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate import SimulateSettings
from sbim_deploy.runs.simulate_mrd import simulate_mrd
from simulated_mrd import make_scan, write_mrd
from stack_scans import make_stack, stack_scan
from volume_scans import make_volume, plane_mask, write_mrd_volume

CG_SENSE = ReconSettings(method=Classical.CG_SENSE)
# Coils that hear each other, of gains from 0.5 to 2.
MIXING = np.diag([0.5, 2.0, 1.0, 1.2]) @ (
    np.eye(4) + 0.3 * np.tril(np.exp(1j * np.arange(16.0).reshape(4, 4)), -1)
)


@pytest.fixture
def simulated(tmp_path):
    """Return what simulates raw data with their truth and maps, at R = 2 and 2 % of noise, and the path."""

    def simulate(**changes):
        settings = SimulateSettings(n_slices=1, n_coils=4, size=64, acceleration=2.0, noise=0.02)
        simulate_mrd(tmp_path / "scan.h5", replace(settings, **changes))
        return tmp_path / "scan.h5"

    return simulate


def mix_readouts(path, mixing):
    """Mix the coils of all readouts of a file, image and noise."""
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        for place, data in enumerate(table["data"]):
            samples = data.view(np.complex64).reshape(len(mixing), -1)
            table["data"][place] = (mixing @ samples).astype(np.complex64).view(np.float32).ravel()
        file["dataset/data"][:] = table


def write_maps(path, maps):
    with h5py.File(path, "w") as file:
        file["s_maps"] = maps.astype(np.complex64)
    return path


def mixed_maps(maps, mixing):
    """Return the maps (slice, coil, rows, columns) of mixed coils, and what they make of an image."""
    mixed = np.einsum("dc,scij->sdij", mixing, maps)
    return mixed, np.linalg.norm(mixed, axis=1)


def median_noise(mixing):
    """Return the median of the noise of coils that are mixed by a matrix from coils whose noise is 1."""
    return np.median(np.linalg.norm(mixing, axis=1))


def reconstruct(path, settings, **changes):
    """Return the magnitudes of the images, the notes of the slices and their residuals."""
    out = path.with_name("out.h5")
    reconstruct_file(path, out, replace(settings, force=True, **changes))
    with open_result(out) as result:
        images = np.stack([np.abs(result.read_image(i)) for i in range(result.n_slices)])
        return images, result.provenance.slice_notes.values(), result.residual


def error(images, truth):
    return np.linalg.norm(images - np.abs(truth)) / np.linalg.norm(truth)


def truth_of(path):
    with h5py.File(path) as file:
        return file["reference"][:], file["s_maps"][:]


@pytest.mark.parametrize("trajectory", [None, "golden"])
def test_maps_of_the_coils_as_the_file_holds_them_fit_the_whitened_ones(simulated, trajectory):
    if trajectory is not None:
        pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
    path = simulated(trajectory=trajectory)
    truth, maps = truth_of(path)
    alike, _, least = reconstruct(path, CG_SENSE, maps=path)
    mix_readouts(path, MIXING)
    maps, brightness = mixed_maps(maps, MIXING)
    given = write_maps(path.with_name("maps.h5"), maps)
    images, (notes,), residual = reconstruct(path, CG_SENSE, maps=given)
    # Whitening undoes the mixing, so that the images are as good as each other.
    assert error(images * median_noise(MIXING), truth * brightness) < 1.1 * error(alike, truth) < 0.13
    assert residual[0] < 1.1 * least[0]
    assert notes.doubts == {}
    assert notes.noise_source == "noise readouts"
    assert notes.maps == "given, whitened as k-space"


def test_maps_fit_coils_whose_noise_alone_is_correlated_and_unequal(tmp_path):
    made = make_scan(
        size=64, acceleration=2, calib_width=12, noise=0.02, noise_mixing=MIXING, n_noise_readouts=64
    )
    path = write_mrd(tmp_path / "scan.h5", made)
    maps = write_maps(tmp_path / "maps.h5", made.maps[None])
    images, (notes,), residual = reconstruct(path, CG_SENSE, maps=maps)
    # 0.793 is the bandwidth of a receiver that says none.
    unit = 0.02 * median_noise(MIXING) / np.sqrt(0.793)
    assert error(images * unit, made.images[0]) < 0.12
    assert residual[0] < 0.08
    assert notes.doubts == {}


def test_maps_are_mixed_as_k_space_is_where_it_is_conjugated(simulated):
    path = simulated()
    truth, maps = truth_of(path)
    mix_readouts(path, MIXING)
    maps, brightness = mixed_maps(maps, MIXING)
    settings = replace(CG_SENSE, orientation=Orientation.TURNED)
    images, (notes,), _ = reconstruct(path, settings, maps=write_maps(path.with_name("maps.h5"), maps))
    assert error(images * median_noise(MIXING), turned(truth * brightness)) < 0.13
    assert notes.doubts == {}


@pytest.mark.parametrize("fault", ["dead", "twice"])
def test_a_coil_that_whitening_leaves_out_is_left_out_of_the_maps(simulated, fault):
    path = simulated()
    truth, maps = truth_of(path)
    mixing = MIXING.copy()
    mixing[2] = 0 if fault == "dead" else 1.5 * mixing[1]
    mix_readouts(path, mixing)
    maps, brightness = mixed_maps(maps, MIXING if fault == "dead" else mixing)  # of before the coil died
    given = write_maps(path.with_name("maps.h5"), maps)
    images, (notes,), residual = reconstruct(path, CG_SENSE, maps=given)
    expected = truth * brightness
    scale = (images * np.abs(expected)).sum() / (images**2).sum()  # which coil is left out moves the median
    assert error(images * scale, expected) < 0.17
    assert residual[0] < 0.12
    assert notes.doubts == {}


def test_two_sets_of_maps_are_whitened_alike(simulated):
    path = simulated()
    truth, maps = truth_of(path)
    mix_readouts(path, MIXING)
    maps, brightness = mixed_maps(maps, MIXING)
    left = (np.arange(64) < 32)[:, None]
    given = write_maps(path.with_name("maps.h5"), np.stack([maps * left, maps * ~left], axis=1))
    images, (notes,), _ = reconstruct(path, CG_SENSE, maps=given)
    assert error(images * median_noise(MIXING), truth * brightness) < 0.13
    assert notes.doubts == {}


def test_maps_of_a_volume_fit_the_whitened_coils(tmp_path):
    volume = make_volume()
    path = write_mrd_volume(tmp_path / "volume.h5", volume, plane_mask(), n_noise=64)
    mix_readouts(path, MIXING)
    maps, brightness = mixed_maps(volume.maps.swapaxes(0, 1), MIXING)
    settings = replace(CG_SENSE, dimensions=3, slices=(12, 20))
    images, notes, _ = reconstruct(path, settings, maps=write_maps(tmp_path / "maps.h5", maps))
    unit = 0.002 * median_noise(MIXING) / np.sqrt(0.793)
    assert error(images * unit, (volume.image * brightness).swapaxes(0, 1)[12:20]) < 0.1
    assert [each.doubts for each in notes] == [{}] * 8


def test_maps_of_a_stack_fit_the_whitened_coils(tmp_path):
    pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
    stack = make_stack()
    path = write_mrd(tmp_path / "stack.h5", stack_scan(stack, n_noise=64))
    mix_readouts(path, MIXING)
    maps, brightness = mixed_maps(stack.volume.maps.swapaxes(0, 1), MIXING)
    settings = replace(CG_SENSE, dimensions=3, slices=(3, 6))
    images, notes, residual = reconstruct(path, settings, maps=write_maps(tmp_path / "maps.h5", maps))
    unit = 0.01 * median_noise(MIXING) / np.sqrt(0.793)
    assert error(images * unit, (stack.volume.image * brightness)[3:6]) < 0.11
    assert residual.max() < 0.02
    assert [each.doubts for each in notes] == [{}] * 3


def test_without_noise_readouts_given_maps_are_used_as_they_are(simulated):
    path = simulated(noise=0.0)
    with open_source(path) as source:
        assert source.read_whitening(0) is None
    _, (notes,), _ = reconstruct(path, CG_SENSE, maps=path, noise=0.01)
    assert notes.maps == GIVEN
