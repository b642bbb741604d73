"""3-D scans from the k-space file to images."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from bart_tool import bart, needs_bart
from bright_voxel import brightest_places
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.kspace_faults import TRANSFORMED_AXIS, Fault
from sbim_deploy.recon.classical import Classical
from sbim_deploy.recon.prepare import OfVolume
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.outputs import Output, write_output
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.scan import Tally, make_reconstructor, open_scan, read_problem
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, simulate_volume
from sbim_deploy.samplers.choice import SamplerChoice
from volume_scans import (
    VolumeScan,
    make_volume,
    plane_mask,
    transformed,
    write_cfl_volume,
    write_h5_volume,
    write_mrd_volume,
)

SHAPE = (24, 32, 40)
CLASSICAL = ReconSettings(method=Classical.CG_SENSE, dimensions=3)
FAST = ReconSettings(choice=SamplerChoice(steps=2), dimensions=3)


@pytest.fixture(scope="module")
def scan():
    return make_volume(SHAPE)


def images(path):
    with open_result(path) as result:
        return np.stack([result.read_image(i) for i in range(result.n_slices)])


def truth_of(scan):
    """Return the image (readout, partitions, lines)."""
    return scan.image.swapaxes(0, 1)


def test_cfl_hdf5_and_mrd_of_one_scan_give_one_volume(scan, tmp_path):
    mask = plane_mask(SHAPE)
    kspace = scan.kspace * mask[:, None, :]
    paths = [
        write_cfl_volume(tmp_path / "v.cfl", kspace),
        write_h5_volume(tmp_path / "v.h5", kspace),
        write_mrd_volume(tmp_path / "m.h5", scan, mask),
    ]
    volumes = []
    for path in paths:
        out = tmp_path / f"{path.name}.out.h5"
        reconstruct_file(path, out, CLASSICAL)
        volumes.append(images(out))
    assert volumes[0].shape == (32, 24, 40)
    np.testing.assert_allclose(volumes[1], volumes[0], atol=1e-5)
    np.testing.assert_allclose(volumes[2], volumes[0], atol=1e-5)
    error = np.abs(np.abs(volumes[0]) - np.abs(truth_of(scan)))
    assert np.linalg.norm(error) < 0.15 * np.linalg.norm(scan.image)


def test_all_slices_share_noise_scale_and_method(scan, tmp_path):
    path = write_h5_volume(tmp_path / "v.h5", scan.kspace * plane_mask(SHAPE)[:, None, :])
    with open_volume(path, tmp_path) as source, open_scan(source, CLASSICAL) as opened:
        tally = Tally()
        problems = [read_problem(index, opened, tally) for index in (3, 12, 20)]
    assert len({(each.noise, each.scale, each.noise_source, each.map_source) for each in problems}) == 1
    assert np.isclose(problems[0].noise, 0.002, rtol=0.1)
    pixels = np.abs(truth_of(scan))
    assert np.isclose(problems[0].scale, np.percentile(pixels, 99), rtol=0.25)


def test_a_second_direction_sampled_in_full_gives_what_the_slices_give_alone(scan, tmp_path):
    lines = np.zeros(40, np.bool_)
    lines[::3] = lines[14:26] = True
    path = write_h5_volume(tmp_path / "v.h5", scan.kspace * lines)
    maps = write_h5_volume(tmp_path / "maps.h5", scan.kspace)
    with h5py.File(maps, "a") as file:
        file["s_maps"] = scan.maps.swapaxes(0, 1)
    settings = replace(FAST, noise=0.002, maps=maps)
    with open_volume(path, tmp_path) as source:
        slices = np.stack([source.read_slice(index) for index in range(4, 8)])
        with open_scan(source, settings) as opened:
            tally = Tally()
            volume = [read_problem(index, opened, tally) for index in range(4, 8)]
    flat = tmp_path / "slices.h5"
    with h5py.File(flat, "w") as file:
        file["kspace"] = slices
        file["s_maps"] = scan.maps.transpose(2, 0, 1, 3)[4:8]
    plain = replace(settings, dimensions=2, maps=flat)
    with open_source(flat) as source, open_scan(source, plain) as opened:
        alone = [read_problem(index, opened, Tally()) for index in range(4)]
    assert all(problem.mask.shape == (1, 40) for problem in volume)
    reconstructor: Reconstructor = make_reconstructor(settings, load_model("demo"))
    for ours, theirs in zip(volume, alone, strict=True):
        theirs = replace(theirs, index=ours.index, scale=ours.scale)
        one, other = (reconstructor([each])[0].image for each in (ours, theirs))
        assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()


def test_a_sampler_runs_on_the_volume_and_goes_on_where_it_was_stopped(scan, tmp_path):
    path = write_h5_volume(tmp_path / "v.h5", scan.kspace * plane_mask(SHAPE)[:, None, :])

    class Stop:
        def started(self, *_):
            self.n = 0

        def advanced(self, *_):
            self.n += 1
            if self.n > 3:
                raise KeyboardInterrupt

        def doubted(self, *_): ...

        def left_out(self, *_): ...

    whole, out = tmp_path / "whole.h5", tmp_path / "out.h5"
    settings = replace(FAST, slices=(14, 18))
    reconstruct_file(path, whole, settings)
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(path, out, settings, Stop())
    left = {each.name for each in tmp_path.iterdir()}
    assert {each for each in left if not each.endswith((".partial", ".lock"))} == {"v.h5", "whole.h5"}
    provenance = reconstruct_file(path, out, replace(settings, resume=True))
    assert provenance.timings_s.slices < 4
    assert provenance.dimensions == 3
    np.testing.assert_allclose(images(out), images(whole), atol=1e-6)
    with pytest.raises(InputError, match="dimensions"):
        reconstruct_file(path, out, replace(settings, dimensions=2, slices=None, resume=True))


def test_a_calibration_scan_is_what_the_maps_come_from(scan, tmp_path):
    lattice, block = plane_mask(SHAPE, block=0), np.zeros((24, 40), np.bool_)
    block[6:18, 14:26] = True
    path = write_mrd_volume(tmp_path / "m.h5", scan, lattice, calibration=block)
    maps = tmp_path / "maps.h5"
    with h5py.File(maps, "w") as file:
        file["s_maps"] = scan.maps.swapaxes(0, 1)
    errors = []
    for given in (None, maps):
        out = tmp_path / f"{given is None}.h5"
        reconstruct_file(path, out, replace(CLASSICAL, maps=given, slices=(10, 20)))
        errors.append(np.linalg.norm(np.abs(images(out)) - np.abs(truth_of(scan)[10:20])))
    assert errors[0] < 1.5 * errors[1]


@needs_bart
def test_bart_s_maps_and_phantom_are_read_and_its_axes_are_written(tmp_path):
    bart(tmp_path, "phantom", "-3", "-x", 32, "-s", 4, "-k", "ksp")
    bart(tmp_path, "phantom", "-3", "-x", 32, "-S", 4, "maps")
    bart(tmp_path, "fft", "-i", "-u", 7, "ksp", "coils")
    bart(tmp_path, "rss", 8, "coils", "truth")
    out = tmp_path / "out.h5"
    settings = replace(CLASSICAL, maps=tmp_path / "maps.cfl", noise=1e-3)
    reconstruct_file(tmp_path / "ksp.cfl", out, settings)
    with open_volume(tmp_path / "ksp.cfl", tmp_path) as source:
        write_output(Output(tmp_path / "image.cfl", "cfl"), out, source)
    made = np.fromfile(tmp_path / "image.cfl", "<c8").reshape((32, 32, 32), order="F")
    truth = np.fromfile(tmp_path / "truth.cfl", "<c8").reshape((32, 32, 32), order="F")
    overlap = abs(np.vdot(np.abs(made), np.abs(truth))) / np.linalg.norm(made) / np.linalg.norm(truth)
    assert overlap > 0.99


def test_evaluate_compares_the_slices_along_the_readout(scan, tmp_path):
    mask = plane_mask(SHAPE)
    path = write_h5_volume(
        tmp_path / "v.h5",
        scan.kspace * mask[:, None, :],
        coils_first=False,
        reference=scan.image,
        s_maps=scan.maps.swapaxes(0, 1),
    )
    out = tmp_path / "out.h5"
    reconstruct_file(path, out, replace(CLASSICAL, maps=path))
    scores = evaluate_file(out, path)
    assert len(scores.slices) == 23
    assert any("9 slices beside the object" in remark for remark in scores.remarks)
    assert scores.reference_is_input
    assert scores.slices[16].reconstruction.nrmse < 0.15


def test_all_formats_put_a_bright_voxel_in_one_place(tmp_path):
    shape, bright = (20, 32, 24), (13, 9, 17)  # (partition, readout, line)
    read, phase = np.array([2, 2, 1]) / 3, np.array([-2, 1, 2]) / 3
    directions = (read, phase, np.cross(read, phase))
    centre, voxel_mm = np.array([12.0, -25.0, 40.0]), (1.5, 2.0, 3.0)
    scan = make_volume(shape, noise=0.0005)
    image = scan.image.copy()
    image[bright] = 6
    kspace = transformed(scan.maps * image, (1, 2, 3)).astype(np.complex64)
    scan = VolumeScan(image, scan.maps, kspace)
    path = write_mrd_volume(
        tmp_path / "m.h5",
        scan,
        np.ones((20, 24), np.bool_),
        directions=directions,
        position=tuple(centre),
        voxel_mm=voxel_mm,
    )
    result = tmp_path / "out.h5"
    reconstruct_file(path, result, replace(CLASSICAL, noise=0.0005))
    steps = [at - n // 2 for at, n in zip(bright, shape, strict=True)]
    expected = centre + steps[1] * 1.5 * read + steps[2] * 2.0 * phase + steps[0] * 3.0 * directions[2]
    volume = images(result)
    assert np.unravel_index(np.argmax(np.abs(volume)), volume.shape) == (9, 13, 17)
    with open_volume(path, tmp_path) as source:
        places = brightest_places(result, source, tmp_path)
    assert places.pop("mrd slice") == 9
    for place in places.values():
        np.testing.assert_allclose(place, expected, atol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        CLASSICAL,
        replace(CLASSICAL, method=Classical.L1_WAVELET),
        FAST,
    ],
    ids=["cg-sense", "l1-wavelet", "sampler"],
)
def test_maps_that_end_with_the_object_give_zero_beside_it(scan, tmp_path, settings):
    path = write_h5_volume(tmp_path / "v.h5", scan.kspace * plane_mask(SHAPE)[:, None, :])
    inside = np.zeros(SHAPE, np.bool_)
    inside[2:22, 4:28, 3:37] = True
    maps = tmp_path / "maps.h5"
    with h5py.File(maps, "w") as file:
        file["s_maps"] = (scan.maps * inside).swapaxes(0, 1)
    out = tmp_path / "out.h5"
    reconstruct_file(path, out, replace(settings, maps=maps, slices=(2, 6)))
    volume = images(out)
    assert np.isfinite(volume).all()
    assert not volume[:2].any()
    assert not volume[:, :2].any()
    assert volume[2:].any()


def test_a_damaged_partition_stops_the_run_at_once_and_leaves_nothing(scan, tmp_path):
    kspace = scan.kspace * plane_mask(SHAPE)[:, None, :]
    kspace[1, 12, 3, 20] = np.nan
    path = write_h5_volume(tmp_path / "v.h5", kspace, coils_first=False)
    heard = []

    class Heard:
        def started(self, *_): ...

        def advanced(self, *_): ...

        def left_out(self, reason):
            heard.append(reason)

    with pytest.raises(InputError, match="not finite"):
        reconstruct_file(path, tmp_path / "out.h5", CLASSICAL, Heard())
    assert not heard
    assert not (tmp_path / "out.h5").exists()


def test_k_space_that_is_an_image_already_is_refused_by_the_slice_of_most_energy(scan, tmp_path):
    path = write_h5_volume(tmp_path / "v.h5", scan.maps * scan.image + 1e-3 * scan.kspace)
    with pytest.raises(InputError, match="as in an image"):
        reconstruct_file(path, tmp_path / "out.h5", CLASSICAL)


def test_the_ends_of_a_volume_are_not_taken_for_images_where_its_middle_is_not(tmp_path):
    # The sixth slice has the crown of the head alone, and by itself it looks like an image.
    path = tmp_path / "head.h5"
    simulate_volume(path, SimulateVolumeSettings(size=48, n_partitions=48))
    volume = replace(CLASSICAL, method=Classical.ZERO_FILLED, slices=(3, 8))
    reconstruct_file(path, tmp_path / "out.h5", volume)
    with open_result(tmp_path / "out.h5") as result:
        assert result.provenance.doubts == {}


def test_a_doubt_of_the_slice_of_most_energy_is_told_of_the_others_too():
    doubt = Fault(TRANSFORMED_AXIS, "spread", fatal=False)
    spikes = Fault("spikes", "five", fatal=False)
    assert OfVolume(is_checked=True).check([doubt, spikes], 0) == [spikes]
    assert OfVolume(is_checked=True, kinds=frozenset({TRANSFORMED_AXIS})).check([doubt, spikes], 0) == [
        doubt,
        spikes,
    ]
    assert OfVolume().check([doubt], 0) == [doubt]
