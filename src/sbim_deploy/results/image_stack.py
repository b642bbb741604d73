"""The images of an open file, whatever its format: one slice in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import as_finite
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.results.geometry import Matrix
from sbim_deploy.results.result_file import ResultFile


class ImageStack:
    """An open file of images; use it in a ``with`` statement.

    Attributes:
        path: the file, or the folder.
        kind: what it is, in words.
        n_slices: number of images.
        shape: (rows, columns) of each.
        is_complex: whether they have a phase.
        details: what else the file says of them, as JSON's types.
        result: the result, where it is one that ``recon`` wrote as HDF5.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        n_slices: int,
        shape: tuple[int, int],
        read: Callable[[int], NDArray[Any]],
        *,
        is_complex: bool = False,
        affines: Sequence[Matrix | None] = (),
        details: Mapping[str, Any] | None = None,
        close: Callable[[], object] = lambda: None,
        result: ResultFile | None = None,
    ) -> None:
        self.path, self.kind, self.n_slices, self.shape = path, kind, n_slices, shape
        self.is_complex, self.details, self.result = is_complex, dict(details or {}), result
        self._read, self._affines, self._close = read, tuple(affines), close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read_image(self, position: int) -> ComplexArray | FloatArray:
        """Read an image, complex64 or float32 (rows, columns).

        Raises:
            InputError: no such image, damaged data, or values that are not finite.
        """
        if not 0 <= position < self.n_slices:
            raise InputError(f"{self.path}: no image {position}, expected 0 to {self.n_slices - 1}")
        dtype = np.complex64 if self.is_complex else np.float32
        return as_finite(self._read(position), dtype, self.path, f"image {position}")

    def affine(self, position: int) -> Matrix | None:
        """Return what takes (row, column, slice, 1) to (left, posterior, superior, 1) in mm, if known."""
        return self._affines[position] if self._affines else None

    @property
    def affines(self) -> list[Matrix] | None:
        """The affines of all images, or None where one is unknown."""
        known = [affine for affine in self._affines if affine is not None]
        return known if len(known) == self.n_slices else None
