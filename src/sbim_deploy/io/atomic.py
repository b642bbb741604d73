"""Files and folders that appear whole or not at all: written under a hidden name, renamed at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sbim_deploy.errors import InputError

SPARE_BYTES = 4 * 1024**2  # what a file takes beyond its arrays


def check_writable(path: Path) -> None:
    """Check that a file can be written at ``path``; to be called before long work.

    Raises:
        InputError: the folder is missing or closed to writing, or ``path`` is no plain file.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        # Renaming over a device such as /dev/null would replace the device itself.
        kind = "a folder" if os.path.isdir(path) else "not a plain file"
        raise InputError(f"{path}: is {kind}, expected a file to write; name a file")
    _check_beside(path)


def _check_beside(path: Path) -> None:
    """Check that the folder that ``path`` is in is there and takes new files."""
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
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it on success and removed on any exception.

    The temporary name keeps the suffix, for writers that choose the format by it.

    Raises:
        InputError: the output cannot be written, before or during the writing (a full disk).
    """
    check_writable(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, renamed to it on success and removed on any exception.

    A folder of that name is removed once the new one is whole; whether it may be is for the caller to check.

    Raises:
        InputError: the folder cannot be written.
    """
    _check_beside(folder)
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
                folder.rename(replaced)
            try:
                made.rename(folder)
            except OSError:
                if replaced.exists():
                    replaced.rename(folder)
                raise
    except OSError as error:
        raise _unwritable(folder, error) from error


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
    _check_beside(path)


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
