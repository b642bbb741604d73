"""Standard input and output, and named pipes, as files: what comes or goes lies in a temporary one meanwhile.

A scan is read by its slices, in any order, and so its stream is kept until the command ends. It lies where
Python puts temporary files; TMPDIR names another folder.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sbim_deploy.cli.output import calling, note
from sbim_deploy.errors import InputError

STANDARD = Path("-")
CHUNK_BYTES = 1024**2
START_BYTES = 32
STDOUT, STDERR = 1, 2


@contextmanager
def input_file(path: Path) -> Iterator[Path]:
    """Yield the file that a path names: for ``-`` and a named pipe a temporary one with what comes from it.

    Raises:
        InputError: nothing comes, or what comes is none of the files that a pipe can bring.
    """
    if path != STANDARD and not _is_pipe(path):
        yield path
        return
    name = "stdin" if path == STANDARD else path.name
    with _temporary_folder() as folder:
        kept = folder / name
        note(f"reading {name}")
        if path != STANDARD:
            with path.open("rb") as pipe:
                _keep(pipe, kept)
        elif sys.stdin is None or sys.stdin.isatty():
            raise InputError(
                "stdin: is a terminal, expected a stream: pipe a program or a file into this one"
            )
        else:
            _keep(sys.stdin.buffer, kept)
        yield kept


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Yield the file to write: for ``-`` a temporary one, which goes to stdout when the block ends well.

    Until then what others print on stdout, libraries among them, goes to stderr.

    Raises:
        InputError: stdout is a terminal, closed, or no longer read.
    """
    if path != STANDARD:
        yield path
        return
    with _temporary_folder() as folder, _stdout() as stdout:
        kept = folder / "stdout"
        yield kept
        try:
            with kept.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    stdout.write(chunk)
            stdout.flush()
        except OSError as error:
            raise InputError(
                f"stdout: the images cannot be written ({error.strerror}): the program that reads them "
                "stopped; name a file with -o"
            ) from error


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sbim-deploy-") as folder, calling(folder + os.sep, ""):
        yield Path(folder)


def _keep(pipe: BinaryIO, kept: Path) -> None:
    """Write what comes into a file, where its beginning is that of a file that can be read."""
    try:
        with kept.open("wb") as file:
            start = pipe.read(START_BYTES)
            _check_start(start, kept)
            file.write(start)
            while chunk := pipe.read(CHUNK_BYTES):
                file.write(chunk)
    except OSError as error:
        raise InputError(
            f"{kept}: cannot be kept in {kept.parent.parent} ({error.strerror}); let TMPDIR name a folder "
            "with more space"
        ) from error


def _check_start(start: bytes, kept: Path) -> None:
    from sbim_deploy.io import matlab
    from sbim_deploy.io.arrays import MATLAB_73, NPY_MAGIC, NPZ_MAGIC
    from sbim_deploy.io.hdf5 import HDF5_MAGIC
    from sbim_deploy.io.yardl import MAGIC, NDJSON_START

    if not start:
        raise InputError(f"{kept}: nothing came from it; look at what the program before it says")
    known = (MAGIC, NDJSON_START, HDF5_MAGIC, NPY_MAGIC, NPZ_MAGIC, matlab.MAGIC, MATLAB_73)
    if start.startswith(known):
        return
    if start[:2] in (b"\x01\0", b"\x02\0", b"\x03\0"):
        raise InputError(
            f"{kept}: is the stream of an MRD version 1 session, expected version 2 or a file: send it to "
            "sbim-deploy serve"
        )
    raise InputError(
        f"{kept}: begins with {start[:8]!r}, expected an MRD version 2 stream, or a file of HDF5, NumPy or "
        "MATLAB"
    )


@contextmanager
def _stdout() -> Iterator[BinaryIO]:
    """Yield stdout for bytes; the descriptor that goes by its number leads to stderr meanwhile."""
    if sys.stdout is None or os.isatty(STDOUT):
        kind = "closed" if sys.stdout is None else "a terminal"
        raise InputError(
            f"stdout: is {kind}, expected a program or a file to take the images; name a file with -o"
        )
    sys.stdout.flush()
    kept = os.dup(STDOUT)
    try:
        if sys.stderr is not None:
            os.dup2(STDERR, STDOUT)
        with os.fdopen(os.dup(kept), "wb") as stdout:
            yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(kept, STDOUT)
        os.close(kept)
