"""Many clients at once, some of them no good: the others get what they would get alone."""

import json
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mrd_client import (
    QUICK,
    as_bytes,
    attributes,
    begin,
    connected,
    header_xml,
    kspace_of,
    pixels,
    raw_send,
    readouts,
    receive_all,
    run_session,
    serving,
)

from sbim_deploy import SamplerChoice, load_model
from sbim_deploy.mrd.messages import Close, ConfigFile, Header, Text
from sbim_deploy.serving import server as server_module
from sbim_deploy.serving import session as session_module
from sbim_deploy.serving.log import LOGGER, set_up_log
from sbim_deploy.serving.server import Pace

OPENING = as_bytes(ConfigFile("default"), Header(header_xml()), Text(QUICK))


def stall(server):
    """Send half a readout and nothing more, until the server hangs up."""
    return raw_send(server, OPENING + as_bytes(readouts(kspace_of(0))[0])[:500])


def send_garbage(server):
    rng = np.random.default_rng(0)
    return raw_send(server, OPENING + b"\xff\xff" + rng.bytes(20_000))


def vanish(server):
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(OPENING + as_bytes(*readouts(kspace_of(0))[:5]))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end


def test_sixteen_clients_of_which_three_are_no_good_and_the_others_get_their_images():
    model = load_model("demo", SamplerChoice(steps=2), backend="onnxruntime", threads=1)
    expected = [np.abs(model.reconstruct(kspace_of(i), index=i).image) for i in range(13)]
    with serving(idle_timeout_s=2.0) as server:
        with ThreadPoolExecutor(16) as pool:
            bad = [pool.submit(each, server) for each in (stall, send_garbage, vanish)]
            good = [pool.submit(run_session, server, readouts(kspace_of(i), i)) for i in range(13)]
            for magnitude, session in zip(expected, good, strict=True):
                (image,) = session.result(30)
                got = pixels(image)
                scale = np.vdot(magnitude, got) / np.vdot(magnitude, magnitude)
                assert np.abs(got - scale * magnitude).max() <= 0.51 + 1e-3 * scale
            assert b"did not arrive within 2 s" in bad[0].result(30)
            assert b"message id 65535 is unknown" in bad[1].result(30)
            bad[2].result(30)
        wait_for_ends(server)
        assert server.buffered_bytes == 0


def wait_for_ends(server):
    """A session is counted when it has ended, which its client does not see."""
    until = time.monotonic() + 5
    while server.open_sessions:
        assert time.monotonic() < until
        time.sleep(0.02)


