"""What a reconstruction is compared with: the reference beside k-space, or an array of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import ArrayFile, StoredArray, is_array_file, open_arrays
from sbim_deploy.io.layouts import (
    COIL,
    GUESSED,
    Layout,
    Reading,
    guess_image_layout,
    guess_layout,
    named_layout,
)
from sbim_deploy.kspace.arrays import KSPACE_NAMES, check_slices, choose_array, label_of, read_part
from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centred_ifft
from sbim_deploy.mri.kspace_faults import IMAGE_IN_PLACE, find_faults
from sbim_deploy.records import ComplexArray, FloatArray

IMAGE_NAMES = (
    "reference",
    "truth",
    "ground_truth",
    "target",
    "image",
    "reconstruction_rss",
    "reconstruction_esc",
)
LEAST_SAMPLED = 0.99  # of fully sampled k-space: a sample may be zero by chance


class Reference(Protocol):
    """An open file with the image that a reconstruction should be."""

    path: Path
    has_complex_reference: bool

    def __enter__(self) -> Self:
        """Return the file itself."""

    def __exit__(self, *_error: Any) -> None:
        """Close it."""

    def read_reference(self, index: int) -> ComplexArray | FloatArray:
        """Read the reference of one slice, complex64 or float32 (rows, columns), perhaps cropped."""


class ArrayReference:
    """An open file of arrays that holds images, or k-space whose root-sum-of-squares is the reference.

    An array of real numbers is images. A complex one is k-space where its layout has coils, where it is
    called so, or where its energy is at the centre.

    Attributes:
        path: the file.
        has_complex_reference: whether the reference has a phase.
    """

    def __init__(self, file: ArrayFile, reading: Reading, conjugated: bool) -> None:
        self.path, self._file, self._conjugated = file.path, file, conjugated
        self._array = _choose(file, reading.variable)
        label, shape = label_of(file, self._array), self._array.shape
        named = None if reading.layout is None else named_layout(reading.layout, shape, label)
        self._is_kspace = self._array.is_complex and _is_kspace(file, self._array, named, label)
        if named is not None:
            if COIL in named.axes and not self._is_kspace:
                raise InputError(
                    f"{label}: is no k-space, and the layout {named.text} has coils: leave them out"
                )
            self._layout = named
        else:
            self._layout = (guess_layout if self._is_kspace else guess_image_layout)(shape, label)
        check_slices(self._array, self._layout, label)
        self.has_complex_reference = self._array.is_complex and not self._is_kspace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def read_reference(self, index: int) -> ComplexArray | FloatArray:
        """Read the reference of one slice, complex64 or float32 (rows, columns).

        Raises:
            InputError: no such slice, damaged or non-finite data, or undersampled k-space.
        """
        dtype = np.complex64 if self._array.is_complex else np.float32
        values = read_part(self._file, self._array, self._layout, index, dtype)
        if not self._is_kspace:
            image: ComplexArray | FloatArray = values[0]
            return image
        sampled = float(values.any(axis=0).mean())
        if sampled < LEAST_SAMPLED:
            raise InputError(
                f"{label_of(self._file, self._array)}: only {sampled:.0%} of its k-space was sampled in "
                f"slice {index}, expected all of it, or an image, for a reference"
            )
        kspace = values.conj() if self._conjugated else values
        combined: FloatArray = root_sum_of_squares(centred_ifft(kspace))
        return combined


def open_reference(path: Path, reading: Reading = GUESSED, orientation: str | None = None) -> Reference:
    """Open a fastMRI file with a reference, or an array of images or of fully sampled k-space.

    ``orientation`` is what was asked for the k-space of the result. Where that was turned, k-space and what
    stands beside it is turned too; an array of images is compared as it lies.

    Raises:
        InputError: the file is not what it must be, or its axes cannot be told.
    """
    conjugated = orientation == Orientation.TURNED
    if not is_array_file(path) and reading.variable is None:
        opened = open_kspace(path, reading)
        opened.conjugated = conjugated
        return opened
    file = open_arrays(path)
    try:
        return ArrayReference(file, reading, conjugated)
    except BaseException:
        file.__exit__()
        raise


def _choose(file: ArrayFile, wanted: str | None) -> StoredArray:
    if wanted in file.arrays:
        return file.arrays[wanted]
    usable = [each for each in file.arrays.values() if each.n_axes >= 2 and (each.is_real or each.is_complex)]
    named = [each for name in IMAGE_NAMES for each in usable if each.name.lower() == name]
    if wanted is None and (named or len(usable) == 1):
        return (named or usable)[0]
    return choose_array(file, wanted, KSPACE_NAMES, "the reference")


def _is_kspace(file: ArrayFile, array: StoredArray, named: Layout | None, label: str) -> bool:
    if named is not None and COIL in named.axes:
        return True
    if array.name.lower() in KSPACE_NAMES:
        return True
    layout = named or guess_layout(array.shape, label)
    check_slices(array, layout, label)
    first = read_part(file, array, layout, 0, np.complex64)
    return all(fault.kind != IMAGE_IN_PLACE for fault in find_faults(first, None, 0.0))
