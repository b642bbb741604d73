"""Scans in 3-D: the slices that recon makes of the file once all is there; or one line, and the data kept."""

from __future__ import annotations

from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
from mrd_client import (
    LIMITS,
    QUICK,
    attributes,
    begin,
    connected,
    gives_back,
    pixels,
    receive_all,
    run_session,
    serving,
    words,
)

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.models.folder import load_model
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import Flag, Image
from sbim_deploy.mrd.recording import open_scan
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.presets import DEFAULT_PRESET, PRESETS
from sbim_deploy.serving import volumes
from sbim_deploy.serving.settings import ServeSettings
from sbim_deploy.serving.volumes import VolumeIntake
from volume_scans import make_volume, plane_mask, write_mrd_volume

SHAPE = (16, 32, 24)  # partitions, readout, lines
CHOICE = replace(PRESETS[DEFAULT_PRESET].choice, steps=2)  # of QUICK
SLANTED = ((0.6, 0.8, 0.0), (-0.8, 0.6, 0.0), (0.0, 0.0, 1.0))
ALL_LAST = 1 << (Flag.LAST_IN_MEASUREMENT - 1)


@pytest.fixture(scope="module")
def server():
    with serving(keep_grid=True) as running:
        yield running


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A 3-D scan with noise readouts as MRD, its header and its readouts."""
    path = write_mrd_volume(
        tmp_path_factory.mktemp("scan") / "scan.h5",
        make_volume(SHAPE),
        plane_mask(SHAPE),
        n_noise=8,
        directions=SLANTED,
        position=(3.0, -4.0, 5.0),
    )
    with open_scan(path) as file:
        return path, file.xml.decode(), list(file.read_readouts(range(file.n_readouts)))


@pytest.fixture(scope="module")
def expected(scan, tmp_path_factory):
    """The images that recon makes of the scan, in order."""
    out = tmp_path_factory.mktemp("recon") / "out.h5"
    reconstruct_file(
        scan[0], out, ReconSettings(dimensions=3, choice=CHOICE, backend="onnxruntime", threads=1)
    )
    with open_result(out) as result:
        return [result.read_image(place) for place in range(len(result.slice_indices))]


def zero_filled(server, messages, xml):
    return run_session(server, messages, "zero-filled", None, xml)


def test_a_3d_scan_comes_back_as_the_slices_that_recon_makes_of_the_file(server, scan, expected, tmp_path):
    path, xml, messages = scan
    images = run_session(server, messages, xml=xml)
    assert len(images) == len(expected) == SHAPE[1]
    steps = {float(attributes(image)["RealWorldValueSlope"]) for image in images}
    assert len(steps) == 1
    with open_volume(path, tmp_path) as volume:
        for number, (image, ours) in enumerate(zip(images, expected, strict=True)):
            (step,) = steps
            assert np.abs(pixels(image) * step - np.abs(ours)).max() <= 0.51 * step
            geometry, header = volume.geometry(number), image.header
            assert (header["slice"], header["image_index"]) == (number, number + 1)
            assert header["image_series_index"] == 1
            np.testing.assert_allclose(header["position"], geometry.position, rtol=1e-5)
            np.testing.assert_allclose(header["read_dir"], geometry.read_dir, atol=1e-6)
            np.testing.assert_allclose(header["slice_dir"], geometry.slice_dir, atol=1e-6)
            np.testing.assert_allclose(header["field_of_view"], geometry.field_of_view_mm)
            assert "FALLBACK" not in attributes(image)["ImageComments"]
    assert gives_back(server)


def test_the_scale_is_that_of_the_volume_though_its_first_slice_is_empty(server, scan):
    _, xml, messages = scan
    stack = np.stack([pixels(image) for image in zero_filled(server, messages, xml)])
    assert stack[0].max() < 1024
    assert 500 < np.percentile(stack, 99) < 1500
    assert stack.max() < 4095


class Held:
    """What a session's slices go to, without a server."""

    def __init__(self, header):
        self.sent, self.held, self.reserved = [], {}, []
        service = SimpleNamespace(settings=ServeSettings(), width=16)
        share = SimpleNamespace(hold=self.held.__setitem__, reserve=self.reserved.append)
        sender = SimpleNamespace(broken=Event(), wait_for_fewer=lambda _n: None)
        self.intake = VolumeIntake(
            header, SimpleNamespace(service=service, share=share, sender=sender, send=self._send)
        )

    def _send(self, data, prepare, work_bytes, deadline_s, bright):
        self.sent.append(prepare)


def test_what_is_made_of_the_stream_is_what_recon_makes_of_the_file_to_the_bit(scan, expected):
    _, xml, messages = scan
    held = Held(parse_mrd_header(xml, "scan"))
    for message in messages:
        held.intake.add(message)
    held.intake.finish()
    reconstruct = Reconstructor(load_model("demo"), CHOICE, backend="onnxruntime", threads=1)
    assert len(held.sent) == len(expected)
    for index in (3, 16, 25):
        (ours,) = reconstruct([held.sent[index](lambda: None)])
        np.testing.assert_array_equal(ours.image, expected[index])
    assert held.held[volumes.STORE] == 0
    assert held.held[volumes.IN_PROGRESS] == 8 * (volumes.READOUT_BYTES + messages[0].data.nbytes)


