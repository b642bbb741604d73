"""Reconstructions out and back in: one HDF5 file, which :class:`ResultWriter` assembles at the end of a run.

Until then the finished slices wait where :mod:`sbim_deploy.results.partial` keeps them, so that a run that is
killed at any moment can be resumed. :class:`ResultFile` reads the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space, check_writable
from sbim_deploy.io.documents import format_object, parse_object
from sbim_deploy.io.hdf5 import (
    OpenFile,
    check_stack,
    find_dataset,
    open_as,
    read_finite,
    read_json_attribute,
    read_values,
    reading,
    require_dataset,
    write_json_attribute,
    writing,
)
from sbim_deploy.io.overwriting import check_new, new_file
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.results.partial import (
    FinishedSlice,
    SliceForm,
    begin_run,
    check_run,
    count_finished,
    discard_run,
    is_begun,
    is_current,
    load_slice,
    partial_folder,
    read_run,
    run_hash,
    save_slice,
    slice_path,
)
from sbim_deploy.results.provenance import Provenance, SliceNotes, read_record
from sbim_deploy.words import plural

IMAGE_AXES = ("slices", "rows", "columns")
MAX_SHOWN, MAX_SLICES = 60, 2**20
WITHOUT_RESUME = "start over with --force in place of --resume"
BYTES_PER_PIXEL = 20  # complex64, its float32 magnitude, the zero-filled one and the standard deviation


class ResultFile(OpenFile):
    """An open result, checked; use it in a ``with`` statement.

    Attributes:
        path: the file.
        n_slices: number of images.
        shape: (rows, columns) of each image.
        slice_indices: for each image the slice of the k-space file it was made from.
        residual: float32 (n_slices,), the relative distance of each image from the measured data.
        samples: how many samples each image is the mean of.
        has_standard_deviation: whether their spread is in the file.
        identity: what the run was made of.
        provenance: how the images came about.
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        super().__init__(file, path)
        self._images = require_dataset(file, path, "image")
        check_stack(self._images, path, IMAGE_AXES, "c")
        self._zero_filled = require_dataset(file, path, "zero_filled")
        check_stack(self._zero_filled, path, IMAGE_AXES, "f")
        self._deviations = find_dataset(file, path, "standard_deviation")
        self.has_standard_deviation = self._deviations is not None
        if self._deviations is not None:
            check_stack(self._deviations, path, IMAGE_AXES, "f")
        for dataset in (self._zero_filled, self._deviations):
            if dataset is not None and dataset.shape != self._images.shape:
                name = dataset.name.strip("/")
                raise InputError(f"{path}: {name!r} is {dataset.shape}, 'image' {self._images.shape}")
        self.n_slices: int = self._images.shape[0]
        self.shape: tuple[int, int] = self._images.shape[1:]
        indices = _read_column(file, path, "slice_index", self.n_slices, "i")
        self.slice_indices = tuple(int(index) for index in indices)
        self.residual: FloatArray = _read_column(file, path, "residual", self.n_slices, "f")
        self.identity = read_json_attribute(file, path, "identity")
        self.provenance = read_record(read_json_attribute(file, path, "provenance"), Provenance)
        self.samples = self._read_samples()

    def read_image(self, position: int) -> ComplexArray:
        """Read the image at a position of ``slice_indices``, complex64 (rows, columns).

        Raises:
            InputError: no such image, or damaged or non-finite data.
        """
        image: ComplexArray = read_finite(self._images, self.path, position, np.complex64)
        return image

    def read_zero_filled(self, position: int) -> FloatArray:
        """Read the magnitude of the measured data alone, float32 (rows, columns).

        Raises:
            InputError: no such image, or damaged or non-finite data.
        """
        image: FloatArray = read_finite(self._zero_filled, self.path, position, np.float32)
        return image

    def read_standard_deviation(self, position: int) -> FloatArray:
        """Read sqrt(mean |x - mean|^2) over the samples x of an image, float32 (rows, columns).

        Raises:
            InputError: there is none, no such image, or damaged or non-finite data.
        """
        if self._deviations is None:
            raise InputError(f"{self.path}: no standard deviation: reconstruct with --samples 2 or more")
        deviation: FloatArray = read_finite(self._deviations, self.path, position, np.float32)
        return deviation

    def _read_samples(self) -> int:
        samples = self.identity.get("samples", 1)
        least = 2 if self.has_standard_deviation else 1
        if not isinstance(samples, int) or samples < least:
            raise InputError(
                f"{self.path}: attribute 'identity' has samples {samples!r}, expected {least} or more"
            )
        return samples


def open_result(path: Path) -> ResultFile:
    """Open a file that ``ResultWriter`` wrote.

    Raises:
        InputError: the file is missing, truncated or not such a result.
    """
    return open_as(path, ResultFile)


