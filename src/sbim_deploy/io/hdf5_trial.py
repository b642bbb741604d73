"""An HDF5 file is read by a child process before this one opens it, under a limit of time and of memory.

In a damaged file the HDF5 library may loop for ever, ask for any memory, or crash, and nothing stops it in
the process that called it. The child, :mod:`sbim_deploy.io.hdf5_child`, is started with the first file and
serves all that follow; one that hangs is ended, and the next file gets a new one.

Linux limits both the computing time and the memory. macOS limits the time, and the memory is looked at after
each part. On Windows the time by the clock is limited, and a crash is told.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.io import hdf5_child

MAX_CPU_S = 5  # of computing: a busy machine or a slow disk takes none of it
MAX_WALL_S = 120
MAX_MEMORY_BYTES = 256 * 1024**2
BYTES_A_SECOND = 10 * 1024**2  # that a part may take its time for; a slow machine inflates ten times as many
WAY_OUT = "it is damaged, fetch it again"


Part = tuple[str, list[Any]]
"""(name of a dataset, for each of its axes a number or [start, stop, step])"""


class _NoChildError(Exception):
    """No child process can be started here."""


class _Child:
    """A process that reads files; :meth:`ask` is called by one thread at a time."""

    def __init__(self) -> None:
        program = sys.executable or ""
        if getattr(sys, "frozen", False) or not any(
            each in os.path.basename(program).lower() for each in ("python", "pypy")
        ):
            raise _NoChildError(f"{program or 'this program'} is not Python")
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [program, "-I", "-S", os.path.abspath(hdf5_child.__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise _NoChildError(error.strerror) from error
        self.returncode: int | None = None
        answer = self._exchange({"path": [os.path.abspath(each) for each in sys.path]})
        if answer is None:
            self.end()
            raise _NoChildError(f"a process of {program} ended with {self.returncode}")

    def ask(self, path: Path, cpu_s: int, memory_bytes: int, part: Part | None) -> str | None:
        """Have a file read, or a part of it; return None where that went well, else what happened."""
        at = "its start"
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(MAX_WALL_S, stop)
        timer.daemon = True
        timer.start()
        try:
            answer = self._exchange(
                {"file": os.path.abspath(path), "cpu_s": cpu_s, "memory_bytes": memory_bytes, "part": part}
            )
            while answer is not None and "done" not in answer:
                at = answer["at"]
                answer = self._exchange(None)
        finally:
            timer.cancel()
        if answer is not None:
            mib = memory_bytes // 1024**2
            fault = f"takes more than {mib} MiB of memory to read"
            if part is not None:
                fault = f"cannot be read, or not within {mib} MiB of memory"
            return None if answer["done"] else f"{at} {fault}"
        self.end()
        if late.is_set():
            return f"{at} was not read to its end after {MAX_WALL_S} s"
        if self.returncode == -getattr(signal, "SIGXCPU", 0):
            return f"{at} cannot be read to its end, HDF5 was stopped after {cpu_s} s of computing"
        return f"{at} makes HDF5 crash (exit code {self.returncode})"

    def _exchange(self, question: dict[str, Any] | None) -> dict[str, Any] | None:
        """Send a question, and return the next line of the answer, or None where the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            if question is not None:
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            return None
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was not sent
                pass
        self.returncode = self._process.wait()

    def forget(self) -> None:
        """Leave the process to the one that started it, of which this is a fork."""
        self._process.returncode = 0


_lock = threading.Lock()
_child: _Child | None = None
_warned = False


def try_hdf5(path: Path) -> None:
    """Have a child process read the structure, the attributes and the first values of an HDF5 file.

    Where no child can be started the file is not tried, which a RuntimeWarning tells once.

    Raises:
        InputError: reading it does not end, takes more than 256 MiB, or crashes.
    """
    _try(path, MAX_CPU_S, MAX_MEMORY_BYTES, None)


def try_part(path: Path, name: str, key: tuple[int | slice, ...], n_bytes: int) -> None:
    """Have a child process read a part of a dataset; see :func:`try_hdf5`.

    Args:
        path: the file.
        name: the dataset.
        key: the part.
        n_bytes: what it takes to read by the sizes that the file declares.

    Raises:
        InputError: reading it does not end, takes more than that and 256 MiB, or crashes.
    """
    written = [[each.start, each.stop, each.step] if isinstance(each, slice) else int(each) for each in key]
    _try(path, MAX_CPU_S + n_bytes // BYTES_A_SECOND, MAX_MEMORY_BYTES + n_bytes, (name, written))


def _try(path: Path, cpu_s: int, memory_bytes: int, part: Part | None) -> None:
    global _child, _warned
    with _lock:
        try:
            if _child is None:
                _child = _Child()
            fault = _child.ask(path, cpu_s, memory_bytes, part)
            if _child.returncode is not None:
                _child = None
        except _NoChildError as error:
            if not _warned:
                _warned = True
                warnings.warn(
                    f"HDF5 files are read without a trial in a process of its own ({error}): "
                    "a damaged one may hang or crash this program",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return
        except BaseException:  # an answer may be half read
            _end()
            raise
    if fault is not None:
        raise InputError(f"{path}: {fault}; {WAY_OUT}")


def _end() -> None:
    global _child
    if _child is not None:
        _child.end()
        _child = None


def _after_fork() -> None:
    global _child, _lock
    _lock = threading.Lock()
    if _child is not None:
        _child.forget()
        _child = None


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
