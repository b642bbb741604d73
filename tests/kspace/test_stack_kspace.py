"""Stacks of stars as slices: from every format, with the grid and the geometry of a Cartesian volume."""

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace import stack
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.mrd.messages import Close, Flag, Header
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mrd.recording import RecordingWriter
from sbim_deploy.results.geometry import slice_affine
from simulated_mrd import write_mrd
from stack_scans import SHAPE, make_stack, stack_scan, write_cfl_stack
from volume_scans import make_volume, write_mrd_volume

N, ROWS, COLUMNS = SHAPE
OBLIQUE = {
    "directions": (
        np.array([2, 2, 1]) / 3,
        np.array([-2, 1, 2]) / 3,
        np.array([1, -2, 2]) / 3,
    ),
    "position": (12.0, -25.0, 40.0),
}


@pytest.fixture(scope="module")
def scan():
    return make_stack()


def all_slices(source):
    return np.stack([source.read_slice(index) for index in range(source.n_slices)])


def near(one, other):
    return np.abs(one - other).max() < 1e-5 * np.abs(other).max()


def written(tmp_path, scan, **options):
    return write_mrd(tmp_path / "stack.h5", stack_scan(scan, **options))


def write_recording(path, made):
    writer = RecordingWriter(path, Header(made.xml))
    for message in (*made.readouts, Close()):
        writer.append(message)
    writer.close()
    return path


