"""Files and folders that appear whole or not at all: written under a hidden name, renamed at the end."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from sbim_deploy.errors import InputError

SPARE_BYTES = 4 * 1024**2  # what a file takes beyond its arrays
MOUNTS = Path("/proc/self/mountinfo")


def check_writable(path: Path) -> None:
    """Check that a file can be written at ``path``; to be called before long work.

    Whether what is there may be replaced is another question: :mod:`sbim_deploy.io.overwriting` answers it.

    Raises:
        InputError: the folder is missing or closed to writing, or ``path`` is no plain file.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        # Renaming over a device such as /dev/null would replace the device itself.
        kind = "a folder" if os.path.isdir(path) else "not a plain file"
        raise InputError(f"{path}: is {kind}, expected a file to write; name a file")
    _check_no_mount(path)
    check_beside(path)


def check_beside(path: Path) -> None:
    """Check that the folder that ``path`` is in is there and takes new files.

    Raises:
        InputError: it is not, or does not.
    """
    folder = path.parent
    if not os.path.isdir(folder):
        what = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise InputError(f"{path}: the folder {folder} {what}; create it or name another output")
    probe = _temporary_name(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


@contextmanager
def writing_beside(path: Path, replace: bool) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which gets its name on success and is removed on any exception.

    The temporary name keeps the suffix, for writers that choose the format by it.

    Raises:
        InputError: the output cannot be written, before or during the writing (a full disk); or, without
            ``replace``, something has its name by the end.
    """
    check_writable(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        _flush_to_disk(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            give_name(temporary, path)
    except FileExistsError as error:
        raise InputError(
            f"{path}: has appeared meanwhile, and is not replaced; move it away, and run again"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As :func:`writing_beside`, for files that this program keeps up to date: whatever is there is replaced.

    Outputs that a user names go by :func:`sbim_deploy.io.overwriting.new_file`.

    Raises:
        InputError: the output cannot be written, before or during the writing (a full disk).
    """
    with writing_beside(path, replace=True) as temporary:
        yield temporary


def give_name(temporary: Path, path: Path) -> None:
    """Give a finished file its name, if nothing has it yet; nobody else can take it in between.

    Relied upon is that link(2) or, where a file system has no hard links, O_EXCL is atomic, as POSIX says
    and NFS from version 3 on does.

    Raises:
        FileExistsError: something has the name.
        OSError: the file system does not take it.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(temporary, path)
        except OSError:
            path.unlink()  # ours, and empty
            raise
    else:
        temporary.unlink()


@contextmanager
def replacing_folder(folder: Path, ours: Collection[str] = ()) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, renamed to it on success and removed on any exception.

    What a folder of that name holds is kept, but for ``ours``: paths within it that this program has
    written. Files are kept as further links to them, or as copies where the file system has none.

    Raises:
        InputError: the folder cannot be written, or has a file of somebody else's where the new one has one.
    """
    folder = Path(os.path.realpath(folder))
    _check_no_mount(folder)
    check_beside(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            yield made
            for file in made.rglob("*"):
                if file.is_file():
                    _flush_to_disk(file)
            replaced = Path(temporary) / "replaced"
            if folder.exists():
                _keep_others(folder, made, frozenset(map(os.path.normpath, ours)))
                folder.rename(replaced)
            try:
                made.rename(folder)
            except OSError:
                if replaced.exists():
                    replaced.rename(folder)
                raise
    except OSError as error:
        raise _unwritable(folder, error) from error


def _keep_others(old: Path, made: Path, ours: frozenset[str]) -> None:
    """Put into ``made`` what ``old`` holds beside ``ours``."""
    for root, folders, files in os.walk(old):
        for name in (*folders, *files):
            source = Path(root, name)
            path = source.relative_to(old)
            target = made / path
            if str(path) in ours:
                continue
            is_folder = source.is_dir() and not source.is_symlink()
            if os.path.lexists(target) and not (is_folder and target.is_dir()):
                raise InputError(
                    f"{source}: was not written by this program, and would be replaced; move it, or name "
                    "another folder"
                )
            if os.path.lexists(target):
                continue
            if is_folder:
                held = [str(each.relative_to(old)) for each in source.rglob("*") if not each.is_dir()]
                if held and ours.issuperset(held):
                    continue  # of a part that the new folder does not have
                target.mkdir()
                shutil.copystat(source, target)
                continue
            try:
                os.link(source, target, follow_symlinks=False)
            except (OSError, NotImplementedError):
                shutil.copy2(source, target, follow_symlinks=False)


def check_new_folder(path: Path) -> None:
    """Check that a folder of files can be written at ``path``; to be called before long work.

    Raises:
        InputError: there is something already, other than an empty folder, or nothing can be written there.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise InputError(
            f"{path}: is there already and is no empty folder, expected a new folder to write; "
            "remove it or name another output"
        )
    check_folder_place(path)


def check_folder_place(path: Path) -> None:
    """Check that a folder can be put at ``path``, in place of what is there; to be called before long work.

    Raises:
        InputError: a disk is mounted there, or nothing can be written beside it.
    """
    _check_no_mount(Path(os.path.realpath(path)))
    check_beside(Path(os.path.realpath(path)))


def _check_no_mount(path: Path) -> None:
    """Refuse what a rename cannot replace: where a disk is mounted, or what has one mounted within."""
    if not os.path.lexists(path):
        return
    place = os.path.join(os.path.realpath(path.parent), path.name)
    if mounted := [each for each in mount_points() if each == place or each.startswith(f"{place}/")]:
        where = "is where" if mounted[0] == place else f"holds {mounted[0]}, where"
        raise InputError(
            f"{path}: {where} a disk is mounted, and cannot be replaced as a whole; name an output within it"
        )


def mount_points() -> list[str]:
    """Return where disks and files are mounted, as Linux tells it; none elsewhere."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    places = [line.split(" ")[4] for line in lines if line.count(" ") > 4]
    return [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place) for place in places]


def check_free_space(folder: Path, n_bytes: int) -> None:
    """Check that ``n_bytes`` fit on the disk; on a full one the HDF5 library fails in many lines, or crashes.

    Raises:
        InputError: they do not fit.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes + SPARE_BYTES:
        raise InputError(
            f"{folder}: {free} bytes are free, expected {n_bytes + SPARE_BYTES}; "
            "free the space, or name another output"
        )


def try_room(path: Path, n_bytes: int = SPARE_BYTES) -> None:
    """Make a new file of so many bytes, where the system can without writing them.

    A quota, or a limit of the process, shows in no figure of the disk.

    Raises:
        OSError: the file system does not take it.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(4)}.{path.name}")


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut after the rename can leave an empty file under the final name.
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _unwritable(path: Path, error: Exception) -> InputError:
    # The system's words for the number: h5py's own text goes on for ten lines.
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if number else str(error).splitlines()[0]
    return InputError(f"{path}: cannot be written ({reason}); free the space, or name another output")
