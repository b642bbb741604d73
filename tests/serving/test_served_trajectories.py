"""Radial and spiral scans over loopback: the images of recon, one by one, and one line for what is none."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from mrd_client import (
    LIMITS,
    QUICK,
    attributes,
    begin,
    connected,
    gives_back,
    kspace_of,
    pixels,
    readouts,
    receive_all,
    run_session,
    serving,
    words,
)

from sbim_deploy.client.replay import Pace, ReplaySettings, replay_file
from sbim_deploy.errors import BackendMissingError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.kspace.trajectory_readouts import TrajectoryAssembler
from sbim_deploy.models.folder import load_model
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import Close, ConfigFile, Image
from sbim_deploy.mrd.recording import open_scan
from sbim_deploy.recon.classical import Classical
from sbim_deploy.recon.reconstruct import SCORE_GRAPH, Reconstructor
from sbim_deploy.recon.streams import work_bytes
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate import SimulateSettings
from sbim_deploy.runs.simulate_mrd import simulate_mrd
from sbim_deploy.samplers.presets import DEFAULT_PRESET, PRESETS
from sbim_deploy.serving import intake, worker
from sbim_deploy.serving.intake import prepare

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are served")
SIZE, COILS = 32, 3
CHOICE = replace(PRESETS[DEFAULT_PRESET].choice, steps=2)  # of QUICK


def make(folder, kind):
    path = folder / f"{kind}.h5"
    simulate_mrd(path, SimulateSettings(2, COILS, SIZE, 2.0, noise=0.02, trajectory=kind))
    with open_scan(path) as file:
        return path, file.xml.decode(), list(file.readouts())


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """A file of two slices of golden-angle spokes, its header and its readouts."""
    return make(tmp_path_factory.mktemp("golden"), "golden")


@pytest.fixture(scope="module")
def server():
    with serving(keep_grid=True) as running:
        yield running


def run_recon(path, folder, **settings):
    """The images that recon makes of a file, in order."""
    out = folder / "recon.h5"
    engine = {} if "method" in settings else {"backend": "onnxruntime", "threads": 1}
    reconstruct_file(path, out, ReconSettings(**engine, **settings))
    with open_result(out) as result:
        return [result.read_image(place) for place in range(len(result.slice_indices))]


def assert_is(image, expected):
    """Equal but for the rounding of the pixels."""
    step = float(attributes(image)["RealWorldValueSlope"])
    assert np.abs(pixels(image) * step - np.abs(expected)).max() <= 0.51 * step


@pytest.mark.parametrize("kind", ["golden", "radial", "spiral"])
def test_a_scan_comes_back_slice_by_slice_as_recon_makes_it_of_the_file(server, tmp_path, kind):
    path, xml, messages = make(tmp_path, kind)
    images = run_session(server, messages, xml=xml)
    expected = run_recon(path, tmp_path, choice=CHOICE)
    assert len(images) == len(expected) == 2
    with open_source(path) as file:
        for number, (image, ours) in enumerate(zip(images, expected, strict=True)):
            assert_is(image, ours)
            geometry, header = file.geometry(number), image.header
            assert (header["slice"], header["image_index"]) == (number, number + 1)
            np.testing.assert_allclose(header["position"], geometry.position, rtol=1e-6)
            assert header["field_of_view"].tolist() == list(geometry.field_of_view_mm)
            history = attributes(image)["ImageProcessingHistory"]
            assert all(remark in history for remark in file.describe()["assumed"])
            assert "seen by the network in 8 orientations in turn" in history
            assert "FALLBACK" not in attributes(image)["ImageComments"]


def test_what_is_made_of_the_stream_is_what_recon_makes_of_the_file_to_the_bit(golden, tmp_path):
    path, xml, messages = golden
    assembler = TrajectoryAssembler(parse_mrd_header(xml, "scan"))
    slices = [each for message in messages for each in assembler.add(message)]
    model = load_model("demo")
    reconstruct = Reconstructor(model, CHOICE, backend="onnxruntime", threads=1, graph=SCORE_GRAPH)
    for data, expected in zip(slices, run_recon(path, tmp_path, choice=CHOICE), strict=True):
        (ours,) = reconstruct([prepare(data)])
        np.testing.assert_array_equal(ours.image, expected)


def test_replay_sends_such_a_file_and_writes_the_images_that_come_back(server, golden, tmp_path):
    path, xml, messages = golden
    images = run_session(server, messages, xml=xml)
    settings = ReplaySettings("127.0.0.1", server.port, ConfigFile("default"), QUICK, Pace(), 60.0)
    report = replay_file(path, tmp_path / "images.h5", settings)
    assert [image.slice for image in report.images] == [0, 1]
    with h5py.File(tmp_path / "images.h5") as file:
        stored = file["dataset/image_1/data"][:, 0, 0]
        np.testing.assert_array_equal(stored, [image.data[0, 0] for image in images])


def test_an_image_is_sent_before_the_next_slice_is_there(server, golden):
    _, xml, messages = golden
    half = next(place for place, each in enumerate(messages) if each.header["idx"]["slice"] == 1)
    with connected(server) as stream:
        begin(stream, "zero-filled", None, xml)
        for number in range(2):
            for message in messages[number * half :][:half]:
                stream.send(message)
            assert isinstance(stream.receive(LIMITS), Image)
        stream.send(Close())
        assert receive_all(stream) == []


@pytest.mark.parametrize("config", ["zero-filled", "cg-sense", "l1-wavelet"])
def test_linear_configurations_run_without_the_network(server, golden, config, tmp_path):
    path, xml, messages = golden
    images = run_session(server, messages, config, None, xml)
    for image, expected in zip(images, run_recon(path, tmp_path, method=Classical(config)), strict=True):
        assert_is(image, expected)


def test_a_late_slice_is_the_root_sum_of_squares_of_its_gridded_coils(monkeypatch, golden):
    _, xml, messages = golden

    def slow(_data, check):
        while True:
            check()

    with serving(deadline_s=0.3, keep_grid=True) as late:
        with monkeypatch.context() as patched:
            patched.setattr(intake, "prepare", slow)
            got = run_session(late, messages, xml=xml)
        good = run_session(late, messages, "zero-filled", None, xml)
    for image, gridded in zip(got, good, strict=True):
        assert "FALLBACK root-sum-of-squares (deadline)" in attributes(image)["ImageComments"]
        a, b = (pixels(each).astype(float).ravel() for each in (image, gridded))
        assert np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.95


def test_an_engine_that_fails_gives_the_fallback_of_the_server(monkeypatch, golden, tmp_path):
    path, xml, messages = golden
    opened = worker.open_engine

    def broken(model, graph, *arguments):
        if graph == SCORE_GRAPH:
            raise RuntimeError("no such engine")
        return opened(model, graph, *arguments)

    monkeypatch.setattr(worker, "open_engine", broken)
    with serving(keep_grid=True) as failing:
        images = run_session(failing, messages, xml=xml)
    expected = run_recon(path, tmp_path, method=Classical("l1-wavelet"))
    for image, ours in zip(images, expected, strict=True):
        assert "FALLBACK l1-wavelet (engine)" in attributes(image)["ImageComments"]
        assert_is(image, ours)


def changed(readout, data=None, trajectory=None, **fields):
    header = readout.header.copy()
    for name, value in fields.items():
        (header["idx"] if name in header["idx"].dtype.names else header)[name] = value
    data = readout.data if data is None else data
    header["active_channels"], header["number_of_samples"] = data.shape
    if trajectory is not None:
        header["trajectory_dimensions"] = trajectory.shape[1]
    return replace(
        readout,
        header=header,
        data=np.ascontiguousarray(data),
        trajectory=readout.trajectory if trajectory is None else trajectory,
    )


def not_finite(xml, spokes):
    return xml, [*spokes[:-1], changed(spokes[-1], trajectory=spokes[-1].trajectory * np.float32("nan"))]


def larger_than_memory(xml, spokes):
    size = f"<x>{SIZE}</x><y>{SIZE}</y>"
    assert size in xml
    return xml.replace(size, "<x>8192</x><y>8192</y>"), spokes


def other_lengths(xml, spokes):
    last = spokes[-1]
    return xml, [*spokes[:-1], changed(last, last.data[:, 8:], last.trajectory[8:])]


def without_trajectory(xml, _spokes):
    return xml, readouts(kspace_of(0))


def three_dimensional(xml, spokes):
    last = spokes[-1]
    deep = np.pad(last.trajectory, [(0, 0), (0, 1)], constant_values=0.2)
    return xml, [*spokes[:-1], changed(last, trajectory=deep)]


def stack_of_stars(xml, spokes):
    return xml, [*spokes[:-1], changed(spokes[-1], kspace_encode_step_2=1)]


def beyond_the_matrix(xml, spokes):
    return xml, [changed(each, trajectory=each.trajectory * np.float32(1e6)) for each in spokes]


def epi(xml, _spokes):
    return xml.replace("goldenangle", "epi"), readouts(kspace_of(0))


HOSTILE = {
    not_finite: "places that are not finite",
    larger_than_memory: "the work on a slice would take",
    other_lengths: "readouts have 56 and 64 samples, expected as many in each",
    without_trajectory: "the trajectory is 'goldenangle', and a readout carries one of 0 dimensions",
    three_dimensional: "its trajectory is three-dimensional",
    stack_of_stars: "is 3D, a stack with kspace_encode_step_2 of 0 and 1",
    beyond_the_matrix: "cycles per field of view along the rows",
    epi: "trajectory is 'epi', which is not read",
}


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda each: each.__name__)
def test_what_cannot_be_read_ends_the_session_with_one_line_and_the_server_goes_on(server, golden, hostile):
    _, xml, messages = golden
    spokes = [each for each in messages if each.trajectory is not None and not each.header["idx"]["slice"]]
    header, sent = hostile(xml, spokes)
    got = run_session(server, sent, "zero-filled", None, header)
    (told,) = words(got)
    assert HOSTILE[hostile] in told
    assert "\n" not in told
    assert gives_back(server)
    assert len(run_session(server, messages, "zero-filled", None, xml)) == 2


def test_a_slice_with_values_that_are_not_finite_falls_back_alone_and_says_why(server, golden):
    _, xml, messages = golden
    spoiled = list(messages)
    place = next(place for place, each in enumerate(messages) if each.trajectory is not None)
    spoiled[place] = changed(spoiled[place], spoiled[place].data * np.float32("nan"))
    bad, good = run_session(server, spoiled, "zero-filled", None, xml)
    assert "FALLBACK root-sum-of-squares (data: slice 0 of" in attributes(bad)["ImageComments"]
    assert pixels(bad).any()
    assert "FALLBACK" not in attributes(good)["ImageComments"]


def test_slices_in_progress_count_against_the_memory_and_it_comes_back(golden):
    _, xml, messages = golden
    spokes = [each for each in messages if each.trajectory is not None]
    work = work_bytes((COILS, SIZE, SIZE), 16, 40 * 2 * SIZE)
    many = [changed(each, slice=number, flags=0) for number in range(60) for each in spokes]
    with serving(max_memory_bytes=work + 2**20) as small:
        (told,) = words(run_session(small, many, "zero-filled", None, xml))
        assert "MiB" in told
        assert "raise --max-memory" in told
        assert gives_back(small)


def test_a_header_that_counts_partitions_is_refused_before_the_readouts(server, golden):
    _, xml, messages = golden
    counted = xml.replace("<z>1</z>", "<z>4</z>", 1).replace(
        "<kspace_encoding_step_2><minimum>0</minimum><maximum>0</maximum>",
        "<kspace_encoding_step_2><minimum>0</minimum><maximum>3</maximum>",
    )
    (told,) = words(run_session(server, messages[:1], xml=counted))
    assert "is 3D, a stack of 4 partitions, expected 2D slices: recon --dimensions 3 takes" in told


def test_without_finufft_the_client_hears_what_to_install(monkeypatch, server, golden):
    def missing():
        raise BackendMissingError("finufft is not installed: pip install -e /srv/sbim-deploy[noncartesian]")

    monkeypatch.setattr(intake, "import_finufft", missing)
    _, xml, messages = golden
    (told,) = words(run_session(server, messages[:1], xml=xml))
    assert "take finufft, which this server lacks: have the extra noncartesian installed there" in told
    assert "/srv" not in told
    assert told.endswith("; serve --save-raw keeps what is sent in a file")


def test_what_is_refused_is_kept_whole_where_raw_data_are(golden, tmp_path):
    _, xml, messages = golden
    spokes = [each for each in messages if each.trajectory is not None]
    _, sent = three_dimensional(xml, spokes)
    with serving(save_raw=tmp_path) as keeping:
        (told,) = words(run_session(keeping, sent, "zero-filled", None, xml))
    (made,) = tmp_path.iterdir()
    assert told.endswith(f"; what was sent is kept as {made.name}")
    with open_scan(made) as file:
        assert file.n_readouts == len(sent)
