"""A model's own samples as an HDF5 file: the images and how they came about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import (
    OpenFile,
    check_stack,
    open_as,
    read_finite,
    read_json_attribute,
    require_dataset,
    write_json_attribute,
    writing,
)
from sbim_deploy.io.overwriting import check_new
from sbim_deploy.records import ComplexArray
from sbim_deploy.results.provenance import SamplesProvenance, read_record

DATASET = "samples"
SAMPLE_AXES = ("samples", "rows", "columns")
BYTES_PER_PIXEL = 8  # complex64


class SampleFile(OpenFile):
    """An open file of samples, checked; use it in a ``with`` statement.

    Attributes:
        path: the file.
        n_samples: number of images.
        shape: (rows, columns) of each image.
        provenance: how the images came about.
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        super().__init__(file, path)
        self._samples = require_dataset(file, path, DATASET)
        check_stack(self._samples, path, SAMPLE_AXES, "c")
        self.n_samples: int = self._samples.shape[0]
        self.shape: tuple[int, int] = self._samples.shape[1:]
        self.provenance = read_record(read_json_attribute(file, path, "provenance"), SamplesProvenance)

    def read_sample(self, index: int) -> ComplexArray:
        """Read a sample, complex64 (rows, columns), in the units of the network.

        Raises:
            InputError: no such sample, or damaged or non-finite data.
        """
        image: ComplexArray = read_finite(self._samples, self.path, index, np.complex64)
        return image


def open_samples(path: Path) -> SampleFile:
    """Open a file that :class:`SampleWriter` wrote.

    Raises:
        InputError: the file is missing, truncated or not of samples.
    """
    return open_as(path, SampleFile)


class SampleWriter:
    """Takes samples as they come, complex64 (n, rows, columns), and at last their provenance."""

    def __init__(self, file: h5py.File, n_samples: int, shape: tuple[int, int]) -> None:
        self._file = file
        # In chunks: on a full disk HDF5 crashes when a dataset without them is freed.
        self._samples = file.create_dataset(DATASET, (n_samples, *shape), np.complex64, chunks=(1, *shape))

    def write(self, first: int, images: ComplexArray) -> None:
        """Write the samples from the number ``first`` on."""
        self._samples[first : first + len(images)] = images

    def finish(self, provenance: dict[str, Any]) -> None:
        """Store how the images came about, as JSON in the attribute ``provenance``."""
        write_json_attribute(self._file, "provenance", provenance)


@contextmanager
def writing_samples(
    path: Path, n_samples: int, shape: tuple[int, int], force: bool = False
) -> Iterator[SampleWriter]:
    """Yield the writer of a file that appears at ``path`` whole or not at all, with ``force`` over another.

    Raises:
        InputError: the file cannot be written, before or during the writing.
    """
    check_new(path, force)
    check_free_space(path.parent, n_samples * shape[0] * shape[1] * BYTES_PER_PIXEL)
    with writing(path, force) as file:
        yield SampleWriter(file, n_samples, shape)