def test_memory_is_counted_before_the_readouts_that_take_it(scan):
    _, xml, messages = scan
    held = Held(parse_mrd_header(xml, "scan"))
    for number, message in enumerate(messages[:12], 1):
        held.intake.add(message)
        assert held.held[volumes.IN_PROGRESS] == sum(
            volumes.READOUT_BYTES + each.data.nbytes for each in messages[:number]
        )
    partitions, n_readout, lines = SHAPE
    assert held.held[volumes.STORE] > partitions * n_readout * lines * 4 * 8
    assert held.reserved


def with_header(message, **fields):
    header = message.header.copy()
    for name, value in fields.items():
        (header["idx"] if name in header["idx"].dtype.names else header)[name] = value
    return replace(message, header=header)


def test_the_last_readout_of_the_measurement_begins_the_work_before_the_end(server, scan):
    _, xml, messages = scan
    with connected(server) as stream:
        begin(stream, "zero-filled", None, xml)
        for message in [*messages[:-1], with_header(messages[-1], flags=ALL_LAST)]:
            stream.send(message)
        for number in range(SHAPE[1]):
            image = stream.receive(LIMITS)
            assert isinstance(image, Image)
            assert image.header["slice"] == number


def test_repetitions_are_series_of_their_own(server, scan):
    _, xml, messages = scan
    again = [with_header(each, repetition=1) for each in messages[8:]]
    images = zero_filled(server, [*messages, *again], xml)
    assert len(images) == 2 * SHAPE[1]
    series = [int(image.header["image_series_index"]) for image in images]
    assert series == [1] * SHAPE[1] + [2] * SHAPE[1]
    np.testing.assert_array_equal(images[16].data, images[SHAPE[1] + 16].data)


def test_a_late_slice_is_the_root_sum_of_squares_of_its_coils(monkeypatch, scan):
    _, xml, messages = scan

    def slow(_data, _whole, check):
        while True:
            check()

    monkeypatch.setattr(volumes, "prepare_of_volume", slow)
    with serving(deadline_s=0.05) as late:
        images = zero_filled(late, messages, xml)
    assert len(images) == SHAPE[1]
    for image in images:
        assert "FALLBACK root-sum-of-squares (deadline)" in attributes(image)["ImageComments"]
    assert pixels(images[16]).max() > 4 * pixels(images[0]).max()


def test_a_damaged_readout_refuses_the_volume_in_one_line_and_the_server_goes_on(server, scan):
    _, xml, messages = scan
    spoiled = list(messages)
    spoiled[20] = replace(spoiled[20], data=spoiled[20].data * np.float32("nan"))
    (told,) = words(zero_filled(server, spoiled, xml))
    assert "not finite" in told
    assert "\n" not in told
    assert gives_back(server)
    assert len(zero_filled(server, messages, xml)) == SHAPE[1]


def vast(xml):
    """A header of a volume that no memory holds."""
    return xml.replace("<z>16</z>", "<z>16000</z>").replace(
        "<maximum>15</maximum>", "<maximum>15999</maximum>"
    )


def test_a_volume_that_memory_does_not_hold_is_refused_at_its_first_readout(server, scan):
    _, xml, messages = scan
    with connected(server) as stream:
        begin(stream, xml=vast(xml))
        for message in messages[:9]:
            stream.send(message)
        (told,) = words(receive_all(stream))
    assert "raise --max-memory; recon --dimensions 3 takes a file of such scans" in told
    assert told.endswith("; serve --save-raw keeps what is sent in a file")
    assert gives_back(server)


def test_what_is_refused_is_kept_whole_where_raw_data_are_and_recon_reads_it(scan, tmp_path):
    path, xml, messages = scan
    kept = tmp_path / "kept"
    kept.mkdir()
    with serving(save_raw=kept, max_memory_bytes=100 * 2**20) as small:
        (told,) = words(run_session(small, messages, xml=xml))
    (made,) = kept.iterdir()
    assert made.suffix == ".mrd"
    assert told.endswith(f"; what was sent is kept as {made.name}")
    with open_volume(made, tmp_path) as ours, open_volume(path, tmp_path) as theirs:
        for index in (0, 16, 31):
            np.testing.assert_array_equal(ours.read_slice(index), theirs.read_slice(index))


def test_partitions_that_the_header_does_not_count_are_refused_at_the_second(server, scan):
    _, xml, messages = scan
    start, end = xml.index("<kspace_encoding_step_2><minimum>"), xml.index("</encodingLimits>")
    got = run_session(server, messages, parameters=QUICK, xml=xml[:start] + xml[end:])
    assert not any(isinstance(message, Image) for message in got)
    (told,) = words(got)
    assert "is 3D, with kspace_encode_step_2 of 0 and" in told


def test_a_full_disk_is_one_line_that_names_no_place_of_the_server(monkeypatch, server, scan):
    def full(folder, _n_bytes):
        raise InputError(f"{folder}: 0 bytes are free")

    monkeypatch.setattr(volumes, "check_free_space", full)
    _, xml, messages = scan
    (told,) = words(zero_filled(server, messages, xml))
    assert "bytes of the server's disk for a while, which are not free: try later" in told
    assert str(volumes.tempfile.gettempdir()) not in told


@pytest.mark.parametrize("trajectory", ["cartesian", "epi"])
def test_a_header_without_readouts_is_no_failure_of_the_server(server, scan, trajectory):
    _, xml, _ = scan
    got = run_session(server, [], xml=xml.replace("cartesian", trajectory))
    assert [text for text in words(got) if "the server failed" in text] == []
    assert len(got) == (trajectory == "epi")
