"""Stacks of stars from the k-space file to images."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from bright_voxel import brightest_places
from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.arguments import maps_of
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice
from simulated_mrd import write_mrd
from stack_scans import SHAPE, make_stack, stack_scan
from volume_scans import make_volume

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
# The first and the last slice lie beside the object: without noise they are zero.
GRIDDED = ReconSettings(method=Classical.ZERO_FILLED, noise=0.002, slices=(1, 8))
SAMPLED = ReconSettings(choice=SamplerChoice(steps=2), noise=0.002, threads=1, slices=(4, 6))


@pytest.fixture(scope="module")
def scan():
    return make_stack()


@pytest.fixture(scope="module")
def folder(scan, tmp_path_factory):
    """The stack, and its slices transformed before by the object's own Fourier sum, as arrays with places."""
    folder = tmp_path_factory.mktemp("stack")
    write_mrd(folder / "stack.h5", stack_scan(scan))
    with h5py.File(folder / "stack.h5", "a") as file:
        file["reference"] = scan.volume.image
    np.save(folder / "slices.npy", scan.slices)
    np.save(folder / "places.npy", scan.places)
    np.save(folder / "maps.npy", scan.volume.maps.swapaxes(0, 1))
    return folder


def images(path):
    with open_result(path) as result:
        return np.stack([result.read_image(i) for i in range(result.n_slices)])


@pytest.mark.parametrize(
    "settings",
    [GRIDDED, replace(GRIDDED, method=Classical.CG_SENSE), SAMPLED],
    ids=["gridding", "cg-sense", "sampler"],
)
def test_a_stack_gives_what_its_slices_give_one_by_one(folder, tmp_path, settings):
    given = replace(settings, maps=folder / "maps.npy")
    reading = Reading(trajectory=folder / "places.npy", matrix=SHAPE[1:])
    reconstruct_file(folder / "stack.h5", tmp_path / "stack.out.h5", replace(given, dimensions=3))
    made = reconstruct_file(
        folder / "slices.npy", tmp_path / "slices.out.h5", replace(given, reading=reading)
    )
    assert made.prior_orientations == (None if settings.method else 4)  # it is no square
    stack, slices = images(tmp_path / "stack.out.h5"), images(tmp_path / "slices.out.h5")
    assert len(stack) == len(range(*settings.slices))
    np.testing.assert_allclose(stack, slices, rtol=0, atol=1e-5 * np.abs(slices).max())


def test_maps_are_estimated_and_the_images_are_those_of_the_object(folder, scan, tmp_path):
    out = tmp_path / "out.h5"
    settings = replace(GRIDDED, method=Classical.L1_WAVELET, dimensions=3, slices=(3, 6))
    provenance = reconstruct_file(folder / "stack.h5", out, settings)
    assert provenance.dimensions == 3
    assert provenance.measured.scan["partitions"] == SHAPE[0]
    scores = evaluate_file(out, folder / "stack.h5")
    assert len(scores.slices) == 3
    assert max(each.reconstruction.nrmse for each in scores.slices) < 0.2


def test_all_formats_put_a_bright_voxel_of_a_stack_in_one_place(tmp_path):
    shape, bright = (9, 32, 24), (6, 9, 17)  # (slice, row, column)
    read, phase = np.array([2, 2, 1]) / 3, np.array([-2, 1, 2]) / 3
    directions = (read, phase, np.cross(read, phase))
    centre, voxel_mm = np.array([12.0, -25.0, 40.0]), (1.5, 2.0, 3.0)
    image = make_volume(shape, noise=0.0).image.copy()
    image[bright] = 6
    scan = make_stack(shape, n_readouts=40, image=image)
    made = stack_scan(scan, directions=directions, position=tuple(centre), voxel_mm=voxel_mm)
    path, result = write_mrd(tmp_path / "m.h5", made), tmp_path / "out.h5"
    np.save(tmp_path / "maps.npy", scan.volume.maps.swapaxes(0, 1))
    settings = replace(GRIDDED, dimensions=3, maps=tmp_path / "maps.npy", slices=None)
    reconstruct_file(path, result, settings)
    volume = images(result)
    assert np.unravel_index(np.argmax(np.abs(volume)), volume.shape) == bright
    steps = [at - n // 2 for at, n in zip(bright, shape, strict=True)]
    expected = centre + steps[1] * 1.5 * read + steps[2] * 2.0 * phase + steps[0] * 3.0 * directions[2]
    with open_volume(path, tmp_path) as source:
        places = brightest_places(result, source, tmp_path)
    assert places.pop("mrd slice") == bright[0]
    for place in places.values():
        np.testing.assert_allclose(place, expected, atol=1e-3)


def test_maps_and_images_of_a_turned_stack_are_turned_along_all_axes(folder, scan, tmp_path):
    given = replace(GRIDDED, maps=folder / "maps.npy", dimensions=3)
    reconstruct_file(folder / "stack.h5", tmp_path / "plain.h5", given)
    reconstruct_file(
        folder / "stack.h5", tmp_path / "turned.h5", replace(given, orientation=Orientation.TURNED)
    )
    plain, turned = images(tmp_path / "plain.h5"), images(tmp_path / "turned.h5")
    # All sizes are odd, so that the centre stays where it is.
    np.testing.assert_allclose(
        turned, plain[::-1, ::-1, ::-1].conj(), rtol=0, atol=1e-5 * np.abs(plain).max()
    )
    scores = [evaluate_file(tmp_path / f"{name}.h5", folder / "stack.h5") for name in ("plain", "turned")]
    errors = [[each.reconstruction.nrmse for each in of_one.slices] for of_one in scores]
    np.testing.assert_allclose(errors[1], errors[0][::-1], rtol=1e-3)


def test_maps_in_memory_go_with_the_slices_of_a_turned_stack(folder, tmp_path):
    maps = np.load(folder / "maps.npy")
    with (
        open_volume(folder / "stack.h5", tmp_path, orientation=Orientation.TURNED) as source,
        maps_of(maps, source) as given,
    ):
        np.testing.assert_array_equal(given.read_maps(2), maps[6])


def test_slices_of_a_stack_are_not_reconstructed_together(folder, tmp_path):
    settings = ReconSettings(choice=SamplerChoice(steps=2), dimensions=3, through_plane=True)
    with pytest.raises(InputError, match=r"stack\.h5: is no Cartesian volume.* leave --through-plane out"):
        reconstruct_file(folder / "stack.h5", tmp_path / "out.h5", settings)


def test_a_stack_without_an_image_beside_it_is_no_reference(scan, folder, tmp_path):
    bare = write_mrd(tmp_path / "bare.h5", stack_scan(scan))
    out = tmp_path / "out.h5"
    settings = replace(GRIDDED, dimensions=3, maps=folder / "maps.npy", slices=(4, 5))
    reconstruct_file(folder / "stack.h5", out, settings)
    with pytest.raises(InputError, match="none is made of samples along a trajectory"):
        evaluate_file(out, bare)