def write_version_2(path, made):
    pytest.importorskip("mrd")
    from mrd2_samples import acquisition_item, mrd, scan_header, stream_bytes

    header = scan_header(made.settings)
    (encoding,) = header.encoding
    encoding.trajectory = mrd.Trajectory.GOLDENANGLE
    for space in (encoding.encoded_space, encoding.recon_space):
        space.matrix_size = mrd.MatrixSizeType(x=ROWS, y=COLUMNS, z=N)
        space.field_of_view_mm = mrd.FieldOfViewMm(x=ROWS, y=COLUMNS, z=2 * N)
    limit = mrd.LimitType(minimum=0, maximum=N - 1, center=N // 2)
    encoding.encoding_limits.kspace_encoding_step_2 = limit
    path.write_bytes(stream_bytes(header, map(acquisition_item, made.readouts)))
    return path


@pytest.mark.parametrize("kind", ["mrd", "recording", "version 2"])
def test_slices_are_those_of_the_object_one_by_one(tmp_path, scan, kind):
    made = stack_scan(scan)
    write = {"mrd": write_mrd, "recording": write_recording, "version 2": write_version_2}[kind]
    with open_volume(write(tmp_path / "stack.bin", made), tmp_path) as source:
        assert (source.n_slices, source.n_coils) == (N, 4)
        assert source.stored_shape == source.recon_shape == (ROWS, COLUMNS)
        np.testing.assert_allclose(source.read_trajectory(3), scan.places, atol=1e-5)
        assert near(all_slices(source), scan.slices)
        assert source.voxel_mm == (1.0, 1.0, 2.0)
        told = source.describe()
    assert (told["dimensions"], told["partitions"], told["trajectory"]) == (3, N, "goldenangle")


@pytest.mark.parametrize("kind", ["npy", "cfl"])
def test_samples_and_places_in_two_files_are_a_stack(tmp_path, scan, kind):
    if kind == "cfl":
        path, trajectory = write_cfl_stack(tmp_path, scan)
    else:
        path, trajectory = tmp_path / "kspace.npy", tmp_path / "trajectory.npy"
        np.save(path, scan.partitions)
        np.save(trajectory, scan.places)
    with open_volume(path, tmp_path, Reading(trajectory=trajectory, matrix=(ROWS, COLUMNS))) as source:
        assert near(all_slices(source), scan.slices)
        assert (source.voxel_mm, source.geometry(0)) == (None, None)
        assert source.describe()["dimensions"] == 3


def test_an_even_number_of_partitions_has_its_centre_at_half(tmp_path):
    scan = make_stack((8, 24, 20), n_readouts=4)
    with open_volume(written(tmp_path, scan), tmp_path) as source:
        assert near(all_slices(source), scan.slices)


def test_blocks_of_readouts_give_what_all_of_them_at_once_give(tmp_path, scan, monkeypatch):
    monkeypatch.setattr(stack, "BLOCK_BYTES", 5 * scan.partitions[:, :, 0].nbytes)
    heard = []
    with open_volume(written(tmp_path, scan), tmp_path) as source:
        source.transform(heard.append)
        assert near(all_slices(source), scan.slices)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["stack.h5"]
        assert source.store_bytes == 2 * scan.partitions.nbytes
    assert heard == list(range(1, N + 1))


def test_readouts_are_matched_by_their_counter_whatever_their_order(tmp_path, scan):
    n_readouts = len(scan.places)
    path = written(tmp_path, scan, order=lambda partition: np.roll(range(n_readouts), partition))
    with open_volume(path, tmp_path) as source:
        assert near(all_slices(source), scan.slices)


def test_a_turned_stack_is_flipped_along_all_three_axes(tmp_path, scan):
    path = written(tmp_path, scan)
    with open_volume(path, tmp_path, orientation=Orientation.TURNED) as source:
        # conj(k) at k is that of the conjugate of the object at -r, along the slices and in them.
        assert near(all_slices(source), scan.slices[::-1].conj())


def test_oversampling_is_cut_from_the_slices_and_padding_makes_finer_ones(tmp_path, scan):
    with open_volume(written(tmp_path, scan, recon=(ROWS, COLUMNS, 5)), tmp_path) as source:
        assert source.n_slices == 5
        assert near(all_slices(source), scan.slices[2:7])
        assert source.voxel_mm == (1.0, 1.0, 2.0)
    made = stack_scan(scan)
    place = made.xml.index("<reconSpace>")
    finer = made.xml[:place] + made.xml[place:].replace("<z>9</z>", "<z>15</z>", 1)
    path = write_mrd(tmp_path / "finer.h5", replace(made, xml=finer))
    with open_volume(path, tmp_path) as source:
        assert (source.n_slices, source.voxel_mm[2]) == (15, pytest.approx(1.2))
        # The sum over the partitions that were measured, whose noise it leaves at its level.
        offsets, slices = np.arange(N) - N // 2, np.arange(15) - 7
        matrix = np.exp(2j * np.pi * np.outer(slices, offsets) / 15) / np.sqrt(N)
        assert near(all_slices(source), np.tensordot(matrix, scan.partitions, 1))


def test_noise_readouts_whiten_and_their_level_is_that_of_every_slice(tmp_path, scan):
    with open_volume(written(tmp_path, scan, n_noise=32), tmp_path) as source:
        assert {source.read_noise(index) for index in range(N)} == {1.0}
        assert source.describe()["whitened"]


def test_slices_lie_where_those_of_a_cartesian_volume_do(tmp_path):
    shape = (9, 32, 24)
    options = {**OBLIQUE, "voxel_mm": (1.5, 2.0, 3.0), "recon": (32, 24, 7)}
    stars = written(tmp_path, make_stack(shape, n_readouts=2), **options)
    lines = write_mrd_volume(tmp_path / "lines.h5", make_volume(shape), np.ones((9, 24), np.bool_), **options)
    with open_volume(stars, tmp_path) as one, open_volume(lines, tmp_path) as other:
        assert (one.n_slices, *one.recon_shape) == (7, 32, 24)
        assert (other.recon_shape[0], other.n_slices, other.recon_shape[1]) == (7, 32, 24)
        for partition, row, column in ((0, 0, 0), (3, 16, 12), (6, 31, 5), (1, 20, 23)):
            ours = slice_affine(one.geometry(partition), one.recon_shape) @ (row, column, 0, 1)
            theirs = slice_affine(other.geometry(row), other.recon_shape) @ (partition, column, 0, 1)
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert one.voxel_mm == (1.5, 2.0, 3.0)
        assert [one.slice_header(index)["idx"]["slice"] for index in (0, 6)] == [0, 6]
        assert one.series(0) == one.series(6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turn": 0.3}, "partition 1 has a trajectory of its own, .* rotated from partition to partition"),
        ({"partitions": range(0, N, 2)}, r"4 of 9 partitions were not measured \(.* of 1, 3, 5, 7\)"),
        ({"partitions": range(3, N)}, "3 of 9 partitions were not measured .* or of partial Fourier"),
        ({"partitions": [4]}, "has 1 partition .* leave --dimensions 3 out"),
        ({"third": lambda offset: 0.3 * offset**2}, "third component .* a trajectory of three dimensions"),
        ({"third": lambda offset: -offset / N}, "third component .* a trajectory of three dimensions"),
    ],
    ids=["rotated", "undersampled", "partial Fourier", "one", "uneven", "downwards"],
)
def test_what_takes_an_operator_of_the_whole_volume_is_refused_by_name(tmp_path, scan, options, message):
    with (
        pytest.raises(InputError, match=message),
        open_volume(written(tmp_path, scan, **options), tmp_path) as source,
    ):
        source.transform()