def _read_column(file: h5py.File, path: Path, name: str, length: int, kind: str) -> np.ndarray[Any, Any]:
    if length > MAX_SLICES:
        raise InputError(f"{path}: has {length} images, expected at most {MAX_SLICES}")
    dataset = require_dataset(file, path, name)
    with reading(path, repr(name)):
        if dataset.shape != (length,) or dataset.dtype.kind != kind:
            raise InputError(
                f"{path}: {name!r} is {dataset.dtype} {dataset.shape}, expected {(length,)}, "
                f"{'float' if kind == 'f' else 'integer'}"
            )
        values: np.ndarray[Any, Any] = read_values(dataset, path)
    return values


def check_result_place(path: Path, resume: bool, force: bool) -> None:
    """Check that the result of a run may be written at ``path``, before long work.

    With ``resume`` the slices of a stopped run, or its result, may be there: whether they are of the same run
    is found out by :class:`ResultWriter`. With ``force`` they are replaced.

    Raises:
        InputError: something is there that would be lost, or nothing can be written there.
    """
    check_writable(path)
    if resume and (is_begun(path) or os.path.lexists(path)):
        return
    if not force and is_begun(path) and (n_finished := count_finished(path)):
        raise InputError(
            f"{path}: has {plural(n_finished, 'finished slice')} of a stopped run; --resume goes on with "
            "them, and --force starts over"
        )
    if not force and os.path.isfile(path):
        raise InputError(
            f"{path}: is there already; give --force to replace it, --resume if it is of the same run, or "
            "name another output"
        )
    check_new(path, force)


