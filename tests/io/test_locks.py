"""One run for each output: who has it is told, and what a killed run left is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io import locks
from sbim_deploy.io.locks import Owner, is_gone, owning_file, owning_folder, start_of, this_process

HOLD = """
import sys
from pathlib import Path
from sbim_deploy.io.locks import owning_file
with owning_file(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


@pytest.fixture
def other(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the output."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def lock_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


def leave(out: Path, owner: Owner) -> None:
    lock_of(out).write_text(json.dumps(asdict(owner)))


def test_an_output_has_one_owner_and_is_free_again_afterwards(out: Path) -> None:
    with owning_file(out):
        with pytest.raises(InputError, match=rf"written by another run, process {os.getpid()} on"):
            owning_file(out).__enter__()
        with owning_file(out.with_name("another.h5")):
            pass
    with pytest.raises(ZeroDivisionError), owning_file(out):
        raise ZeroDivisionError
    assert list(out.parent.iterdir()) == []


def test_another_process_is_named_and_when_it_was_killed_its_place_is_taken(
    out: Path, other: subprocess.Popen[str]
) -> None:
    with pytest.raises(InputError, match=f"process {other.pid} on .*, since 20") as caught:
        owning_file(out).__enter__()
    assert "wait for it, or name another output" in str(caught.value)
    other.kill()
    # Ended, and still listed, since nobody has asked for its exit code.
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with owning_file(out):
        assert json.loads(lock_of(out).read_text())["pid"] == os.getpid()
    assert list(out.parent.iterdir()) == []


def test_a_number_that_another_process_has_by_now_is_not_taken_for_the_owner(out: Path) -> None:
    here = this_process()
    assert is_gone(here) is False
    assert is_gone(replace(here, start=str(int(here.start) - 1))) is True
    leave(out, replace(here, start=str(int(here.start) - 1)))
    with owning_file(out):
        pass


def test_a_restart_ends_the_runs_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    machine.write_text("a1b2\n")
    monkeypatch.setattr(locks, "MACHINE", machine)
    before = replace(this_process(), boot="before the restart")
    assert is_gone(before) is True
    machine.write_text("")
    # Without the machine's identity it may be another one of the same name.
    assert is_gone(replace(before, machine="")) is None


@pytest.mark.parametrize("changes", [{"host": "another"}, {"machine": "another"}, {"namespace": "pid:[1]"}])
def test_of_another_machine_s_run_the_user_is_told_what_to_remove(out: Path, changes: dict[str, str]) -> None:
    leave(out, replace(this_process(), **changes))
    with pytest.raises(InputError, match=rf"cannot be told from here; .* remove {lock_of(out)} if"):
        owning_file(out).__enter__()
    assert lock_of(out).exists()


def test_a_damaged_lock_is_one_line_with_the_way_out(out: Path) -> None:
    lock_of(out).write_text("{")
    with pytest.raises(InputError, match=f"if no run writes {out}, remove it"):
        owning_file(out).__enter__()


def test_a_lock_that_was_taken_over_meanwhile_is_not_removed(out: Path) -> None:
    leave(out, this_process())
    seen = b"that of a run which was killed"
    locks._remove_leftover(lock_of(out), seen)
    assert lock_of(out).exists()


def test_a_run_whose_lock_was_taken_does_not_remove_the_other_s(out: Path) -> None:
    with owning_file(out):
        leave(out, replace(this_process(), token="another"))
    assert lock_of(out).exists()


def test_without_hard_links_a_lock_is_made_exclusively(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(1, "no hard links")

    monkeypatch.setattr(os, "link", fail)
    with owning_file(out), pytest.raises(InputError, match="another run"):
        owning_file(out).__enter__()
    assert list(out.parent.iterdir()) == []


def test_a_lock_that_nfs_made_and_then_denied_is_ours(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def lose_the_answer(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lose_the_answer)
    with owning_file(out):
        assert lock_of(out).exists()
    assert list(out.parent.iterdir()) == []


def test_a_folder_is_made_and_has_one_owner(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with owning_folder(folder), pytest.raises(InputError, match="another run"):
        owning_folder(folder).__enter__()
    assert list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        owning_folder(tmp_path / "file").__enter__()
    with pytest.raises(InputError, match=r"none does not exist; create it or name another output"):
        owning_file(tmp_path / "none" / "out").__enter__()


def test_where_nothing_tells_of_processes_a_number_that_nobody_has_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(locks, "PROC", tmp_path)
    assert start_of(os.getpid()) == ""
    assert start_of(2**22 + 1) is None
