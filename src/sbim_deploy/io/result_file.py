"""Reconstructions back in: what `results.ResultWriter` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import (
    OpenFile,
    check_stack,
    find_dataset,
    open_hdf5,
    read_finite,
    read_json_attribute,
    reading,
    require_dataset,
)
from sbim_deploy.records import ComplexArray, FloatArray

IMAGE_AXES = ("slices", "rows", "columns")


class ResultFile(OpenFile):
    """An open result, checked; use it in a `with` statement.

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
        self.provenance = read_json_attribute(file, path, "provenance")
        self.samples = self._read_samples()

    def read_image(self, position: int) -> ComplexArray:
        """Read the image at a position of `slice_indices`, complex64 (rows, columns).

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
    """Open a file that `ResultWriter` wrote.

    Raises:
        InputError: the file is missing, truncated or not such a result.
    """
    file = open_hdf5(path)
    try:
        return ResultFile(file, path)
    except BaseException:
        file.close()
        raise


def _read_column(file: h5py.File, path: Path, name: str, length: int, kind: str) -> np.ndarray[Any, Any]:
    dataset = require_dataset(file, path, name)
    with reading(path, repr(name)):
        if dataset.shape != (length,) or dataset.dtype.kind != kind:
            raise InputError(
                f"{path}: {name!r} is {dataset.dtype} {dataset.shape}, expected {(length,)}, "
                f"{'float' if kind == 'f' else 'integer'}"
            )
        values: np.ndarray[Any, Any] = dataset[:]
    return values
