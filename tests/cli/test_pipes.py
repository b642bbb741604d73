"""Scans that come through a pipe, and images that leave through one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from mrd2_samples import mrd, write_mrd2
from sbim_deploy.results.result_file import open_result
from simulated_mrd import make_scan

PROGRAM = [sys.executable, "-c", "from sbim_deploy.cli.app import main; main()"]
FAST = ["--method", "zero-filled"]


def run(*arguments, stdin=b"", **more):
    """Run the program with bytes on stdin; what it left is checked by the test."""
    command = [*PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, **more)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


@pytest.fixture
def refused(cli, monkeypatch):
    """Runs the program in this process with bytes on stdin, and returns its one line of refusal."""

    def refuse(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        done = cli(*arguments)
        assert (done.code, done.out) == (2, "")
        assert tempfile.gettempdir() + "/sbim-deploy-" not in done.err
        return done.error_line

    return refuse


def images_of(data: bytes):
    with mrd.BinaryMrdReader(io.BytesIO(data)) as reader:
        reader.read_header()
        return [item.value for item in reader.read_data()]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    made = make_scan(n_slices=2, acceleration=2, calib_width=10)
    return write_mrd2(tmp_path_factory.mktemp("scan") / "scan.mrd2", made)


def test_a_stream_in_gives_the_stream_of_images_out_and_nothing_else(scan, tmp_path):
    done = run(
        "recon", "-", "-o", "-", *FAST, stdin=scan.read_bytes(), env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())
    said = done.stderr.decode()
    assert said.startswith("reading stdin\n")
    assert "stdout: 2 slices, zero-filled without a network" in said
    assert str(tmp_path) not in said
    assert run("recon", scan, "-o", tmp_path / "out.h5", *FAST).returncode == 0
    images = images_of(done.stdout)
    with open_result(tmp_path / "out.h5") as result:
        assert len(images) == result.n_slices == 2
        for place, image in enumerate(images):
            np.testing.assert_array_equal(image.data[0, 0].T, np.abs(result.read_image(place)))
            assert image.head.slice == place


def test_the_package_s_phantom_goes_through_to_its_pictures(tmp_path):
    tools = "mrd.tools.phantom", "mrd.tools.export_png_images"
    seeded = (
        "import numpy, runpy; rng = numpy.random.default_rng(0); numpy.random.default_rng = lambda: rng; "
        f"runpy.run_module('{tools[0]}', run_name='__main__')"
    )
    made = subprocess.run(
        [sys.executable, "-c", seeded, "-m", "64", "-c", "4", "-n", "0.001"],
        capture_output=True,
        check=True,
    ).stdout
    done = run("recon", "-", "-o", "-", *FAST, stdin=made)
    assert done.returncode == 0, done.stderr.decode()
    command = [sys.executable, "-m", tools[1]]
    subprocess.run(command, input=done.stdout, cwd=tmp_path, check=True, capture_output=True)
    assert [each.name for each in tmp_path.iterdir()] == ["image_0000.png"]
    (image,) = images_of(done.stdout)
    theirs = subprocess.run(
        [sys.executable, "-m", "mrd.tools.stream_recon"], input=made, capture_output=True, check=True
    )
    (expected,) = images_of(theirs.stdout)
    # Both are the object; their tool's is combined by the root sum of squares and not whitened.
    ours, other = image.data[0, 0].ravel(), expected.data[0, 0].ravel()
    assert np.corrcoef(ours, other)[0, 1] > 0.98


def test_a_stream_to_a_file_says_its_name_and_resumes(scan, tmp_path):
    data = scan.read_bytes()
    out = tmp_path / "out.h5"
    done = run("recon", "-", "-o", out, *FAST, "--json", stdin=data)
    assert json.loads(done.stdout)["input"]["name"] == "stdin"
    assert run("recon", "-", "-o", out, *FAST, "--resume", stdin=data).returncode == 0


def test_a_named_pipe_is_read_as_stdin_is(scan, tmp_path):
    pipe = tmp_path / "scan.pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-c", f"open({str(pipe)!r}, 'wb').write(open({str(scan)!r}, 'rb').read())"]
    ):
        done = run("recon", pipe, "-o", tmp_path / "out.bin", *FAST)
    assert done.returncode == 0
    assert len(images_of((tmp_path / "out.bin").read_bytes())) == 2


def test_info_reads_stdin_and_files_of_other_kinds_go_through_a_pipe_too(scan, simulated, tmp_path):
    described = json.loads(run("info", "-", "--json", stdin=scan.read_bytes()).stdout)
    assert (described["kind"], described["slices"]) == ("k-space", 2)
    described = json.loads(run("info", "-", "--json", stdin=simulated.read_bytes()).stdout)
    assert (described["kind"], described["slices"]) == ("k-space", 4)
    done = run("recon", "-", "-o", "-", *FAST, "--slices", "0:1", stdin=simulated.read_bytes())
    assert done.returncode == 0
    assert len(images_of(done.stdout)) == 1


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"", "stdin: nothing came from it; look at what the program before it says"),
        (b"hello\n" * 99, "stdin: begins with b'hello"),
        (b"\x03\0\x10\0\0\0<?xml", "stdin: is the stream of an MRD version 1 session"),
        (b'{"yardl":{"version":1}}', "stdin: is an MRD version 2 stream as text (NDJSON)"),
        (b"yardl\x01\0\0\0\xff\xff\xff\x7f", "stdin: the beginning, byte 13: 268435455 bytes of text need"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "stdin: the file cannot be read, it is truncated"),
    ],
    ids=["nothing", "text", "version 1", "NDJSON", "hostile", "HDF5"],
)
def test_what_comes_and_is_no_scan_is_refused_in_one_line(refused, stdin, words):
    assert words in refused("recon", "-", "-o", "-", stdin=stdin)


def test_a_stream_that_stops_is_refused_and_leaves_nothing(refused, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = refused("recon", "-", "-o", "-", *FAST, stdin=scan.read_bytes()[:-1])
    assert "stdin: ends after" in line
    assert "the sender stopped" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "dicom"], "-o - writes an MRD version 2 stream, not dicom"),
        (["--resume"], "--resume and -o - are both given"),
        (["--json"], "--json and -o - are both given"),
        (["other.h5"], "- is stdin or stdout, of one file"),
    ],
)
def test_what_does_not_go_with_stdout_is_refused(refused, scan, arguments, words):
    assert words in refused("recon", scan, *arguments, "-o", "-")


def test_a_reader_that_stops_gets_one_line(scan):
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*PROGRAM, "recon", scan, "-o", "-", *FAST], stdout=written, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(written)
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("sbim-deploy: error: stdout: the images cannot be written (Broken pipe)")
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("closed", "words"), [("<&-", "stdin: "), (">&-", "stdout: is closed"), ("2>&-", "")]
)
def test_closed_streams_end_in_one_line_or_none(scan, tmp_path, closed, words):
    target, source = ("out.h5", "-") if closed == "<&-" else ("-", scan)
    command = [*PROGRAM, "recon", str(source), "-o", target, *FAST]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, check=False, cwd=tmp_path
    )
    if words:
        assert done.returncode == 2
        assert done.stderr.decode().splitlines()[-1].startswith(f"sbim-deploy: error: {words}")
    else:
        assert len(images_of(done.stdout)) == 2


def test_a_terminal_is_no_place_for_a_stream(scan):
    pty = pytest.importorskip("pty")
    leader, terminal = pty.openpty()
    try:
        command = [*PROGRAM, "recon", scan, "-o", "-"]
        done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, check=False)
        assert b"stdout: is a terminal" in done.stderr
        command = [*PROGRAM, "recon", "-", "-o", "out.h5"]
        done = subprocess.run(command, stdin=terminal, capture_output=True, check=False)
        assert b"stdin: is a terminal" in done.stderr
    finally:
        os.close(leader)
        os.close(terminal)
