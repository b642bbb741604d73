"""Sessions over loopback, with real bytes: what comes back, and what is refused."""

import shutil
import subprocess
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from mrd_client import (
    COILS,
    LIMITS,
    QUICK,
    SIZE,
    attributes,
    begin,
    connected,
    header_xml,
    kspace_of,
    pixels,
    readouts,
    receive_all,
    run_session,
    serving,
    words,
)

from mrd_samples import sample_waveform
from sbim_deploy import SamplerChoice, load_model
from sbim_deploy.kspace import readouts as kspace_readouts
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.file import open_mrd
from sbim_deploy.mrd.messages import (
    ACQUISITION_HEADER,
    Close,
    ConfigFile,
    ConfigText,
    Error,
    Flag,
    Header,
    Image,
    Readout,
    Text,
)
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mrd.recording import open_scan
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.streams import work_bytes
from sbim_deploy.serving.session import configuration_of_xml
from simulated_mrd import make_scan, write_mrd


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def model():
    return load_model("demo", SamplerChoice(steps=2), backend="onnxruntime", threads=1)


def expected_magnitude(model, number):
    return np.abs(model.reconstruct(kspace_of(number), index=number).image)


def assert_like(got, expected):
    """Equal up to one scale and the rounding of 12 bits."""
    scale = np.vdot(expected, got) / np.vdot(expected, expected)
    assert np.abs(got - scale * expected).max() <= 0.51 + 1e-3 * got.max()


def test_a_slice_comes_back_as_recon_makes_it_with_its_place_and_how_it_was_made(server, model):
    (image,) = run_session(server, readouts(kspace_of(3), 3))
    assert_like(pixels(image), expected_magnitude(model, 3))
    assert image.header["position"].tolist() == [1.0, 2.0, 6.0]
    assert (image.header["slice"], image.header["measurement_uid"]) == (3, 77)
    assert image.header["field_of_view"].tolist() == [220.0, 220.0, 5.0]
    assert image.header["image_type"] == 1
    meta = attributes(image)
    assert meta["DataRole"] == "Image"
    history = " ".join(meta["ImageProcessingHistory"])
    assert "balanced" in history
    assert "residual" in history
    assert "research use only" in history
    assert "research use only" in meta["ImageComments"]
    assert "fallback" not in history
    assert (meta["WindowCenter"], meta["WindowWidth"]) == ("512", "1024")
    assert np.percentile(pixels(image), 99.9) == pytest.approx(4095 / 4, rel=0.01)


def test_an_image_that_may_be_wrong_says_so_in_its_comment(server):
    kspace = kspace_of(0)
    limit = np.abs(kspace).max() / 3
    clipped = kspace.view(np.float32).clip(-limit, limit).view(np.complex64)
    good, bad = (run_session(server, readouts(each, 0))[0] for each in (kspace, clipped))
    assert "DOUBTFUL" not in attributes(good)["ImageComments"]
    assert "DOUBTFUL: " in attributes(bad)["ImageComments"]
    assert "overdriven" in attributes(bad)["ImageComments"]


@pytest.mark.parametrize(
    "scan",
    [
        {"oversampling": 2, "acceleration": 3, "calib_width": 12, "calibration_mode": "separate"},
        {"n_averages": 2, "noise": 0.01, "n_noise_readouts": 4, "skipped_lines": 6, "reversed_lines": True},
    ],
    ids=["oversampled-separate-calibration", "averaged-whitened-partial-reversed"],
)
def test_a_scan_comes_back_as_recon_makes_it_of_the_file(server, model, tmp_path, scan):
    made = make_scan(n_slices=2, size=48, interleaved=True, acceleration=scan.pop("acceleration", 1), **scan)
    images = run_session(server, made.readouts, xml=made.xml)
    assert len(images) == 2
    with open_source(write_mrd(tmp_path / "scan.h5", made)) as file:
        for index, image in enumerate(images):
            problem = prepare_slice(
                file.read_slice(index),
                index,
                image_shape=file.recon_shape,
                calibration=file.read_calibration(index),
                noise=file.read_noise(index),
            )
            (expected,) = model._reconstructor(None, None)([problem])
            assert pixels(image).shape == (48, 48)
            assert_like(pixels(image), np.abs(expected.image))


def test_interleaved_slices_come_in_the_order_in_which_they_complete(server, model):
    scans = [readouts(kspace_of(number), number) for number in range(3)]
    interleaved = [line for lines in zip(*(scans[i] for i in (2, 0, 1)), strict=True) for line in lines]
    images = run_session(server, interleaved)
    assert [int(image.header["slice"]) for image in images] == [2, 0, 1]
    assert [int(image.header["image_index"]) for image in images] == [3, 1, 2]
    for image in images:
        assert_like(pixels(image), expected_magnitude(model, int(image.header["slice"])))


