"""The command as a process of its own: its port, its warning, its label, its end."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from mrd_client import (
    attributes,
    begin,
    connected,
    header_xml,
    kspace_of,
    readouts,
    receive_all,
    run_session,
)

from sbim_deploy.mrd.messages import Close, Image
from sbim_deploy.serving.parameters import LABEL_KEY

SERVE = [sys.executable, "-c", "from sbim_deploy.cli.app import main; main()", "serve", "--port", "0"]


@contextmanager
def process(*options):
    """The command on a free port, once it listens."""
    with subprocess.Popen(
        [*SERVE, "--backend", "onnxruntime", "--threads", "1", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as running:
        try:
            listening = running.stdout.readline().split()
            assert listening[:2] == ["listening", "on"], running.stderr.read()
            yield running, SimpleNamespace(port=int(listening[2].rpartition(":")[2]))
        finally:
            running.kill()


def wait_until_refused(server):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    raise AssertionError("new sessions are still taken")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_sessions_finish_and_ends_with_0(number):
    with process("--log-json") as (running, server):
        with connected(server) as stream:
            begin(stream)
            lines = readouts(kspace_of(0))
            for readout in lines[:10]:
                stream.send(readout)
            running.send_signal(number)
            wait_until_refused(server)
            for readout in lines[10:]:
                stream.send(readout)
            stream.send(Close())
            (image,) = receive_all(stream)
            assert isinstance(image, Image)
        assert running.wait(20) == 0
        logged = [json.loads(line) for line in running.stderr if line.startswith("{")]
    assert logged[-1]["event"] == "stopped"
    assert logged[-1]["sessions_cut"] == 0
    ends = [line for line in logged if line["event"] == "session-end"]
    assert max(line["slices"] for line in ends) == 1


def test_a_simulated_scan_comes_back_from_the_server_through_replay(cli, tmp_path):
    scan, images = tmp_path / "scan.h5", tmp_path / "images.h5"
    options = ("--format", "mrd", "--slices", 2, "--size", 64, "--coils", 4, "--undersample", 2)
    assert cli("simulate", "-o", scan, *options).code == 0
    with process() as (_running, server):
        asked = ("--server", f"127.0.0.1:{server.port}", "--configuration", "cg-sense")
        done = cli("replay", scan, "-o", images, *asked)
    assert done.code == 0, done.err
    told = json.loads(cli("evaluate", images, "--reference", scan, "--json").out)
    assert [each["index"] for each in told["slices"]] == [0, 1]
    # Images of whole numbers may be brighter by a factor, which is told then.
    assert (told["factor"] or told)["mean_reconstruction"]["psnr"] > 25


def test_a_port_that_is_open_to_the_network_is_warned_of():
    with process("--host", "0.0.0.0") as (running, _server):
        running.terminate()
        assert running.wait(20) == 0
        said = running.stderr.read()
    assert "no authentication and no encryption" in said
    assert "TLS with client certificates" in said


def test_a_loopback_port_is_not():
    with process() as (running, _server):
        running.terminate()
        assert running.wait(20) == 0
        assert "warning" not in running.stderr.read()


def test_who_starts_the_server_says_whether_images_name_the_patient_and_keep_the_grid():
    study = "<studyInformation><studyInstanceUID>1.2.3</studyInstanceUID></studyInformation>"
    named = header_xml().replace("</patientName>", "</patientName><patientID>4711</patientID>")
    named = named.replace("</subjectInformation>", f"</subjectInformation>{study}")
    lines = readouts(kspace_of(0))
    for each in lines:
        each.header["read_dir"], each.header["phase_dir"] = (0, 1, 0), (1, 0, 0)
    with process("--identity", "keep", "--keep-grid") as (_running, server):
        (image,) = run_session(server, lines, "zero-filled", None, named)
    assert attributes(image)["PatientID"] == "4711"
    assert image.header["read_dir"].tolist() == [0, 1, 0]


def test_the_label_is_printed_with_its_base64_and_nothing_is_served(cli):
    done = cli("serve", "--openrecon-label", "--port", "9010")
    assert done.code == 0
    printed = json.loads(done.out)
    assert printed["label"]["reconstruction"]["port"] == 9010
    assert json.loads(base64.b64decode(printed[LABEL_KEY])) == printed["label"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", 70000], "port is 70000: expected 0 to 65535"),
        (["--metrics-port", 9002], "metrics port is 9002, as the port is"),
        (["--max-sessions", 0], "max sessions is 0"),
        (["--deadline", 0], "deadline is 0 s"),
        (["--idle-timeout", "nan"], "idle time-out is nan s"),
        (["--max-memory", 0], "max memory is 0 bytes"),
        (["--orientation", "left"], "unknown orientation 'left': expected one of auto, plain, turned"),
        (["--identity", "half"], "unknown identity 'half': expected one of anonymous, keep"),
        (["--save-raw", "/nowhere"], "/nowhere: is no folder"),
        (["--host", "no such host"], "cannot listen on no such host"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--backend", "abacus"], "unknown backend 'abacus'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(cli, options, said):
    done = cli("serve", *([] if "--port" in options else ["--port", 9002]), *options)
    assert done.code == 2
    assert said in done.error_line
