"""k-space and coil maps in files of plain arrays: .npy, .npz, MATLAB's .mat, and HDF5 of any names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import ArrayFile, StoredArray, is_array_file, open_arrays
from sbim_deploy.io.hdf5 import MAX_SLICE_BYTES, as_finite
from sbim_deploy.io.layouts import (
    COIL,
    COLUMN,
    ROW,
    SLICE,
    VOLUME,
    Layout,
    Reading,
    bytes_of_slice,
    guess_layout,
    layout_of_sizes,
    named_layout,
)
from sbim_deploy.kspace.bare import BareKspace, EmptyMapsError
from sbim_deploy.kspace.sampling_mask import SamplingMask
from sbim_deploy.mrd.orientation import conjugation_remark
from sbim_deploy.records import BoolArray, ComplexArray, Vector

KSPACE_NAMES = ("kspace", "ksp", "k_space", "k-space", "kdata", "data")
MAPS_NAMES = ("s_maps", "maps", "mps", "sens", "sensitivities", "csm", "coil_maps")
MASK_NAME = "mask"

_ITEM_BYTES = 8


class ArrayKspace(BareKspace):
    """k-space in an open file of arrays; use it in a ``with`` statement.

    What is zero in every coil was not sampled, where there is no array ``mask`` beside it.

    Attributes:
        path: the file.
        layout: the axes of the array.
        n_slices, n_coils, n_rows, n_columns: its size.
        stored_shape: (rows, columns) of k-space in the file, which are its own.
        mask: sampled positions of all slices, (columns,) or (rows, columns), or None. A mask for each slice
            is applied where the slice is read.
        recon_shape, voxel_mm: None, such files do not say.
        conjugated: whether k-space is conjugated as it is read.
    """

    recon_shape: tuple[int, int] | None = None
    voxel_mm: Vector | None = None
    conjugated = False

    def __init__(self, file: ArrayFile, reading: Reading) -> None:
        self.path, self._file = file.path, file
        self._array = choose_array(file, reading.variable, KSPACE_NAMES, "k-space")
        label, shape = label_of(file, self._array), self._array.shape
        named = reading.layout
        self._is_guess = named is None
        self.layout = guess_layout(shape, label) if named is None else named_layout(named, shape, label)
        check_slices(self._array, self.layout, label)
        self.n_slices, self.n_coils, self.n_rows, self.n_columns = map(self.layout.size, VOLUME)
        self.stored_shape = self.n_rows, self.n_columns
        mask = next((each for name, each in file.arrays.items() if name.lower() == MASK_NAME), None)
        self._mask = None if mask is None else SamplingMask(mask, file.path, self.layout)
        self.mask: BoolArray | None = None if self._mask is None else self._mask.common

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def read_slice(self, index: int) -> ComplexArray:
        """Read the k-space of one slice, complex64 (coils, rows, columns).

        Raises:
            InputError: no such slice, damaged data, or values that are not finite.
        """
        kspace: ComplexArray = read_part(self._file, self._array, self.layout, index, np.complex64)
        own = None if self._mask is None else self._mask.of_slice(index)
        kspace = kspace if own is None else kspace * own
        return kspace.conj() if self.conjugated else kspace

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types; what was assumed of it stands under ``assumed``."""
        told: dict[str, Any] = {"format": self._file.kind}
        if self._array.name:
            told["variable"] = self._array.name
        told["layout"] = self.layout.text
        if self._mask is not None:
            told["mask"] = self._mask.kind
        assumed = [self._assumption()] if self._is_guess else []
        conjugation = [conjugation_remark()] if self.conjugated else []
        told["assumed"] = [*assumed, *conjugation] or None
        return told

    def _assumption(self) -> str:
        order = ", in MATLAB's order," if self._file.is_matlab else ""
        sizes = " x ".join(str(size) for size in self.layout.shape)
        axes = ", ".join(axis for axis in self.layout.axes if axis in VOLUME)
        return f"the axes of {sizes}{order} are taken to be {axes}: --layout says otherwise"


class ArrayMaps:
    """Coil maps in an open file of arrays; use it in a ``with`` statement."""

    def __init__(self, file: ArrayFile, array: StoredArray, layout: Layout) -> None:
        self.path, self._file, self._array, self._layout = file.path, file, array, layout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def read_maps(self, index: int) -> ComplexArray:
        """Read the coil maps of one slice, complex64 (coils, rows, columns).

        Raises:
            InputError: no such slice, damaged data, values that are not finite, or maps that are all zero.
        """
        maps: ComplexArray = read_part(self._file, self._array, self._layout, index, np.complex64)
        if not maps.any():
            raise EmptyMapsError(f"{self.path}: the maps of slice {index} are all zero; leave this slice out")
        return maps


