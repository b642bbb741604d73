"""Raw data that a session keeps: a disk that fails, and a server that is killed."""

import json
import resource
import shutil
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from mrd_client import (
    begin,
    connected,
    header_xml,
    kspace_of,
    readouts,
    run_session,
    serving,
)
from test_serve_command import process

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.messages import Header, Image
from sbim_deploy.mrd.recording import open_scan
from sbim_deploy.serving import raw_file
from sbim_deploy.serving import server as server_module
from sbim_deploy.serving.raw_file import RawFile


@pytest.fixture
def told(monkeypatch):
    """What the log was told, as (event, fields)."""
    lines = []
    monkeypatch.setattr(raw_file, "warn", lambda event, **fields: lines.append((event, fields)))
    monkeypatch.setattr(server_module, "log", lambda event, **fields: lines.append((event, fields)))
    return lines


@contextmanager
def files_end_at(n_bytes):
    """Let the system refuse what goes beyond so many bytes of a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fails_in_a_readout_ends_the_saving_and_the_client_gets_its_image(tmp_path, told):
    sent = readouts(kspace_of(0))
    with serving(save_raw=tmp_path) as server, files_end_at(20_000):
        (image,) = run_session(server, sent)
    assert isinstance(image, Image)
    (kept,) = tmp_path.iterdir()
    assert kept.name.endswith(".mrd.partial")
    reason = "File too large"
    assert ("raw-data-not-saved", {"session": 1, "reason": reason, "kept": kept.name}) in told
    (end,) = (fields for event, fields in told if event == "session-end")
    assert (end["outcome"], end["raw_data"]) == ("completed", f"unfinished ({reason})")
    with open_scan(kept) as scan:
        assert 5 < scan.n_readouts < len(sent)
        assert list(scan.readouts())[-1].data.tobytes() == sent[scan.n_readouts - 1].data.tobytes()


def test_a_disk_that_is_about_to_be_full_is_not_filled_to_its_last_byte(tmp_path, told, monkeypatch):
    raw = RawFile(tmp_path, 3, Header(header_xml()))
    sent = readouts(kspace_of(0))
    raw.append(sent[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1000))
    raw.append(sent[1])
    raw.append(sent[2])
    raw.close(complete=True)
    assert [fields["reason"] for _, fields in told] == ["No space left on device"]
    (kept,) = tmp_path.iterdir()
    with open_scan(kept) as scan:
        assert scan.n_readouts == 1


def test_a_disk_that_is_full_from_the_start_keeps_nothing_and_no_session_from_its_images(
    tmp_path, told, monkeypatch
):
    with serving(save_raw=tmp_path) as server:
        monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1000))
        assert len(run_session(server, readouts(kspace_of(0)))) == 1
    assert list(tmp_path.iterdir()) == []
    assert [fields["kept"] for event, fields in told if event == "raw-data-not-saved"] == [None]


def test_a_file_of_the_same_name_is_not_replaced(tmp_path, told):
    raw = RawFile(tmp_path, 3, Header(header_xml()))
    taken = tmp_path / raw.outcome.removesuffix(raw_file.UNFINISHED)
    taken.write_text("another scan")
    raw.close(complete=True)
    assert [fields["reason"] for _, fields in told] == ["File exists"]
    assert taken.read_text() == "another scan"


def test_what_a_killed_server_was_given_is_read_and_told_by_the_next(tmp_path):
    sent = readouts(kspace_of(0))
    with process("--save-raw", str(tmp_path)) as (running, server), connected(server) as stream:
        begin(stream)
        for readout in sent[:10]:
            stream.send(readout)
        unfinished = wait_for_readouts(tmp_path, 10)
        running.kill()
        running.wait(20)
    with open_source(unfinished) as source:
        assert source.read_slice(0).any(axis=(0, 1)).sum() == 10
        assert any("cut off" in each for each in source.describe()["assumed"])
    with process("--save-raw", str(tmp_path), "--log-json") as (running, _server):
        running.terminate()
        assert running.wait(20) == 0
        logged = [json.loads(line) for line in running.stderr if line.startswith("{")]
    (line,) = (each for each in logged if each["event"] == "raw-data-unfinished")
    assert (line["file"], line["bytes"]) == (unfinished.name, unfinished.stat().st_size)


def wait_for_readouts(folder, n_readouts):
    """The one file of a folder, once it has so many readouts."""
    for _ in range(1000):
        for path in folder.glob("*.partial"):
            try:
                with open_scan(path) as scan:
                    if scan.n_readouts == n_readouts:
                        return path
            except InputError:
                pass
        time.sleep(0.02)
    raise AssertionError(f"{list(folder.iterdir())} never had {n_readouts} readouts")
