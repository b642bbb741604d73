"""What is written part by part and read slice by slice, in a file on disk whatever its size."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.records import ComplexArray

_ITEM_BYTES = np.dtype(np.complex64).itemsize


class SliceStore:
    """Arrays (slices, parts, ...) of complex64 in a file, written part by part, read by slice.

    Args:
        folder: where it is.
        n_slices: slices.
        n_parts: parts.
        part_shape: the shape of what each part holds of a slice.
        file: the open file, empty or with all parts, which the store closes. None is one that has no name
            from its beginning on, so that nothing of it outlasts the process, however it ends.
    """

    def __init__(
        self,
        folder: Path,
        n_slices: int,
        n_parts: int,
        part_shape: tuple[int, ...],
        file: BinaryIO | None = None,
    ) -> None:
        self._shape = (n_parts, *part_shape)
        self._part_bytes = int(np.prod(part_shape)) * _ITEM_BYTES
        self._slice_bytes = n_parts * self._part_bytes
        self.n_bytes = n_slices * self._slice_bytes
        n_written = 0 if file is None else os.fstat(file.fileno()).st_size
        if n_written < self.n_bytes:
            check_free_space(folder, self.n_bytes)
        self._file = tempfile.TemporaryFile(dir=folder) if file is None else file  # noqa: SIM115
        self._folder = folder

    def close(self) -> None:
        """Close the file; the space of one without a name is free again."""
        self._file.close()

    def write(self, first: int, parts: ComplexArray) -> None:
        """Write the parts from ``first`` on of every slice, (slices, parts, ...).

        Raises:
            InputError: the disk is full.
        """
        for index, values in enumerate(parts):
            self.write_slice(index, values, first)

    def write_slice(self, index: int, parts: ComplexArray, first: int = 0) -> None:
        """Write the parts from ``first`` on of one slice, (parts, ...).

        Raises:
            InputError: the disk is full.
        """
        place = index * self._slice_bytes + first * self._part_bytes
        try:
            _write_all(self._file.fileno(), np.ascontiguousarray(parts), place)
        except OSError as error:
            raise InputError(
                f"{self._folder}: the temporary store of {self.n_bytes / 1e9:.1f} GB cannot be written "
                f"({error.strerror}); make room, or name an output elsewhere"
            ) from error

    def read(self, index: int) -> ComplexArray:
        """Read a slice, (parts, ...)."""
        values: ComplexArray = np.empty(self._shape, np.complex64)
        view, place = values.view(np.uint8).reshape(-1).data, index * self._slice_bytes
        done = 0
        while done < self._slice_bytes:
            n_read = os.preadv(self._file.fileno(), [view[done:]], place + done)
            if not n_read:
                raise InputError(
                    f"{self._folder}: the temporary store ends before slice {index}; start over with --force"
                )
            done += n_read
        return values


def _write_all(descriptor: int, values: NDArray[Any], place: int) -> None:
    view = values.view(np.uint8).reshape(-1).data
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], place + done)