class ResultWriter:
    """The slices of one run, finished and pending; use it in a ``with`` statement.

    Without ``resume`` there must be no output and no finished slices, or with ``force`` they are replaced.
    With ``resume`` the finished slices of a run of the same identity are kept; where the output itself is
    already there, complete and of the same identity, nothing is pending and ``finish`` leaves it as it is;
    where there is neither, the run starts from the beginning. A damaged slice file counts as pending.
    However the ``with`` statement is left, finished slices stay until ``finish``.

    Attributes:
        path: the output file.
        slice_indices: the slices of the run, in the order of the output.

    Raises:
        InputError: the output cannot be written, something is there that may not be replaced, or a run of
            another identity is to be resumed.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        slice_indices: Sequence[int],
        resume: bool,
        force: bool = False,
    ) -> None:
        self.path, self._force = path, force
        self.slice_indices = tuple(int(index) for index in slice_indices)
        if not self.slice_indices or len(set(self.slice_indices)) != len(self.slice_indices):
            raise InputError(f"{path}: got slices {self.slice_indices}, expected at least one, none twice")
        check_result_place(path, resume, force)
        # JSON has no tuples: compare what will be read back, not what was given.
        self._identity = parse_object(format_object(identity), "the identity of the run")
        self._run = run_hash(self._identity)
        self._form: SliceForm | None = None
        self._done: set[int] = set()
        self._notes: dict[int, SliceNotes] = {}
        self._complete = self._was_resumed = False
        if resume:
            self._take_up()
        if not self._complete:
            check_new(path, force)  # an output that is none of this run's
        if not self._done and not self._complete:
            begin_run(path, self._identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done and is_current(self.path, self._run):
            discard_run(self.path)

    @property
    def notes(self) -> dict[str, SliceNotes]:
        """What was found out of the finished slices, by the slice's number as text."""
        return {str(index): self._notes[index] for index in sorted(self._notes)}

    @property
    def pending(self) -> tuple[int, ...]:
        """The slice indices that are not done yet, in the order of the output."""
        if self._complete:
            return ()
        return tuple(index for index in self.slice_indices if index not in self._done)

    def write(
        self,
        index: int,
        image: ComplexArray,
        zero_filled: ComplexArray,
        residual: float,
        standard_deviation: FloatArray | None = None,
        notes: SliceNotes | None = None,
    ) -> None:
        """Keep one finished slice.

        Args:
            index: the slice, one of ``slice_indices``.
            image: complex64 (rows, columns), of one size in all slices.
            zero_filled: the image of the measured data alone, of the same size.
            residual: the relative distance of the image from the measured data.
            standard_deviation: float32, of the same size, in all slices or in none.
            notes: what was found out of the slice.

        Raises:
            InputError: the slice cannot be written.
        """
        if index not in self.slice_indices:
            raise ValueError(f"slice {index} is not one of this run")
        shape = image.shape if self._form is None else self._form.shape
        if self._was_resumed and image.shape != shape:
            raise InputError(
                f"{partial_folder(self.path)}: its slices are {shape}, and this run's are {image.shape}; "
                f"{WITHOUT_RESUME}"
            )
        if image.ndim != 2 or image.dtype != np.complex64 or image.shape != shape:
            raise ValueError(f"image is {image.dtype} {image.shape}, expected complex64 {shape}")
        if zero_filled.shape != shape:
            raise ValueError(f"zero_filled is {zero_filled.shape}, expected {shape}")
        finished = FinishedSlice(
            image, np.abs(zero_filled), np.float32(residual), standard_deviation, notes or SliceNotes()
        )
        if not finished.is_sound or self._form not in (None, finished.form):
            raise ValueError(
                f"slice {index} has a standard deviation that is not float32 {shape}, or that others lack"
            )
        save_slice(self.path, index, finished, self._run)
        self._form = finished.form
        self._done.add(index)
        self._notes[index] = finished.notes

    def leave_out(self, indices: Collection[int]) -> None:
        """Do without slices that cannot be made: they are pending no more, and not in the output."""
        self.slice_indices = tuple(index for index in self.slice_indices if index not in indices)

    def finish(self, provenance: dict[str, Any]) -> None:
        """Assemble the output from the finished slices and remove the partial folder.

        Args:
            provenance: how the images came about, stored as JSON in the attribute ``provenance``.

        Raises:
            InputError: the output cannot be written, or a finished slice was damaged meanwhile.
        """
        if self._complete:
            return
        if self.pending or self._form is None:
            raise ValueError(f"slices {self.pending} are not written yet")
        check_run(self.path, self._run)
        n_bytes = len(self.slice_indices) * math.prod(self._form.shape) * BYTES_PER_PIXEL
        folder = partial_folder(self.path)
        check_free_space(folder, n_bytes)
        # Assembled within the folder, so that a kill meanwhile leaves nothing beside the output.
        assembled = folder / self.path.name
        assembled.unlink(missing_ok=True)  # of a run that was killed here
        with writing(assembled) as file:
            self._assemble(file, self._form)
            write_json_attribute(file, "identity", self._identity)
            write_json_attribute(file, "provenance", provenance)
        with new_file(self.path, self._force) as temporary:
            os.replace(assembled, temporary)
        self._complete = True
        discard_run(self.path)

    def _assemble(self, file: h5py.File, form: SliceForm) -> None:
        def stack(name: str, dtype: type) -> h5py.Dataset:
            # In chunks: on a full disk HDF5 crashes when a dataset without them is freed.
            shape = (len(self.slice_indices), *form.shape)
            return file.create_dataset(name, shape, dtype, chunks=(1, *form.shape))

        images, magnitudes = stack("image", np.complex64), stack("reconstruction", np.float32)
        zero_filled = stack("zero_filled", np.float32)
        deviations = stack("standard_deviation", np.float32) if form.has_deviation else None
        residuals = file.create_dataset("residual", (len(self.slice_indices),), np.float32)
        for position, index in enumerate(self.slice_indices):
            finished = load_slice(self.path, index, self._run)
            if finished is None or finished.form != form:
                raise InputError(
                    f"{slice_path(self.path, index)}: is damaged or another run's; run again with --resume"
                )
            images[position], residuals[position] = finished.image, finished.residual
            magnitudes[position], zero_filled[position] = np.abs(finished.image), finished.zero_filled
            if deviations is not None:
                deviations[position] = finished.standard_deviation
        file["slice_index"] = np.asarray(self.slice_indices, np.int32)

    def _resume(self) -> None:
        found, _ = read_run(self.path)
        check_same_run(found, self._identity, partial_folder(self.path), WITHOUT_RESUME)
        for index in self.slice_indices:
            finished = load_slice(self.path, index, self._run)
            if finished is not None and self._form in (None, finished.form):
                self._form = finished.form
                self._done.add(index)
                self._notes[index] = finished.notes
        self._was_resumed = bool(self._done)

    def _take_up(self) -> None:
        """Go on with what is there of a run: its result, or else its slices."""
        begun = is_begun(self.path)
        try:
            with open_result(self.path) as result:
                found, left_out = result.identity, result.provenance.left_out
                indices = (*result.slice_indices, *map(int, left_out))
        except InputError:  # whatever is there, it is not a finished run
            if begun:
                self._resume()
            return
        if begun and (self._force or found != self._identity):
            self._resume()
            return
        check_same_run(found, self._identity, self.path, WITHOUT_RESUME)
        self._complete = sorted(indices) == sorted(self.slice_indices)
        if self._complete and begun:
            discard_run(self.path)  # of a run that was killed when it had given its result the name


def check_same_run(found: dict[str, Any], expected: dict[str, Any], where: Path, way_out: str) -> None:
    """Raise InputError, naming what differs, where a run was begun with another identity than this one's."""
    differing = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if differing:
        detail = ", ".join(
            f"{key} (got {_shown(expected.get(key))}, expected {_shown(found.get(key))})" for key in differing
        )
        raise InputError(
            f"{where}: was begun by a run that differs in {detail}; "
            f"give the same input and options, or {way_out}"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
