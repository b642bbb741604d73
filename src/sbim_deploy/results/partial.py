"""The finished slices of a run that goes on: a hidden folder beside the output, shared by its processes.

``.OUT.h5.partial/`` holds ``run.json``, the run's identity, and a file for each slice, which is renamed into
place whole and names the run that made it: a slice of another run is none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import open_arrays
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.documents import format_object, parse_object
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.results.provenance import SliceNotes, read_record

RUN = "run"


@dataclass(frozen=True)
class SliceForm:
    """What the slices of a run have in common."""

    shape: tuple[int, ...]
    has_deviation: bool


@dataclass(frozen=True)
class FinishedSlice:
    """A slice as it is kept: complex64 image (rows, columns), and float32 magnitudes of that size."""

    image: ComplexArray
    zero_filled: FloatArray
    residual: np.float32
    standard_deviation: FloatArray | None
    notes: SliceNotes = field(default_factory=SliceNotes)

    @property
    def form(self) -> SliceForm:
        """What all slices of a run must have in common."""
        return SliceForm(self.image.shape, self.standard_deviation is not None)

    def arrays(self, run: str) -> dict[str, Any]:
        """Return what is there, by name, the notes as JSON, and the hash of the run that it is of."""
        named = {**vars(self), "notes": np.array(format_object(asdict(self.notes))), RUN: np.array(run)}
        return {name: array for name, array in named.items() if array is not None}

    @property
    def is_sound(self) -> bool:
        """Whether dtypes and shapes are those of a slice, and all numbers finite."""
        magnitudes = [each for each in (self.zero_filled, self.standard_deviation) if each is not None]
        return (
            self.image.dtype == np.complex64
            and self.image.ndim == 2
            and self.residual.shape == ()
            and all(each.dtype == np.float32 and each.shape == self.image.shape for each in magnitudes)
            and bool(np.isfinite(self.image).all() and np.isfinite(self.residual))
            and all(bool(np.isfinite(each).all()) for each in magnitudes)
        )


def partial_folder(path: Path) -> Path:
    """Return the folder of the finished slices of the output ``path``."""
    return path.with_name(f".{path.name}.partial")


def count_finished(path: Path) -> int:
    """Count the finished slices that a stopped run of the output ``path`` has left."""
    return len(list(partial_folder(path).glob("slice_*.npz")))


def slice_path(path: Path, index: int) -> Path:
    """Return the file of a finished slice of the output ``path``."""
    return partial_folder(path) / f"slice_{index:06d}.npz"


def begin_run(path: Path, identity: dict[str, Any]) -> str:
    """Make the folder of a run, in place of an older one, and return the run's hash.

    Raises:
        InputError: it cannot be made.
    """
    discard_run(path)
    folder = partial_folder(path)
    try:
        folder.mkdir()
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another output") from error
    with replacing(_record(path)) as temporary:
        temporary.write_text(format_object(identity), encoding="utf-8")
    return run_hash(identity)


def is_begun(path: Path) -> bool:
    """Tell whether a run of the output ``path`` was begun and not finished."""
    return _record(path).is_file()


def read_run(path: Path) -> tuple[dict[str, Any], str]:
    """Return the identity of the run that was begun, and its hash.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    record = _record(path)
    try:
        stored = record.read_bytes()
    except OSError as error:
        raise InputError(f"{record}: cannot be read ({error.strerror}); --force starts over") from error
    identity = parse_object(stored, str(record))
    return identity, run_hash(identity)


def run_hash(identity: dict[str, Any]) -> str:
    """Return the SHA-256 of a run's identity, by which the processes that work on it know it."""
    return hashlib.sha256(format_object(identity).encode()).hexdigest()


def discard_run(path: Path) -> None:
    """Remove the folder of a run, if there is one.

    Raises:
        InputError: it cannot be removed.
    """
    folder = partial_folder(path)
    if not os.path.lexists(folder):
        return
    try:
        # run.json goes first: without it what a kill leaves behind is never resumed.
        _record(path).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be removed ({error.strerror}); remove it") from error


def save_slice(path: Path, index: int, finished: FinishedSlice, run: str) -> None:
    """Keep a slice of the output ``path``, whole or not at all.

    ``run`` is the hash that :func:`begin_run` or :func:`read_run` returned. The slice is kept only while that
    run goes on, so that a process that was given up for lost cannot put it among those of another run; and
    it carries the hash.

    Raises:
        InputError: the slice cannot be written, or the run is another one by now.
    """
    check_run(path, run)
    with replacing(slice_path(path, index)) as temporary:
        np.savez(temporary, **finished.arrays(run))
        check_run(path, run)


def is_current(path: Path, run: str) -> bool:
    """Tell whether the output ``path`` still is that of a run, which another may have taken."""
    try:
        return read_run(path)[1] == run
    except InputError:
        return False


def check_run(path: Path, run: str) -> None:
    """Check that the output ``path`` still is that of a run.

    Raises:
        InputError: another run has begun it meanwhile, or its folder is gone.
    """
    if not is_current(path, run):
        raise InputError(
            f"{partial_folder(path)}: belongs to another run by now, or is gone; give each run its own output"
        )


def load_slice(path: Path, index: int, run: str) -> FinishedSlice | None:
    """Load a finished slice of the output ``path``; None where it is missing, damaged or of another run."""
    try:
        # Sizes are checked before memory is taken.
        with open_arrays(slice_path(path, index)) as file:
            stored: dict[str, Any] = {name: each.read(()) for name, each in file.arrays.items()}
        if str(stored[RUN]) != run:
            return None
        image, zero_filled, residual = (stored[key] for key in ("image", "zero_filled", "residual"))
        notes = read_record(parse_object(str(stored["notes"]), str(path)), SliceNotes)
        finished = FinishedSlice(image, zero_filled, residual, stored.get("standard_deviation"), notes)
        return finished if finished.is_sound else None
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _record(path: Path) -> Path:
    return partial_folder(path) / "run.json"