def test_an_image_is_sent_before_the_next_slice_is_there(server):
    with connected(server) as stream:
        begin(stream)
        for number in range(2):
            for readout in readouts(kspace_of(number), number):
                stream.send(readout)
            assert isinstance(stream.receive(LIMITS), Image)
        stream.send(Close())
        assert receive_all(stream) == []


def test_repetitions_are_series_of_their_own_on_one_scale(server):
    first, second = kspace_of(0), kspace_of(0, gain=2.0)
    images = run_session(server, [*readouts(first), *readouts(second, repetition=1)])
    assert [int(image.header["image_series_index"]) for image in images] == [1, 2]
    assert [int(image.header["repetition"]) for image in images] == [0, 1]
    dark, bright = (pixels(image).astype(float) for image in images)
    assert np.vdot(dark, bright) / np.vdot(dark, dark) == pytest.approx(2, rel=0.02)


def test_slices_without_a_last_flag_are_complete_at_close(server, model):
    images = run_session(server, readouts(kspace_of(1), 1, last=False))
    assert_like(pixels(images[0]), expected_magnitude(model, 1))


@pytest.mark.parametrize("config", ["zero-filled", "cg-sense", "l1-wavelet"])
def test_linear_configurations_run_without_the_network(server, config):
    (image,) = run_session(server, readouts(kspace_of(0)), config, parameters=None)
    assert config in " ".join(attributes(image)["ImageProcessingHistory"])
    if config == "zero-filled":
        assert_like(pixels(image), np.abs(prepare_slice(kspace_of(0)).mvue))


def test_parameters_may_name_the_configuration_as_openrecon_does(server):
    text = '{"version": "1.0.0", "parameters": {"config": "zero-filled"}}'
    (image,) = run_session(server, readouts(kspace_of(0)), "openrecon", text)
    assert "zero-filled" in attributes(image)["ImageProcessingHistory"]


@pytest.mark.parametrize(
    ("config", "parameters", "said"),
    [
        ("invertcontrast", None, "unknown configuration 'invertcontrast': expected one of fast,"),
        ("default", '{"parameters": {"config": "os.system"}}', "unknown configuration 'os.system'"),
        ("default", '{"parameters": {"steps": 100000}}', "parameters.steps"),
        ("default", '{"parameters": {"stepz": 4}}', "parameters: unknown key 'stepz'"),
        ("default", "steps=4", "parameters: is not JSON"),
        ("zero-filled", '{"parameters": {"steps": 4}}', "zero-filled has no steps"),
    ],
)
def test_what_is_not_on_the_list_is_an_error_that_the_client_sees(server, config, parameters, said):
    got = run_session(server, [], config, parameters)
    assert len(got) == 1
    assert said in words(got)[0]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([Header(header_xml())], "got HEADER, expected CONFIG"),
        ([Close()], "got CLOSE, expected CONFIG"),
        ([ConfigFile("default"), ConfigFile("default")], "got CONFIG, expected HEADER"),
        ([ConfigFile("default"), readouts(kspace_of(0))[0]], "got ACQUISITION, expected HEADER"),
        ([ConfigFile("default"), Header(header_xml()), Text(QUICK), Text(QUICK)], "got TEXT, expected"),
        ([ConfigFile("default"), Header(header_xml()), Header(header_xml())], "got HEADER, expected"),
    ],
)
def test_a_wrong_order_is_refused_in_words_and_with_close(server, messages, said):
    with connected(server) as stream:
        for message in messages:
            stream.send(message)
        assert said in words(receive_all(stream))[0]


def test_slices_that_were_complete_before_an_error_are_sent_before_its_words(server):
    got = run_session(server, [*readouts(kspace_of(0)), Header(header_xml())])
    assert isinstance(got[0], Image)
    assert "wrong order" in words(got)[0]


def test_a_configuration_may_come_as_text(server):
    with connected(server) as stream:
        stream.send(ConfigText("zero-filled"))
        stream.send(Header(header_xml()))
        for message in (*readouts(kspace_of(0)), Close()):
            stream.send(message)
        assert isinstance(receive_all(stream)[0], Image)


def test_gadgetron_may_send_any_xml_and_gets_errors_as_its_own_message():
    xml = "<configuration><stream><preset>{}</preset></stream></configuration>"
    with serving(gadgetron=True) as server:
        named, unknown = xml.format("zero-filled"), xml.format("x")
        for text, kind in [(named, Image), ("<configuration/>", Image), (unknown, Error), ("<", Error)]:
            with connected(server) as stream:
                stream.send(ConfigText(text))
                stream.send(Header(header_xml()))
                if kind is Image:
                    for message in readouts(kspace_of(0)):
                        stream.send(message)
                    stream.send(Close())
                (message,) = receive_all(stream)
                assert isinstance(message, kind)


