"""The mask that stands beside k-space in a file: one for all slices, or one for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import StoredArray
from sbim_deploy.io.hdf5 import MAX_SLICE_BYTES
from sbim_deploy.io.layouts import COIL, COLUMN, ROW, SLICE, UNNAMED, Layout, layout_of_sizes
from sbim_deploy.records import BoolArray


class EmptyMaskError(InputError):
    """Nothing is sampled by a mask: of a slice an error, of a volume's partition none."""


class SamplingMask:
    """A mask, whose values that are not 0 are sampled.

    It is (columns,) or (rows, columns), for each slice (slices, columns) or (slices, rows, columns), and axes
    of size 1 do not count. Where the columns of k-space come before its rows, so do those of a mask.

    Attributes:
        common: the mask of all slices, (columns,) or (rows, columns), or None where each has its own.

    Raises:
        InputError: a shape that does not fit or fits in two ways, values that are no numbers or not finite,
            or nothing is sampled.
    """

    def __init__(self, array: StoredArray, path: Path, layout: Layout) -> None:
        self._array, self._label = array, f"{path}: {array.name!r}"
        self._n_slices = layout.size(SLICE)
        self._shape = layout.size(ROW), layout.size(COLUMN)
        self._is_turned = layout.axes.index(COLUMN) < layout.axes.index(ROW)
        fitting = self._fitting()
        if not array.is_real:
            raise InputError(f"{self._label} has dtype {array.dtype}, expected bool, int or float")
        if max(array.chunk_bytes, array.dtype.itemsize * self._shape[0] * self._shape[1]) > MAX_SLICE_BYTES:
            raise InputError(f"{self._label} takes more than {MAX_SLICE_BYTES} bytes: rechunk the file")
        self.common: BoolArray | None = None
        self._by_slice: Layout | None = fitting if isinstance(fitting, Layout) else None
        if not isinstance(fitting, Layout):
            whole = array.read((slice(None),) * len(array.shape)).reshape(fitting)
            self.common = self._checked(whole.T if self._is_turned else whole, "")

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return "in the file" if self._by_slice is None else "in the file, one for each slice"

    def of_slice(self, index: int) -> BoolArray | None:
        """Read the mask of a slice that has its own, (1, columns) or (rows, columns); None where it has not.

        Raises:
            InputError: the values cannot be read or are no mask.
        """
        layout = self._by_slice
        if layout is None:
            return None
        part = layout.arranged(self._array.read(layout.key(index)))[0]
        return self._checked(part, f" of slice {index}")

    def _fitting(self) -> tuple[int, ...] | Layout:
        """Return the shape of a mask for all slices, or the layout of one for each."""
        n_slices, (rows, columns) = self._n_slices, self._shape
        stored = self._array.shape
        sizes = _longer_than_one(stored)
        plane = self._shape[::-1] if self._is_turned else self._shape
        if sizes == _longer_than_one((columns,)):
            return (columns,)
        is_plane, is_rows_of_slices = (
            sizes == _longer_than_one(each) for each in (plane, (n_slices, columns))
        )
        place = stored.index(1) if len(stored) == 3 and 1 in stored else None
        if is_plane and is_rows_of_slices and place not in (0, 1):
            raise InputError(
                f"{self._label} has shape {stored}, which is (rows, columns) as well as (slices, columns): "
                f"store it as {(1, *plane)} or as {(n_slices, 1, columns)}"
            )
        if is_plane and not (is_rows_of_slices and place == 1):
            return plane
        if is_rows_of_slices:
            axes = iter((SLICE, COLUMN))
            return Layout(tuple(UNNAMED if size == 1 else next(axes) for size in stored), stored)
        by_slice = layout_of_sizes(stored, {SLICE: n_slices, COIL: 1, ROW: rows, COLUMN: columns})
        if by_slice is not None:
            return by_slice
        raise InputError(
            f"{self._label} has shape {stored}, expected ({columns},) for the columns of k-space or {plane} "
            f"for its rows and columns; for each slice {(n_slices, columns)} or {(n_slices, rows, columns)}"
        )

    def _checked(self, values: NDArray[Any], which: str) -> BoolArray:
        if not np.isfinite(values).all():
            raise InputError(
                f"{self._label}{which} has values that are not finite, expected 0 and 1; repair it"
            )
        mask: BoolArray = values != 0
        if not mask.any():
            raise EmptyMaskError(
                f"{self._label}{which} is all zero, expected sampled positions; repair it or give a mask"
            )
        return mask


def _longer_than_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
