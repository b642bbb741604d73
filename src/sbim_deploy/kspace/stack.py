"""A stack of stars, of spirals or of any trajectory as slices: transformed along its partitions.

All partitions are sampled along one trajectory in their plane, and are Cartesian among themselves and sampled
in full. Transformed along them, k-space parts into slices, each with that trajectory. Two temporary stores on
disk hold k-space before and after, so that the memory that it takes is bounded.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.kspace.along_trajectory import KspaceAlongTrajectory, NonCartesianKspace
from sbim_deploy.kspace.mrd_trajectory import MrdAlongTrajectory
from sbim_deploy.kspace.partitions import UNDERSAMPLED
from sbim_deploy.kspace.slice_store import SliceStore
from sbim_deploy.kspace.sources import KspaceSource, MapsSource
from sbim_deploy.kspace.transformed import BLOCK_BYTES, OnPartition, TransformedKspace, mirrored
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray, SliceGeometry, Vector

SAME_PLACE = 0.01  # cycles per field of view: the phase of a pixel at the image's edge changes by 0.03

_ITEM_BYTES = np.dtype(np.complex64).itemsize

AlongTrajectory = KspaceAlongTrajectory | MrdAlongTrajectory


@dataclass(frozen=True, eq=False)
class StackGrid:
    """The grid of a stack along its partitions.

    Attributes:
        places: where each partition lies on it.
        samples: how many samples it has, with those that are padded with zeros.
        n_slices: how many of its slices the image keeps.
        voxel_mm: (row, column, slice) size of the image's voxels, or None.
    """

    places: NDArray[np.intp]
    samples: int
    n_slices: int
    voxel_mm: Vector | None = None


class StackKspace(TransformedKspace, NonCartesianKspace):
    """The k-space of a stack as slices, (coil, readout, sample), with the trajectory of its partitions.

    The transform leaves the level of the noise as it is, also where the grid is padded with zeros.

    Args:
        source: what reads the partitions as slices along a trajectory.
        grid: where they lie.
        folder: where the temporary stores are.
    """

    direction = "partitions"

    def __init__(self, source: AlongTrajectory, grid: StackGrid, folder: Path) -> None:
        super().__init__([source], folder)
        self._source, self._grid = source, grid
        self.n_slices, self.voxel_mm = grid.n_slices, grid.voxel_mm
        self.n_rows, self.n_columns = self.stored_shape = source.stored_shape
        self.recon_shape = source.recon_shape
        self._places = source.read_trajectory(0)

    @property
    def store_bytes(self) -> int:
        """The size of both temporary stores."""
        n_readouts, n_samples = self._places.shape[:2]
        n_samples_in_all = self.n_coils * n_readouts * n_samples
        return int((self.n_partitions + self.n_slices) * n_samples_in_all * _ITEM_BYTES)

    def read_slice(self, index: int) -> ComplexArray:
        """Read the samples of a slice, complex64 (coil, readout, sample).

        Raises:
            InputError: no such slice, or see :meth:`transform`; or a partition lacks samples that others
                have, or has a trajectory of its own.
        """
        self._check(index)
        self.transform()
        return np.ascontiguousarray(self._stores[0].read(index).swapaxes(0, 1))

    def read_trajectory(self, index: int) -> FloatArray:
        """Return where the samples of every slice lie; see :class:`NonCartesianKspace`."""
        self._check(index)
        return self._places

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Return None: the maps are estimated from the slice's own samples."""
        self._check(index)
        return None

    def geometry(self, index: int) -> SliceGeometry | None:
        """Return where the image of a slice lies in the patient, or None where the file does not say."""
        self._check(index)
        whole = self._volume_geometry()
        if whole is None or self.voxel_mm is None:
            return None
        step = (index - self.n_slices // 2) * self.voxel_mm[2]
        place = [at + step * along for at, along in zip(whole.position, whole.slice_dir, strict=True)]
        return SliceGeometry(
            position=(place[0], place[1], place[2]),
            read_dir=whole.read_dir,
            phase_dir=whole.phase_dir,
            slice_dir=whole.slice_dir,
            field_of_view_mm=(*whole.field_of_view_mm[:2], self.voxel_mm[2]),
        )

    def _volume_geometry(self) -> SliceGeometry | None:
        return None

    def _store(self, source: KspaceSource, file: BinaryIO | None = None) -> SliceStore:
        n_readouts, n_samples = self._places.shape[:2]
        return SliceStore(self.folder, self.n_slices, n_readouts, (source.n_coils, n_samples), file)

    def _transformed(
        self, source: KspaceSource, on_partition: OnPartition | None, file: BinaryIO | None = None
    ) -> SliceStore:
        """Return the store of the slices, by readouts; the partitions wait in another, by readouts too."""
        check_free_space(self.folder, self.store_bytes)
        n_readouts, n_samples = self._places.shape[:2]
        measured: BoolArray = np.asarray(self._source.read_slice(0).any(axis=(0, 2)))
        shape = (source.n_coils, n_samples)
        store = self._store(source, file)
        try:
            with closing(SliceStore(self.folder, n_readouts, self.n_partitions, shape)) as waiting:
                for index in range(self.n_partitions):
                    waiting.write(index, self._partition(index, measured).swapaxes(0, 1)[:, None])
                    if on_partition is not None:
                        on_partition(index + 1)
                one = self._grid.samples * source.n_coils * n_samples * _ITEM_BYTES
                size = max(1, BLOCK_BYTES // one)
                for first in range(0, n_readouts, size):
                    block = range(first, min(first + size, n_readouts))
                    store.write(first, np.stack([self._slices(waiting.read(each)) for each in block], axis=1))
        except BaseException:
            store.close()
            raise
        return store

    def _slices(self, parts: ComplexArray) -> ComplexArray:
        """Return a readout of all slices, (slice, coil, sample), from that of all partitions."""
        grid = np.zeros((self._grid.samples, *parts.shape[1:]), np.complex64)
        grid[self._grid.places] = parts
        slices: ComplexArray = centre_crop(centred_ifft(grid, axes=(0,)), (self.n_slices, *parts.shape[1:]))
        slices *= np.float32(math.sqrt(len(grid) / len(parts)))
        return slices

    def _partition(self, index: int, measured: BoolArray) -> ComplexArray:
        """Return a partition's samples, (coil, readout, sample).

        ``measured`` says which readouts the first one has.

        Raises:
            InputError: it cannot be read, or is not sampled as the first one is.
        """
        kspace, places = self._source.read_slice(index), self._source.read_trajectory(index)
        found = kspace.any(axis=(0, 2))
        where = f"{self.path}: partition {index}"
        if not found.any():
            raise InputError(f"{where} is zero, expected samples in all of a stack's: {UNDERSAMPLED}")
        if places.shape != self._places.shape or (found != measured).any():
            n_found, n_first = np.count_nonzero(found), np.count_nonzero(measured)
            raise InputError(
                f"{where} has {n_found} readouts of {places.shape[1]} samples and partition 0 {n_first} of "
                f"{self._places.shape[1]}, expected the same readouts in all: {UNDERSAMPLED}"
            )
        apart = float(np.abs(places - self._places).max())
        if apart > SAME_PLACE:
            raise InputError(
                f"{where} has a trajectory of its own, up to {apart:.3g} cycles per field of view from that "
                "of partition 0, expected one trajectory for all: a stack that is rotated from partition to "
                "partition takes an operator of the whole volume"
            )
        return kspace


class StackMaps:
    """Coil maps of a stack, (slice, coil, rows, columns), turned as its k-space is."""

    def __init__(self, maps: MapsSource, stack: StackKspace) -> None:
        self._maps, self._stack = maps, stack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._maps.__exit__(*error)

    def read_maps(self, index: int) -> ComplexArray:
        """Read the maps of one slice; see :class:`sbim_deploy.kspace.sources.MapsSource`."""
        n_slices = self._stack.n_slices
        return self._maps.read_maps(mirrored(index, n_slices) if self._stack.conjugated else index)


def stack_of_arrays(source: KspaceAlongTrajectory, folder: Path) -> StackKspace:
    """Return partitions in a file of arrays or of BART's as a stack; nothing says how large they are.

    Raises:
        InputError: there is but one. The source is closed then.
    """
    n = source.n_slices
    if n < 2:
        source.__exit__(None, None, None)
        raise InputError(
            f"{source.path}: has {n} partition along its trajectory, expected the several of a stack: leave "
            "--dimensions 3 out"
        )
    return StackKspace(source, StackGrid(np.arange(n), n, n), folder)