def open_array_kspace(path: Path, reading: Reading) -> ArrayKspace:
    """Open a file of arrays and find the k-space in it.

    Raises:
        InputError: the file is damaged, no array or several may be k-space, or its axes cannot be told.
    """
    file = open_arrays(path)
    try:
        return ArrayKspace(file, reading)
    except BaseException:
        file.__exit__()
        raise


def names_kspace(path: Path) -> bool:
    """Tell whether a file of NumPy or MATLAB has an array that is called k-space, beside which images may be.

    Raises:
        InputError: the file is damaged.
    """
    if not is_array_file(path):
        return False
    with open_arrays(path) as file:
        return any(name.lower() in KSPACE_NAMES and each.is_complex for name, each in file.arrays.items())


def open_array_maps(path: Path, n_slices: int, n_coils: int, shapes: Sequence[tuple[int, int]]) -> ArrayMaps:
    """Open a file of arrays with the coil maps of a k-space of this size, whose sizes tell the axes.

    ``shapes`` are the (rows, columns) that will do, the k-space's first.

    Raises:
        InputError: the file is damaged, no array or several may be maps, or they are of another size.
    """
    file = open_arrays(path)
    try:
        array = choose_array(file, None, MAPS_NAMES, "coil maps")
        for rows, columns in shapes:
            sizes = {SLICE: n_slices, COIL: n_coils, ROW: rows, COLUMN: columns}
            layout = layout_of_sizes(array.shape, sizes)
            if layout is not None:
                check_slices(array, layout, label_of(file, array))
                return ArrayMaps(file, array, layout)
        raise InputError(
            f"{label_of(file, array)}: maps have shape {array.shape}, expected "
            f"{(n_slices, n_coils, *shapes[0])} (slices, coils, rows, columns) as k-space has"
        )
    except BaseException:
        file.__exit__()
        raise


def choose_array(file: ArrayFile, wanted: str | None, names: Iterable[str], what: str) -> StoredArray:
    """Return the array that is asked for, or the only complex one, or the only one of these names.

    Raises:
        InputError: there is none or there are several, or it is not complex.
    """
    if wanted is not None:
        if wanted not in file.arrays:
            raise InputError(f"{file.path}: has no variable {wanted!r}: it holds {file.listed()}")
        chosen = file.arrays[wanted]
        if not chosen.is_complex:
            raise InputError(f"{label_of(file, chosen)}: has dtype {chosen.dtype}, expected complex")
        return chosen
    complex_ones = [each for each in file.arrays.values() if each.is_complex and each.n_axes >= 2]
    named = [each for name in names for each in complex_ones if each.name.lower() == name]
    if len(named) == 1 or len(complex_ones) == 1:
        return (named or complex_ones)[0]
    if complex_ones:
        held = ", ".join(f"{each.name} {each.shape}" for each in complex_ones)
        raise InputError(f"{file.path}: which array is {what}? {held}: say it by --variable")
    raise InputError(
        f"{file.path}: holds no complex array of two axes or more, expected {what}: it holds "
        f"{file.listed()}; parts that stand apart are joined as real + 1j * imaginary"
    )


def check_slices(array: StoredArray, layout: Layout, label: str) -> None:
    """Check that no axis is empty, and that a slice fits into memory.

    Raises:
        InputError: it does not.
    """
    if min(layout.shape) < 1:
        raise InputError(f"{label}: has shape {layout.shape}, an empty axis; expected at least one of each")
    n_bytes = max(bytes_of_slice(layout, max(_ITEM_BYTES, array.dtype.itemsize)), array.chunk_bytes)
    if n_bytes > MAX_SLICE_BYTES:
        raise InputError(f"{label}: a slice has {n_bytes} bytes, expected at most {MAX_SLICE_BYTES}; crop it")


def read_part(file: ArrayFile, array: StoredArray, layout: Layout, index: int, dtype: type) -> NDArray[Any]:
    """Read one slice as ``dtype``, (coil, row, column).

    Raises:
        InputError: no such slice, damaged data, or values that are not finite.
    """
    n_slices = layout.size(SLICE)
    label = label_of(file, array)
    if not 0 <= index < n_slices:
        raise InputError(f"{label}: no slice {index}, expected 0 to {n_slices - 1}")
    part = layout.arranged(array.read(layout.key(index)))
    what = f"slice {index} of {array.name!r}" if array.name else f"slice {index}"
    return as_finite(part, dtype, file.path, what)


def label_of(file: ArrayFile, array: StoredArray) -> str:
    """Return what an array is called in messages."""
    return f"{file.path}: {array.name!r}" if array.name else str(file.path)
