"""Readouts along a trajectory, in the order in which they come: which slice is complete when, and of what."""

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.placement import NotSlicesError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.kspace.trajectory_readouts import TrajectoryAssembler
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import Flag
from sbim_deploy.mrd.recording import open_scan
from sbim_deploy.runs.simulate import SimulateSettings
from sbim_deploy.runs.simulate_mrd import simulate_mrd

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are simulated")
SIZE, COILS = 32, 3


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A file of two slices, its header and its readouts: 64 of noise, then 13 spokes of each slice."""
    path = tmp_path_factory.mktemp("radial") / "scan.h5"
    simulate_mrd(path, SimulateSettings(2, COILS, SIZE, 4.0, noise=0.02, trajectory="golden"))
    with open_scan(path) as file:
        return path, parse_mrd_header(file.xml, "scan"), list(file.readouts())


def changed(readout, data=None, trajectory=None, **fields):
    header = readout.header.copy()
    for name, value in fields.items():
        (header["idx"] if name in header["idx"].dtype.names else header)[name] = value
    data = readout.data if data is None else data
    trajectory = readout.trajectory if trajectory is None else trajectory
    header["active_channels"], header["number_of_samples"] = data.shape
    return replace(readout, header=header, data=data, trajectory=trajectory)


def spokes(readouts, number=0):
    """The readouts of a slice, without those of noise."""
    return [
        each for each in readouts if each.trajectory is not None and each.header["idx"]["slice"] == number
    ]


def fed(header, readouts, **settings):
    assembler = TrajectoryAssembler(header, **settings)
    return [each for readout in readouts for each in assembler.add(readout)] + assembler.finish()


def refused(header, readouts, kind, words, **settings):
    with pytest.raises(kind, match=words) as caught:
        fed(header, readouts, **settings)
    assert "\n" not in str(caught.value)


def test_slices_that_come_readout_by_readout_are_those_of_the_file(scan):
    path, header, readouts = scan
    noise = [each for each in readouts if each.trajectory is None]
    interleaved = [each for pair in zip(spokes(readouts), spokes(readouts, 1), strict=True) for each in pair]
    with open_source(path) as file:
        for order in (readouts, [*noise, *interleaved]):
            slices = fed(header, order)
            assert [each.slice for each in slices] == [0, 1]
            for each in slices:
                np.testing.assert_array_equal(each.kspace, file.read_slice(each.slice))
                np.testing.assert_array_equal(each.places, file.read_trajectory(each.slice))
                assert each.noise == file.read_noise(each.slice) == 1.0
                assert each.geometry == file.geometry(each.slice)
                assert each.header == file.slice_header(each.slice)
                assert each.image_shape == file.recon_shape
                assert (each.calibration, each.fault) == (None, None)
                assert set(each.remarks) <= set(file.describe()["assumed"])


def test_a_slice_is_complete_with_its_last_readout_and_the_others_at_the_end(scan):
    _, header, readouts = scan
    assembler = TrajectoryAssembler(header)
    first, second = (spokes(readouts, number) for number in (0, 1))
    assert [len(assembler.add(each)) for each in first] == [0] * (len(first) - 1) + [1]
    open_end = [changed(each, flags=0) for each in second]
    assert [assembler.add(each) for each in open_end] == [[]] * len(second)
    (last,) = assembler.finish()
    assert (last.slice, last.kspace.shape) == (1, (COILS, len(second), 2 * SIZE))


def test_what_is_repeated_is_data_too_and_ends_with_the_last_repeat(scan):
    _, header, readouts = scan
    again = [changed(each, average=1) for each in spokes(readouts)]
    uncounted = replace(header, encodings=(replace(header.encodings[0], average=None),))
    first, second = fed(uncounted, [*spokes(readouts), *again], max_bytes=2**30)
    assert first.kspace.shape[1] == len(again)
    assert second.kspace.shape[1] == 2 * len(again)
    refused(header, [*spokes(readouts), *again], InputError, "gets a readout after LAST_IN_SLICE")


def test_samples_that_are_not_finite_spoil_their_slice_alone(scan):
    _, header, readouts = scan
    spoiled = spokes(readouts)
    spoiled[4] = changed(spoiled[4], spoiled[4].data * np.nan)
    bad, good = fed(header, [*spoiled, *spokes(readouts, 1)])
    assert "slice 0 of repetition 0" in bad.fault
    assert "samples that are not finite" in bad.fault
    assert not bad.kspace[:, 4].any()
    assert bad.kspace.any()
    assert good.fault is None


def test_a_slice_of_too_few_samples_is_at_fault(scan):
    _, header, readouts = scan
    one = changed(
        spokes(readouts)[0], spokes(readouts)[0].data[:, 20:40], spokes(readouts)[0].trajectory[20:40]
    )
    (few,) = fed(header, [one])
    assert few.fault.endswith("20 samples for 1024 pixels, expected at least one for 32")


def test_memory_is_asked_for_before_it_is_taken_with_all_samples_so_far(scan):
    _, header, readouts = scan
    asked = []
    slices = fed(header, spokes(readouts), admit=lambda *what: asked.append(what))
    assert [n_samples for _, _, n_samples in asked] == [2 * SIZE * n for n in range(1, len(asked) + 1)]
    assert {shape for _, shape, _ in asked} == {(COILS, SIZE, SIZE)}
    assert asked[-1][0] >= slices[0].n_bytes
    one = asked[0][0]
    refused(header, spokes(readouts), InputError, "allow more memory", max_bytes=int(2.5 * one))


def test_memory_comes_back_and_a_body_coil_is_left_out(scan):
    _, header, readouts = scan
    body = [changed(each, each.data[:1], flags=0) for each in spokes(readouts)[:1]]
    assembler = TrajectoryAssembler(header)
    (found,) = [each for readout in [*body, *spokes(readouts)] for each in assembler.add(readout)]
    assert found.kspace.shape == (COILS, len(spokes(readouts)), 2 * SIZE)
    assert any("other channels" in remark for remark in found.remarks)
    assert assembler.n_bytes == 0


def three_dimensional(readout):
    return np.pad(readout.trajectory, [(0, 0), (0, 1)], constant_values=0.1)


HOSTILE = {
    "no trajectory": (NotSlicesError, "carries one of 0 dimensions", {"trajectory_dimensions": 0}),
    "a stack": (NotSlicesError, "kspace_encode_step_2 of 0 and 1", {"kspace_encode_step_2": 1}),
    "all discarded": (InputError, "no samples with a trajectory", {"discard_pre": 64}),
    "compressed": (InputError, "compressed", {"flags": 1 << (Flag.COMPRESSION1 - 1)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_readouts_that_cannot_be_read_are_refused_in_one_line(scan, name):
    _, header, readouts = scan
    kind, words, fields = HOSTILE[name]
    first, second, *_ = spokes(readouts)
    refused(header, [first, changed(second, **fields)], kind, words)


def test_trajectories_that_cannot_be_read_are_refused_in_one_line(scan):
    _, header, readouts = scan
    first, second, *_ = spokes(readouts)
    spoiled = changed(second, trajectory=second.trajectory * np.float32("nan"))
    refused(header, [first, spoiled], InputError, "places that are not finite")
    far = changed(second, trajectory=second.trajectory * np.float32(1e30))
    refused(header, [first, far], InputError, "reaches .* cycles per field of view")
    shorter = changed(second, second.data[:, 4:], second.trajectory[4:])
    refused(header, [first, shorter], InputError, "readouts have 60 and 64 samples")
    deep = changed(second, trajectory=three_dimensional(second), trajectory_dimensions=3)
    refused(header, [first, deep], NotSlicesError, "is three-dimensional")


def test_values_that_whitening_takes_out_of_range_are_refused(scan):
    _, header, readouts = scan
    noise = [changed(each, each.data * np.float32(1e-15)) for each in readouts if each.trajectory is None]
    huge = [changed(each, each.data * np.float32(1e34)) for each in spokes(readouts)]
    refused(header, [*noise, *huge], InputError, "values are too large")


def test_an_image_that_is_too_large_is_refused(scan):
    _, header, readouts = scan
    encoding = header.encodings[0]
    vast = replace(encoding, recon=replace(encoding.recon, matrix_size=(2**20, 2**20, 1)))
    refused(replace(header, encodings=(vast,)), spokes(readouts), InputError, "check the matrix sizes")
