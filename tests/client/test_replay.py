import json
import socket
import time

import h5py
import numpy as np
import pytest

from loopback_server import answer_then_drain, echo, image_of, receive_all, serving
from mrd_scans import write_scan
from sbim_deploy.client.replay import Clock, Pace, ReplayError, ReplaySettings, parse_pace, replay_file
from sbim_deploy.errors import InputError
from sbim_deploy.mrd.file import open_mrd
from sbim_deploy.mrd.messages import (
    ACQUISITION_HEADER,
    Close,
    ConfigFile,
    ConfigText,
    Error,
    Header,
    Readout,
    Text,
)
from sbim_deploy.mrd.stream import Limits


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scan.h5")


def settings_for(port, **changes):
    values = {"config": ConfigFile("sbim"), "parameters": None, "pace": Pace(), "timeout_s": 5.0}
    return ReplaySettings("127.0.0.1", port, **{**values, **changes})


def replay(scan, session, **changes):
    """Replay to a server; give the report, what the server returned and the output's path."""
    output = scan.with_name("out.h5")
    with serving(session) as (port, future):
        report = replay_file(scan, output, settings_for(port, **changes))
        return report, future.result(), output


def fails(scan, session, **changes):
    """Replay to a server that fails; give the error's line."""
    output = scan.with_name("out.h5")
    with serving(session) as (port, _), pytest.raises(ReplayError) as caught:
        replay_file(scan, output, settings_for(port, **changes))
    assert sorted(scan.parent.iterdir()) == [scan]
    assert "\n" not in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)
    return str(caught.value)


def test_a_session_is_configuration_header_parameters_readouts_and_close(scan):
    _, messages, _ = replay(scan, echo, parameters='{"parameters": {"steps": 4}}')
    assert messages[0] == ConfigFile("sbim")
    with open_mrd(scan) as file:
        assert messages[1] == Header(file.xml.decode())
        expected = list(file.readouts())
    assert messages[2] == Text('{"parameters": {"steps": 4}}')
    assert len(messages) == 3 + 9
    for theirs, ours in zip(messages[3:], expected, strict=True):
        assert theirs.header.tobytes() == ours.header.tobytes()
        np.testing.assert_array_equal(theirs.data, ours.data)


def test_a_configuration_may_be_a_text(scan):
    _, messages, _ = replay(scan, echo, config=ConfigText("<configuration/>"))
    assert messages[0] == ConfigText("<configuration/>")
    assert isinstance(messages[2], Readout)