def test_a_third_component_that_is_the_partitions_is_read(tmp_path, scan):
    with open_volume(written(tmp_path, scan, third=lambda offset: offset / N), tmp_path) as source:
        assert near(all_slices(source), scan.slices)


def test_partitions_around_the_centre_alone_make_the_slices_that_they_resolve(tmp_path, scan):
    with open_volume(written(tmp_path, scan, partitions=range(2, 7)), tmp_path) as source:
        offsets, slices = np.arange(5) - 2, np.arange(N) - N // 2
        matrix = np.exp(2j * np.pi * np.outer(slices, offsets) / N) / np.sqrt(5)
        assert near(all_slices(source), np.tensordot(matrix, scan.partitions[2:7], 1))
        assert any("5 of 9 partitions are measured" in each for each in source.describe()["assumed"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda kspace: kspace.__setitem__(3, 0), "partition 3 is zero"),
        (lambda kspace: kspace.__setitem__((5, slice(None), slice(4)), 0), "partition 5 has 20 readouts"),
    ],
)
def test_partitions_of_arrays_without_samples_are_refused(tmp_path, scan, spoil, message):
    kspace = scan.partitions.copy()
    spoil(kspace)
    np.save(tmp_path / "kspace.npy", kspace)
    np.save(tmp_path / "trajectory.npy", scan.places)
    reading = Reading(trajectory=tmp_path / "trajectory.npy", matrix=(ROWS, COLUMNS))
    with (
        pytest.raises(InputError, match=message),
        open_volume(tmp_path / "kspace.npy", tmp_path, reading) as source,
    ):
        source.transform()


def test_arrays_of_one_partition_or_with_a_volume_are_refused(tmp_path, scan):
    np.save(tmp_path / "kspace.npy", scan.partitions[:1])
    np.save(tmp_path / "trajectory.npy", scan.places)
    reading = Reading(trajectory=tmp_path / "trajectory.npy", matrix=(ROWS, COLUMNS))
    with pytest.raises(InputError, match="has 1 partition along its trajectory"):
        open_volume(tmp_path / "kspace.npy", tmp_path, reading)
    with pytest.raises(InputError, match="leave --volume out"):
        open_volume(tmp_path / "kspace.npy", tmp_path, reading, number=0)


def test_read_as_slices_a_stack_names_the_option_for_volumes(tmp_path, scan):
    with pytest.raises(
        InputError, match=r"a stack with kspace_encode_step_2 of 0 and 1.*--dimensions 3 takes a file"
    ):
        open_source(written(tmp_path, scan))


def flagged(readout, flags=0, **counters):
    header = readout.header.copy()
    header["flags"] = flags
    for name, value in counters.items():
        header["idx"][name] = value
    return replace(readout, header=header)


def test_calibration_readouts_are_left_out_and_said(tmp_path, scan):
    made = stack_scan(scan)
    calibration = [flagged(each, 1 << (Flag.IS_PARALLEL_CALIBRATION - 1)) for each in made.readouts[:5]]
    path = write_mrd(tmp_path / "stack.h5", replace(made, readouts=[*calibration, *made.readouts]))
    with open_volume(path, tmp_path) as source:
        assert near(all_slices(source), scan.slices)
        assert any(each.startswith("5 calibration readouts") for each in source.describe()["assumed"])


def test_of_several_stacks_in_a_file_one_is_taken_by_its_number(tmp_path, scan):
    made = stack_scan(scan)
    readouts = [
        replace(flagged(each, repetition=repetition), data=each.data * np.complex64(repetition + 1))
        for repetition in (0, 1)
        for each in made.readouts
    ]
    path = write_mrd(tmp_path / "stack.h5", replace(made, readouts=readouts))
    with pytest.raises(InputError, match=r"holds 2 volumes.*0 \(repetition 0\), 1 \(repetition 1\)"):
        open_volume(path, tmp_path)
    with open_volume(path, tmp_path, number=1) as source:
        assert near(all_slices(source), 2 * scan.slices)
        assert source.series(0).repetition == 1
