from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io import atomic
from sbim_deploy.io.atomic import (
    check_folder_place,
    check_free_space,
    check_new_folder,
    check_writable,
    mount_points,
    replacing,
    replacing_folder,
    writing_beside,
)


def test_file_appears_under_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.nii.gz"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_leaves_the_older_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.txt"
    path.write_text("older")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_system_error_while_writing_becomes_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left") as caught, replacing(tmp_path / "out"):
        raise OSError(28, "no space, in ten\nlines")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "out.h5")
    assert not list(tmp_path.iterdir())


def test_unwritable_outputs_are_refused(tmp_path: Path) -> None:
    blocking = tmp_path / "file"
    blocking.touch()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, fragment in [
        (tmp_path, "is a folder"),
        (pipe, "not a plain file"),
        (blocking / "out.h5", "is not a folder"),
        (tmp_path / "none" / "out.h5", "does not exist"),
        (tmp_path / ("x" * 300), "too long"),
    ]:
        with pytest.raises(InputError, match=fragment) as caught:
            check_writable(path)
        assert str(path) in str(caught.value)


def test_space_that_is_not_there_is_refused(tmp_path: Path) -> None:
    check_free_space(tmp_path, 1)
    with pytest.raises(InputError, match="bytes are free"):
        check_free_space(tmp_path, 2**62)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.fastmri import KspaceSlice, write_kspace
from sbim_deploy.results.result_file import ResultWriter

folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
image = np.ones((64, 64), np.complex64)
kspace = np.stack([image] * 4)
try:
    write_kspace(folder / "a.h5", [KspaceSlice(kspace, image, kspace)], np.ones(64, bool), (1, 1, 1), {})
except InputError as error:
    print(error)
with ResultWriter(folder / "b.h5", {}, range(6), resume=False) as writer:
    for index in range(6):
        writer.write(index, image, image, 0.0)
    try:
        writer.finish({})
    except InputError as error:
        print(error)
"""


def test_disk_that_fills_up_is_one_line_and_no_crash(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.count("cannot be written") for line in done.stdout.splitlines()] == [1, 1]
    assert [each.name for each in tmp_path.iterdir()] == [".b.h5.partial"]


def test_a_folder_with_something_in_it_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("kept", "link", "kept/file"):
        with pytest.raises(InputError, match="is no empty folder"):
            check_new_folder(tmp_path / name)
    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty")
    check_new_folder(tmp_path / "none")


def test_folder_appears_under_its_name_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "older").write_text("older")
    with replacing_folder(folder) as made:
        (made / "new").write_text("new")
        assert (folder / "older").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["new", "older"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_folder_is_replaced_but_for_what_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    folder = tmp_path / "out"
    for name in ("a/ours", "b/ours", "b/c/note", "graph", "note"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"older {name}")
    (folder / "link").symlink_to("b/c")
    (folder / "empty").mkdir()
    if not has_links:
        monkeypatch.setattr(os, "link", fail_to_link)
    with replacing_folder(folder, ["graph", "a/ours", "b/ours"]) as made:
        (made / "graph").write_text("new")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert found == {"graph", "b", "b/c", "b/c/note", "note", "link", "empty"}
    assert (folder / "graph").read_text() == "new"
    assert (folder / "note").read_text() == "older note"
    assert (folder / "link" / "note").read_text() == "older b/c/note"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replacing_folder(tmp_path / "link") as made:
        (made / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "new").is_file()


def fail_to_link(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_name_that_was_taken_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", fail_to_link)
    with writing_beside(tmp_path / "free", replace=False) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "free").read_text() == "new"

    def write_while_it_appears() -> None:
        with writing_beside(tmp_path / "taken", replace=False) as temporary:
            temporary.write_text("new")
            (tmp_path / "taken").write_text("a scan")

    with pytest.raises(InputError, match="has appeared meanwhile"):
        write_while_it_appears()
    assert (tmp_path / "taken").read_text() == "a scan"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "taken"]


def test_where_a_disk_is_mounted_nothing_is_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "/proc" in mount_points()
    mounted = tmp_path / "a disk"
    (mounted / "in it").mkdir(parents=True)
    table = tmp_path / "mountinfo"
    escaped = str(mounted).replace(" ", "\\040")
    table.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n29 22 8:2 / {escaped} rw - ext4 /dev/sdb1 rw\n")
    monkeypatch.setattr(atomic, "MOUNTS", table)
    with pytest.raises(InputError, match=r"is where a disk is mounted.*name an output within it"):
        check_folder_place(mounted)
    with pytest.raises(InputError, match=r"holds .*a disk, where a disk is mounted"):
        check_folder_place(tmp_path)
    check_folder_place(mounted / "in it")
    check_folder_place(mounted / "new")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_leaves_the_older_folder_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "older").write_text("older")

    def fail_half_way() -> None:
        with replacing_folder(folder) as made:
            (made / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert [path.name for path in folder.iterdir()] == ["older"]
    assert list(tmp_path.iterdir()) == [folder]


def test_folder_that_cannot_be_renamed_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "older").write_text("older")
    rename = Path.rename

    def fail_with_new(path: Path, target: Path) -> Path:
        if path.name == "made":
            raise OSError(errno.EIO, "the disk is gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_with_new)
    with pytest.raises(InputError, match="cannot be written"), replacing_folder(folder) as made:
        (made / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["older"]
    assert list(tmp_path.iterdir()) == [folder]


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"), replacing_folder(tmp_path / "no" / "out"):
        pass


def test_a_file_of_somebody_else_s_is_not_replaced_by_one_of_the_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "graph").write_text("theirs")

    def replace() -> None:
        with replacing_folder(folder, ["b"]) as made:
            (made / "a").mkdir()
            (made / "a" / "graph").write_text("new")

    with pytest.raises(InputError, match=r"a/graph: was not written by this program, and would be replaced"):
        replace()
    assert (folder / "a" / "graph").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [folder]