def fetch(server, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_count_sessions_slices_and_fallbacks_and_health_and_readiness_are_told():
    kspace = kspace_of(0)
    kspace[:, :, 22:27] = 0  # no calibration lines
    with serving(metrics_port=0) as server:
        run_session(server, [*readouts(kspace_of(0)), *readouts(kspace_of(1), 1)])
        run_session(server, readouts(kspace))
        run_session(server, [], "unknown")
        wait_for_ends(server)
        status, text = fetch(server, "/metrics")
        assert status == 200
        for line in (
            'sbim_sessions_total{outcome="completed"} 2.0',
            'sbim_sessions_total{outcome="refused"} 1.0',
            'sbim_slices_total{method="balanced"} 2.0',
            'sbim_fallbacks_total{reason="data"} 1.0',
            "sbim_slice_latency_seconds_count 3.0",
            "sbim_buffered_bytes 0.0",
        ):
            assert line in text, text
        assert fetch(server, "/health") == (200, '{"status": "ok"}')
        assert fetch(server, "/ready")[0] == 200
        assert fetch(server, "/etc/passwd")[0] == 404
        with connected(server) as stream:  # a session holds the draining server
            begin(stream)
            server.drain()
            assert fetch(server, "/ready")[0] == 503
            stream.send(Close())
            assert receive_all(stream) == []


@pytest.fixture
def log_lines(tmp_path):
    """The server's JSON log, read after the test's server has ended."""
    path = tmp_path / "log"
    handlers, propagate = LOGGER.handlers[:], LOGGER.propagate
    with path.open("w") as stream:
        set_up_log(True, stream)
        yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagate


def test_the_log_has_a_line_of_latencies_for_a_session_and_nothing_of_the_patient(log_lines):
    with serving() as server:
        run_session(server, [*readouts(kspace_of(0)), *readouts(kspace_of(1), 1)])
        run_session(server, [], "Doe^Jane")
        run_session(server, [], xml=header_xml(trajectory="Doe^Jane"))
        run_session(server, [], parameters='{"parameters": {"Doe^Jane": "Doe^Jane"}}')
    lines = log_lines()
    ends = {line["session"]: line for line in lines if line["event"] == "session-end"}
    outcomes = [ends[number]["outcome"] for number in (1, 2, 3, 4)]
    assert outcomes == ["completed", "refused", "refused", "refused"]
    assert ends[1]["slices"] == 2
    assert ends[1]["fallbacks"] == 0
    assert 0 < ends[1]["latency_median_s"] <= ends[1]["latency_max_s"]
    assert ends[1]["queue_wait_max_s"] >= 0
    assert "Doe" not in json.dumps(lines)
    assert [line["event"] for line in lines[-2:]] == ["draining", "stopped"]


def test_bright_slices_after_a_dark_first_one_are_clipped_and_counted():
    with serving(metrics_port=0) as server:
        first, second = run_session(
            server, [*readouts(kspace_of(0)), *readouts(kspace_of(0, gain=20.0), repetition=1)]
        )
        assert pixels(first).max() < 2000
        assert pixels(second).max() == 4095
        assert "sbim_clipped_pixels_total 0.0" not in fetch(server, "/metrics")[1]
    assert attributes(second)["DataRole"] == "Image"


def test_bits_stored_by_the_scanner_are_used():
    extra = (
        "<userParameters><userParameterLong><name>BitsStored</name><value>16</value>"
        "</userParameterLong></userParameters>"
    )
    with serving() as server:
        (image,) = run_session(server, readouts(kspace_of(0)), xml=header_xml(extra=extra))
    assert 4095 < pixels(image).max() <= 2**15 - 1
    assert pixels(image).min() >= 0


def wait_until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_burst_of_connections_passes_and_a_flood_is_slowed_to_its_rate():
    times = [0.0]
    pace = Pace(4, 2.0, lambda: times[-1], lambda seconds: times.append(times[-1] + seconds))
    begun = []
    for _ in range(10):
        pace.wait()
        pace.count()
        begun.append(times[-1])
    assert begun == [0, 0, 0, 0, 2, 2, 2, 2, 4, 4]
    times.append(30.0)  # after a pause a burst passes again
    for _ in range(4):
        pace.wait()
        pace.count()
    assert times[-1] == 30


def test_a_server_begins_sessions_no_faster_than_its_pace(monkeypatch):
    monkeypatch.setattr(server_module, "BURST", 2)
    monkeypatch.setattr(server_module, "SESSIONS_PER_S", 20.0)
    with serving() as server:
        began = time.monotonic()
        assert all(b"message id 65535 is unknown" in send_garbage(server) for _ in range(6))
        assert time.monotonic() - began >= 0.19


def test_silent_connections_give_way_oldest_first_and_those_that_sent_data_do_not():
    with serving(max_sessions=3) as server, connected(server) as busy:
        begin(busy, "zero-filled", None)
        lines = readouts(kspace_of(0))
        busy.send(lines[0])
        with connected(server) as first, connected(server) as second:
            wait_until(lambda: server.open_sessions == 3 and sum(s.is_silent for s in server._sessions) == 2)
            assert len(run_session(server, readouts(kspace_of(1), 1), "zero-filled", None)) == 1
            assert "was ended for another" in receive_all(first)[0].text
            begin(second, "zero-filled", None)  # is as good as before
            second.send(Close())
            assert receive_all(second) == []
        for message in (*lines[1:], Close()):
            busy.send(message)
        assert len(receive_all(busy)) == 1


def test_a_full_server_of_sessions_with_data_turns_others_away():
    with serving(max_sessions=1) as server, connected(server) as busy:
        begin(busy)
        busy.send(readouts(kspace_of(0))[0])
        wait_until(
            lambda: (
                [s.is_silent for s in server._sessions] == [False] and next(iter(server._sessions)).has_header
            )
        )
        assert "1 sessions are open" in run_session(server, [])[0].text


def test_a_connection_without_a_header_has_seconds_whatever_the_idle_timeout(monkeypatch):
    monkeypatch.setattr(session_module, "OPENING_S", 0.2)
    with serving(idle_timeout_s=300) as server:
        for opening in ([], [ConfigFile("default")]):
            with connected(server) as silent:
                for message in opening:
                    silent.send(message)
                assert "no message came for 0.2 s" in receive_all(silent)[0].text
        with connected(server) as slow:
            begin(slow, "zero-filled", None)
            time.sleep(0.4)
            for message in (*readouts(kspace_of(0)), Close()):
                slow.send(message)
            assert len(receive_all(slow)) == 1