def test_the_images_are_in_the_output_and_the_report(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", n_slices=3, n_repetitions=2)
    report, _, output = replay(scan, echo)
    assert [(image.slice, image.repetition) for image in report.images] == [
        (number, repetition) for repetition in range(2) for number in range(3)
    ]
    assert all(0 <= image.latency_s < 5 for image in report.images)
    assert report.n_readouts == 25
    with h5py.File(output) as file:
        images = file["dataset/image_1"]
        np.testing.assert_array_equal(images["data"][:, 0, 0, 0, 0], range(4, 25, 4))
        np.testing.assert_array_equal(images["header"]["slice"], [0, 1, 2] * 2)
        assert images["attributes"].asstr()[0] == "<ismrmrdMeta/>"
    with open_mrd(scan) as file, h5py.File(output) as result:
        assert result["dataset/xml"][0] == file.xml


def test_the_latency_counts_from_the_last_readout_of_the_image_s_slice(scan):
    def late(stream):
        readouts = [message for message in receive_all(stream) if isinstance(message, Readout)]
        time.sleep(0.3)
        stream.send(image_of(readouts[4]))  # the end of slice 0, four readouts before the end
        stranger = image_of(readouts[4])
        stranger.header["slice"] = 9
        stream.send(stranger)
        stream.send(Close())

    report, _, _ = replay(scan, late, pace=Pace(0.05))
    assert 0.4 < report.images[0].latency_s < 2  # the last readout of all went out 0.2 s later
    assert report.images[1].latency_s is None


def test_a_server_that_answers_before_it_reads_does_not_block(tmp_path):
    scan = write_scan(
        tmp_path / "scan.h5", n_slices=64, n_lines=4, samples=16384
    )  # 64 MiB, above all buffers

    def early(stream):
        readout = stream_first_readout(stream)
        large = image_of(readout)
        large.header["matrix_size"] = (1024, 1024, 1)
        large = type(large)(large.header, "", np.zeros((1, 1, 1024, 1024), np.int16))
        for _ in range(16):
            stream.send(large)
        receive_all(stream)
        stream.send(Close())

    report, _, _ = replay(scan, early)
    assert len(report.images) == 16


def stream_first_readout(stream):
    while not isinstance(message := stream.receive(Limits()), Readout):
        pass
    return message


@pytest.mark.parametrize("message", [Error("no such configuration"), Text("no such configuration")])
def test_what_the_server_complains_of_is_the_error(scan, message):
    line = fails(scan, answer_then_drain(message, Close()))
    assert "reported: no such configuration" in line


def test_a_complaint_is_heard_from_a_server_that_then_goes(scan):
    def complain(stream):
        stream.receive(Limits())
        stream.send(Error("bad\nheader \x1b[31m"))
        stream.close(1.0)

    assert "reported: bad header ?[31m; " in fails(scan, complain, pace=Pace(0.02))


def test_other_servers_log_lines_are_notes(scan):
    def chatty(stream):
        stream.send(Text("INFO     ready"))
        return echo(stream)

    report, _, _ = replay(scan, chatty)
    assert report.notes == ("INFO ready",)


def test_a_server_that_goes_away_is_an_error(scan):
    def vanish(stream):
        stream.receive(Limits())

    line = fails(scan, vanish, pace=Pace(0.02))
    assert "connection" in line


def test_a_server_that_closes_early_is_an_error(scan):
    assert "ended the session early" in fails(scan, answer_then_drain(Close()), pace=Pace(0.05))


def test_a_server_that_sends_nothing_is_an_error(scan):
    def silent(stream):
        receive_all(stream)
        stream.send(Close())

    assert "sent no image: 9 of 9 readouts sent, 0 images received" in fails(scan, silent)


def test_a_server_that_never_answers_meets_the_time_out(scan):
    def asleep(stream):
        receive_all(stream)
        time.sleep(1.5)

    started = time.monotonic()
    assert "no message came for 0.3 s" in fails(scan, asleep, timeout_s=0.3)
    assert time.monotonic() - started < 4


def test_a_server_that_takes_nothing_meets_the_time_out(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", n_slices=64, n_lines=4, samples=16384)

    def deaf(stream):
        time.sleep(1.5)

    assert "did not take a message within 0.3 s" in fails(scan, deaf, timeout_s=0.3)


def test_a_server_may_be_silent_for_longer_than_the_time_out_while_the_scan_goes_on(scan):
    report, _, _ = replay(scan, echo, pace=Pace(0.1), timeout_s=0.3)
    assert len(report.images) == 2
    assert report.sent_s > 0.7


def test_garbage_from_the_server_is_an_error(scan):
    def garbage(stream):
        stream._outgoing.sendall(b"\xff\xff")
        receive_all(stream)

    assert "message id 65535" in fails(scan, garbage)


def test_a_scan_that_is_damaged_half_way_leaves_no_output(scan):
    with h5py.File(scan, "r+") as file:
        row = file["dataset/data"][5]
        row["data"] = np.zeros(3, np.float32)
        file["dataset/data"][5] = row
    with serving(answer_then_drain()) as (port, _), pytest.raises(InputError, match="readout 5"):
        replay_file(scan, scan.with_name("out.h5"), settings_for(port))
    assert sorted(scan.parent.iterdir()) == [scan]


def test_a_scan_is_sent_as_its_stamps_say(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", ticks=10)
    report, _, _ = replay(scan, echo, pace=parse_pace("stamps"))
    assert 8 * 0.025 <= report.sent_s < 2


def test_stamps_that_do_not_advance_are_refused(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", ticks=0)
    with pytest.raises(InputError, match="all time stamps are 0"):
        replay_file(scan, tmp_path / "out.h5", settings_for(1, pace=parse_pace("stamps")))


def at(port):
    return f"127.0.0.1:{port}"


class TestCommand:
    def test_prints_a_table_and_writes_the_images(self, cli, scan, tmp_path):
        with serving(echo) as (port, _):
            done = cli("replay", scan, "-o", tmp_path / "out.h5", "--server", at(port))
        assert done.code == 0, done.err
        assert [line.split()[:3] for line in done.out.splitlines()[1:]] == [["1", "4", "0"], ["1", "8", "1"]]
        assert "2 images; 9 readouts sent" in done.err
        assert (tmp_path / "out.h5").is_file()

    def test_prints_json(self, cli, scan, tmp_path):
        with serving(echo) as (port, future):
            done = cli(
                *("replay", scan, "-o", tmp_path / "out.h5", "--server", at(port), "--json"),
                *("--configuration", "sbim"),
                *("--parameters", "{}"),
            )
            assert future.result()[0] == ConfigFile("sbim")
        report = json.loads(done.out)
        assert [image["slice"] for image in report["images"]] == [0, 1]

    def test_sends_a_configuration_s_text(self, cli, scan, tmp_path):
        (tmp_path / "config.xml").write_text("<configuration/>")
        with serving(echo) as (port, future):
            cli(
                *("replay", scan, "-o", tmp_path / "out.h5", "--server", at(port)),
                *("--configuration-file", tmp_path / "config.xml"),
            )
            assert future.result()[0] == ConfigText("<configuration/>")

    def test_a_server_s_error_is_exit_code_1(self, cli, scan, tmp_path):
        with serving(answer_then_drain(Error("no"), Close())) as (port, _):
            done = cli("replay", scan, "-o", tmp_path / "out.h5", "--server", at(port))
        assert done.code == 1
        assert "reported: no" in done.error_line

    def test_no_server_is_bad_input(self, cli, scan, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        done = cli("replay", scan, "-o", tmp_path / "out.h5", "--server", at(port))
        assert done.code == 2
        assert "cannot connect" in done.error_line

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--configuration", "a", "--configuration-file", "b"),
            ("--configuration-file", "missing.xml"),
            ("--parameters", "[1]"),
            ("--server", "127.0.0.1:0"),
            ("--server", "127.0.0.1"),
            ("--server", ":9002"),
            ("--timeout", "0"),
            ("--server", "no..such..host:9002"),
        ],
    )
    def test_bad_options_are_one_line(self, cli, scan, tmp_path, arguments):
        done = cli("replay", scan, "-o", tmp_path / "out.h5", *arguments)
        assert done.code == 2
        assert done.error_line


def header_with(stamp):
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["acquisition_time_stamp"] = stamp
    return header


def readouts(*stamps):
    for stamp in stamps:
        header = header_with(stamp)
        yield Readout(header, np.zeros((1, 1), np.complex64))


def test_an_interval_counts_from_the_first_readout():
    clock = Clock(Pace(0.005))
    assert [clock.due(each) for each in readouts(0, 0, 0)] == pytest.approx([0, 0.005, 0.01])


def test_stamps_are_ticks_and_long_pauses_and_jumps_back_are_cut():
    clock = Clock(Pace(by_stamps=True))
    dues = [clock.due(each) for each in readouts(100, 104, 104, 10**6, 50, 52)]
    assert dues == pytest.approx([0, 0.01, 0.01, 10.01, 10.01, 10.015])


@pytest.mark.parametrize("text", ["fast", "nan", "-1", "inf", "20000", ""])
def test_other_paces_are_refused(text):
    with pytest.raises(InputError, match="the pace is"):
        parse_pace(text)