def test_a_silent_client_is_let_go_in_words_and_one_that_waits_for_its_image_is_not():
    with serving(idle_timeout_s=0.3) as server, connected(server) as silent:
        begin(silent, "thesis", parameters=None)
        for readout in readouts(kspace_of(0)):
            silent.send(readout)
        image, error = receive_all(silent)
        assert isinstance(image, Image)
        assert "no message came for 0.3 s" in error.text


def test_sessions_beyond_the_number_allowed_are_turned_away_in_words():
    with serving(max_sessions=1) as server, connected(server) as first:
        begin(first)
        while not [session for session in list(server._sessions) if session.has_header]:
            time.sleep(0.01)
        with connected(server) as second:
            assert "1 sessions are open" in words(receive_all(second))[0]
        first.send(Close())
        assert receive_all(first) == []


def test_memory_over_the_bound_ends_the_session_in_words_and_comes_back():
    work = work_bytes((COILS, SIZE, SIZE), 16)
    with serving(max_memory_bytes=work + 2**20) as server:
        many = [line for number in range(15) for line in readouts(kspace_of(number), number, last=False)]
        (said,) = words(run_session(server, many))
        assert "MiB more" in said
        assert "for the work on a slice" in said
        assert isinstance(run_session(server, readouts(kspace_of(0)))[0], Image)
        assert server.buffered_bytes == 0


def test_work_over_the_bound_is_refused_before_memory_is_taken(monkeypatch):
    def taken(*_arguments):
        raise AssertionError("memory was taken")

    monkeypatch.setattr(kspace_readouts, "SliceBuffer", taken)
    size, n_coils = 4096, 8
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["number_of_samples"], header["center_sample"] = 256, 128
    header["active_channels"] = header["available_channels"] = n_coils
    header["idx"]["kspace_encode_step_1"] = size // 2
    hostile = Readout(header, np.ones((n_coils, 256), np.complex64))
    with serving() as server:  # of 4 GiB
        (said,) = words(run_session(server, [hostile], xml=header_xml(size)))
        assert "the work on a slice would take" in said
        assert "raise --max-memory" in said
        assert server.buffered_bytes == 0


def test_a_grid_that_readouts_cannot_fill_is_refused(server):
    short = readouts(kspace_of(0))[:1]
    (said,) = words(run_session(server, short, xml=header_xml(2048)))
    assert "a readout has 48 samples where the grid has 2048" in said


@pytest.mark.parametrize(("vendor", "asked"), [("SIEMENS", "auto"), ("none", "turned")])
def test_conjugated_raw_data_come_back_the_right_way_round(server, vendor, asked):
    xml = header_xml().replace(
        "<experimentalConditions>",
        f"<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor></acquisitionSystemInformation>"
        "<experimentalConditions>",
    )
    conjugated = [replace(each, data=each.data.conj()) for each in readouts(kspace_of(0))]
    (plain,) = run_session(server, readouts(kspace_of(0)), "zero-filled", None)
    with serving(orientation=Orientation(asked)) as other:
        (image,) = run_session(other, conjugated, "zero-filled", None, xml)
    assert np.abs(pixels(image) - pixels(plain)).max() <= 1
    assert any("conjugated" in each for each in attributes(image)["ImageProcessingHistory"])


def test_raw_data_are_kept_only_where_asked_for_and_as_they_came(tmp_path):
    from ismrmrd import Acquisition, ProtocolDeserializer, Waveform, xsd

    sent = [sample_waveform(), *readouts(kspace_of(0))]
    with serving(save_raw=tmp_path) as server:
        assert len(run_session(server, sent)) == 1
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".mrd"
    assert path.stat().st_mode & 0o077 == 0
    assert b"Doe" in path.read_bytes()
    with path.open("rb") as file:
        header, waveform, *acquisitions = ProtocolDeserializer(file).deserialize()
    assert isinstance(header, xsd.ismrmrdHeader)
    assert isinstance(waveform, Waveform)
    np.testing.assert_array_equal(waveform.data, sent[0].data)
    assert len(acquisitions) == len(sent) - 1
    for kept, readout in zip(acquisitions, sent[1:], strict=True):
        assert isinstance(kept, Acquisition)
        assert bytes(kept.getHead()) == readout.header.tobytes()
        np.testing.assert_array_equal(kept.data, readout.data)


def test_a_client_that_vanishes_leaves_what_it_sent_under_the_files_name(tmp_path):
    sent = readouts(kspace_of(0))
    with serving(save_raw=tmp_path) as server, connected(server) as stream:
        begin(stream)
        for readout in sent[:5]:
            stream.send(readout)
        # A server that ends at once on a busy machine may not have read them.
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("*.mrd*")) and time.monotonic() < deadline:
            time.sleep(0.01)
    (path,) = tmp_path.iterdir()
    with open_scan(path) as scan:
        assert (path.suffix, scan.n_readouts) == (".mrd", 5)
        assert "cut off" in scan.remarks[0]


GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    if shutil.which(GENERATOR) is None:
        pytest.skip(f"{GENERATOR} is not installed (Debian: ismrmrd-tools): no scan of another program's")
    path = tmp_path_factory.mktemp("generated") / "scan.h5"
    command = [GENERATOR, "-m", "128", "-c", "4", "-O", "2", "-a", "4", "-w", "24", "-n", "0.01", "-C"]
    subprocess.run([*command, "-o", path], check=True, capture_output=True)
    return path


def truth(path):
    with h5py.File(path) as file:
        phantom, maps = (np.squeeze(file[f"dataset/{name}"][...]) for name in ("phantom", "csm"))
    norm = np.sqrt((maps["real"] ** 2 + maps["imag"] ** 2).sum(axis=0))
    return (np.abs(phantom["real"] + 1j * phantom["imag"]) * norm).T  # y, x to rows, columns


def error(image, expected):
    got = pixels(image).astype(float)
    return np.linalg.norm(got * np.vdot(got, expected) / np.vdot(got, got) - expected)


def test_every_repetition_comes_back_with_half_of_zero_fillings_error_or_less(generated):
    with open_mrd(generated) as scan:
        xml, readouts = scan.xml.decode(), list(scan.readouts())
    with serving() as server:
        modelled = run_session(server, readouts, "fast", None, xml)
        zero_filled = run_session(server, readouts, "zero-filled", None, xml)
    assert [int(image.header["repetition"]) for image in modelled] == [0, 1, 2, 3]
    # The generator names no directions, but the field of view is known all the same.
    assert all(image.header["field_of_view"].tolist() == [300.0, 300.0, 6.0] for image in modelled)
    expected = truth(generated)
    for ours, theirs in zip(modelled, zero_filled, strict=True):
        assert error(ours, expected) < 0.5 * error(theirs, expected)


SCAN = {"size": 48, "noise": 0.01}


def averages_without_limits():
    made = make_scan(n_averages=2, **SCAN)
    start, end = made.xml.index("<average>"), made.xml.index("</average>") + len("</average>")
    for readout in made.readouts:
        last = int(readout.header["idx"]["kspace_encode_step_1"]) == 47
        readout.header["flags"] = 1 << (Flag.LAST_IN_SLICE - 1) if last else 0
    return replace(made, xml=made.xml[:start] + made.xml[end:])


def calibration_after_the_image():
    made = make_scan(
        n_slices=2,
        acceleration=3,
        calib_width=12,
        calibration_mode="separate",
        last_in_measurement=False,
        **SCAN,
    )
    return replace(made, readouts=[*made.readouts[24:], *made.readouts[:24]])


def dead_noise_channel():
    made = make_scan(n_noise_readouts=4, **SCAN)
    for readout in made.readouts[:4]:
        readout.data[1] = 0
    return made


@pytest.mark.parametrize("make", [averages_without_limits, calibration_after_the_image, dead_noise_channel])
def test_an_odd_scan_comes_back_as_recon_makes_it_of_the_file(server, model, tmp_path, make):
    made = make()
    images = {
        int(each.header["slice"]): each
        for each in run_session(server, made.readouts, xml=made.xml)
        if isinstance(each, Image)
    }
    with open_source(write_mrd(tmp_path / "scan.h5", made)) as file:
        assert sorted(images) == list(range(file.n_slices))
        for index, image in images.items():
            problem = prepare_slice(
                file.read_slice(index),
                index,
                image_shape=file.recon_shape,
                calibration=file.read_calibration(index),
                noise=file.read_noise(index),
            )
            (expected,) = model._reconstructor(None, None)([problem])
            assert_like(pixels(image), np.abs(expected.image))
        assumed = file.describe()["assumed"] or []
    history = attributes(images[0])["ImageProcessingHistory"]
    assert all(each in history for each in assumed)
    assert bool(assumed) == (make is dead_noise_channel)


def test_a_slice_with_values_that_are_not_finite_falls_back_alone_and_says_why(server):
    made = make_scan(n_slices=2, **SCAN)
    made.readouts[20].data[:] = np.nan
    bad, good = run_session(server, made.readouts, xml=made.xml)
    assert "FALLBACK root-sum-of-squares (data: slice 0 of" in attributes(bad)["ImageComments"]
    assert "not finite" in attributes(bad)["ImageComments"]
    assert pixels(bad).any()
    assert "FALLBACK" not in attributes(good)["ImageComments"]


def test_a_preset_in_a_default_namespace_is_found():
    xml = '<configuration xmlns="http://gadgetron.org/gadgetron"><preset>zero-filled</preset></configuration>'
    assert configuration_of_xml(xml) == "zero-filled"
