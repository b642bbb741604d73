"""A simulated stack is that of the head that stands beside it, and its slices are those that recon makes."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.mrd.file import open_mrd
from sbim_deploy.mrd.messages import Flag
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate_stack import SimulateStackSettings, simulate_stack
from sbim_deploy.runs.simulate_volume import FIELD_OF_VIEW_MM, head_magnitude
from sbim_deploy.words import plural
from stack_scans import in_plane

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are simulated")
SETTINGS = SimulateStackSettings(size=24, n_partitions=17, n_coils=3, acceleration=2)


def truth_in(path):
    with h5py.File(path) as file:
        return file["reference"][()], file["s_maps"][()]


@pytest.mark.parametrize("trajectory", ["golden", "radial", "spiral"])
@pytest.mark.parametrize("shape", [(24, 17), (25, 16)], ids=str)
def test_without_noise_slices_are_the_truth_s_sums_of_exponentials(tmp_path, trajectory, shape):
    size, n = shape
    path = tmp_path / "stack.h5"
    settings = replace(SETTINGS, size=size, n_partitions=n, trajectory=trajectory, noise=0)
    simulate_stack(path, settings)
    images, maps = truth_in(path)
    assert (images.shape, maps.shape) == ((n, size, size), (n, 3, size, size))
    with open_volume(path, tmp_path) as stack:
        assert (stack.n_slices, stack.n_coils, stack.recon_shape) == (n, 3, (size, size))
        np.testing.assert_allclose(stack.voxel_mm, [FIELD_OF_VIEW_MM / each for each in (size, size, n)])
        expected = in_plane(maps * images[:, None], stack.read_trajectory(0))
        found = np.stack([stack.read_slice(index) for index in range(n)])
        assert stack.describe()["noise_readouts"] == 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.isclose(np.percentile(np.abs(images), 99), 1, atol=1e-3)


def test_noise_readouts_whiten_the_stack_and_the_noise_is_what_was_asked_for(tmp_path):
    path = tmp_path / "stack.h5"
    simulate_stack(path, replace(SETTINGS, noise=0.05))
    images, maps = truth_in(path)
    with open_volume(path, tmp_path) as stack:
        assert stack.read_noise(0) == pytest.approx(1)
        truth = in_plane(maps * images[:, None], stack.read_trajectory(0))
        noise = np.stack([stack.read_slice(index) for index in range(17)]) - truth
    # A sample's noise is sqrt(2) times that of the grid, for its bandwidth is twice as wide.
    assert np.percentile(np.abs(images), 99) == pytest.approx(1 / (0.05 * 2**0.5), rel=1e-3)
    assert noise.real.std() == pytest.approx(1, rel=0.02)
    assert noise.imag.std() == pytest.approx(1, rel=0.02)


def test_recon_measures_that_noise_in_the_samples_too(tmp_path):
    path, out = tmp_path / "stack.h5", tmp_path / "out.h5"
    simulate_stack(path, replace(SETTINGS, noise=0.05))
    np.save(tmp_path / "maps.npy", truth_in(path)[1])
    with open_volume(path, tmp_path) as stack:
        np.save(tmp_path / "places.npy", stack.read_trajectory(0))
        slices = [stack.read_slice(index) for index in range(6, 11)]
    np.save(tmp_path / "slices.npy", np.stack(slices))
    reading = Reading(trajectory=tmp_path / "places.npy", matrix=(24, 24))
    made = reconstruct_file(
        tmp_path / "slices.npy", out, ReconSettings(method=Classical.ZERO_FILLED, reading=reading)
    )
    levels = [notes.noise for notes in made.slice_notes.values()]
    assert np.mean(levels) == pytest.approx(1, rel=0.1)


def test_recon_and_evaluate_take_the_stack_its_maps_and_its_truth_slice_by_slice(tmp_path):
    path, out = tmp_path / "stack.h5", tmp_path / "out.h5"
    simulate_stack(path, replace(SETTINGS, acceleration=1, noise=0.001))
    settings = ReconSettings(method=Classical.CG_SENSE, dimensions=3, maps=path)
    reconstruct_file(path, out, settings)
    images, _ = truth_in(path)
    with open_result(out) as result:
        found = np.stack([result.read_image(index) for index in range(result.n_slices)])
    assert found.shape == images.shape
    assert nrmse(found, images) < 0.05
    assert nrmse(found[::-1], images) > 0.5
    scores = evaluate_file(out, path, data_range="volume")
    assert scores.volume.nrmse < 0.05
    beside = [index for index, image in enumerate(images) if not image.any()]
    assert beside
    assert [each.index for each in scores.slices] == [index for index in range(17) if index not in beside]
    assert any(
        f"left out: {plural(len(beside), 'slice')} beside the object" in each for each in scores.remarks
    )


def test_slices_run_from_above_to_below_as_the_header_says(tmp_path):
    path = tmp_path / "stack.h5"
    simulate_stack(path, SETTINGS)
    with open_volume(path, tmp_path) as stack:
        places = [stack.geometry(index) for index in (0, 8, 16)]
    step = 8 * FIELD_OF_VIEW_MM / 17
    np.testing.assert_allclose([each.position for each in places], [(0, 0, z) for z in (step, 0, -step)])
    axes = np.array([places[0].read_dir, places[0].phase_dir, places[0].slice_dir])
    np.testing.assert_allclose(axes, [(0, 1, 0), (1, 0, 0), (0, 0, -1)])
    images, _ = truth_in(path)
    head = head_magnitude((17, 24, 24))  # (superior, posterior, left)
    upside_down = head[::-1]
    np.testing.assert_allclose(np.abs(images) / np.abs(images).max(), upside_down / head.max(), atol=1e-5)


def test_readouts_carry_the_counters_and_the_flags_of_a_3_d_scan(tmp_path):
    path = tmp_path / "stack.h5"
    simulate_stack(path, SETTINGS)
    with open_mrd(path) as file:
        readouts, encoding = list(file.readouts()), file.header.encodings[0]
    assert encoding.trajectory == "goldenangle"
    assert encoding.encoded.matrix_size == encoding.recon.matrix_size == (24, 24, 17)
    image = [each for each in readouts if not each.has(Flag.IS_NOISE_MEASUREMENT)]
    assert len(readouts) - len(image) == 64
    assert all(each.has(Flag.IS_NOISE_MEASUREMENT) for each in readouts[:64])
    found = [[int(each.header["idx"][f"kspace_encode_step_{step}"]) for each in image] for step in (1, 2)]
    n_lines = len(image) // 17
    assert n_lines == 19  # of 38 that leave no gap
    np.testing.assert_array_equal(found[0], np.tile(np.arange(n_lines), 17))
    np.testing.assert_array_equal(found[1], np.repeat(np.arange(17), n_lines))
    assert {int(each.header["idx"]["slice"]) for each in image} == {0}
    firsts = [each.has(Flag.FIRST_IN_ENCODE_STEP1) for each in image]
    assert np.flatnonzero(firsts).tolist() == list(range(0, len(image), n_lines))
    for flag in (Flag.FIRST_IN_ENCODE_STEP2, Flag.FIRST_IN_SLICE, Flag.FIRST_IN_REPETITION):
        assert [at for at, each in enumerate(image) if each.has(flag)] == [0]
    for flag in (Flag.LAST_IN_ENCODE_STEP2, Flag.LAST_IN_SLICE, Flag.LAST_IN_MEASUREMENT):
        assert [at for at, each in enumerate(image) if each.has(flag)] == [len(image) - 1]


def test_a_seed_gives_one_file(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate_stack(tmp_path / f"{name}.h5", replace(SETTINGS, seed=seed))
    made = [(tmp_path / f"{name}.h5").read_bytes() for name in "abc"]
    assert made[0] == made[1] != made[2]


def test_progress_runs_from_nothing_to_all_partitions(tmp_path):
    told: list[float] = []
    simulate_stack(tmp_path / "stack.h5", SETTINGS, told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.5, 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 8}, "size is 8: expected 16 to 512"),
        ({"n_partitions": 600}, "partitions is 600: expected 16 to 512"),
        ({"trajectory": "rosette"}, "unknown trajectory 'rosette': expected one of radial, golden, spiral"),
        ({"acceleration": 0.5}, "acceleration is 0.5"),
        ({"noise": -1}, "noise is -1"),
    ],
)
def test_settings_that_make_no_stack_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **changes)
