"""3-D Cartesian k-space as slices: transformed along the readout, which is sampled in full.

Each position along the readout is then a slice, whose rows are the second phase encode (the partitions) and
whose columns are the first, with one mask in both directions for all of them. The transform takes a block of
partitions at a time to a temporary store on disk, from which slices are read: the memory that it takes is
bounded whatever the size of the scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.bare import EmptyMapsError
from sbim_deploy.kspace.image_grid import ImageGrid, check_slice_fits
from sbim_deploy.kspace.sampling_mask import EmptyMaskError
from sbim_deploy.kspace.slice_store import SliceStore
from sbim_deploy.kspace.sources import KspaceSource, MapsSource
from sbim_deploy.kspace.transformed import BLOCK_BYTES, OnPartition, TransformedKspace, mirrored
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.mri.masks import compact_mask
from sbim_deploy.records import ComplexArray, SliceGeometry, Vector

_ITEM_BYTES = np.dtype(np.complex64).itemsize


@dataclass(frozen=True)
class VolumeGrid:
    """The grid of a volume.

    Attributes:
        plane: (partitions, lines), the slices' grid and the image on it.
        places: where each partition that was measured lies on the grid's rows.
        readout: the samples along the readout, and how many of them the image keeps.
        readout_mm: the size of a voxel along the readout, or None.
    """

    plane: ImageGrid | None
    shape: tuple[int, int]
    image_shape: tuple[int, int] | None
    places: NDArray[np.intp]
    readout: tuple[int, int]
    voxel_mm: Vector | None


class VolumeKspace(TransformedKspace):
    """3-D Cartesian k-space as the slices along its readout.

    ``n_slices`` are the positions along the readout that the image keeps, and ``n_readout`` those before it
    is cropped. The rows of a slice are partitions, its columns lines; ``voxel_mm`` is (partition, line,
    readout).

    Args:
        source: what reads the partitions as slices.
        grid: where they lie.
        folder: where the temporary store is.
        calibration: what reads the partitions of a calibration scan, and their places, or None.
    """

    direction = "readout"

    def __init__(
        self,
        source: KspaceSource,
        grid: VolumeGrid,
        folder: Path,
        calibration: tuple[KspaceSource, NDArray[np.intp]] | None = None,
    ) -> None:
        super().__init__([source] if calibration is None else [source, calibration[0]], folder)
        self._grid, self._calibration = grid, calibration
        self.n_readout, self.n_slices = grid.readout
        self.n_rows, self.n_columns = self.stored_shape = grid.shape
        self.recon_shape, self.voxel_mm = grid.image_shape, grid.voxel_mm
        check_slice_fits(self.n_coils, grid.shape, str(self.path))
        _check_readout(source)

    @property
    def store_bytes(self) -> int:
        """The size of the temporary store."""
        return self.n_slices * self.n_partitions * self.n_coils * self.n_columns * _ITEM_BYTES

    def read_slice(self, index: int) -> ComplexArray:
        """Read the slice at a position along the readout, complex64 (coils, rows, columns).

        Raises:
            InputError: no such slice, or see :meth:`transform`.
        """
        self._check(index)
        self.transform()
        return self._on_grid(self._stores[0].read(index), self._grid.places)

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Read what a calibration scan has at this position, of the same shape, or None without one.

        Raises:
            InputError: see :meth:`read_slice`.
        """
        if self._calibration is None:
            return None
        self._check(index)
        self.transform()
        return self._on_grid(self._stores[1].read(index), self._calibration[1])

    def geometry(self, index: int) -> SliceGeometry | None:
        """Return where the image of a slice lies in the patient, or None where the file does not say.

        Raises:
            InputError: no such slice, or directions that are not at right angles.
        """
        self._check(index)
        whole = self._volume_geometry()
        if whole is None or self.voxel_mm is None:
            return None
        shape = self.recon_shape or self.stored_shape
        step = (index - self.n_slices // 2) * self.voxel_mm[2]
        place = [at + step * along for at, along in zip(whole.position, whole.read_dir, strict=True)]
        return SliceGeometry(
            position=(place[0], place[1], place[2]),
            read_dir=whole.slice_dir,
            phase_dir=whole.phase_dir,
            slice_dir=whole.read_dir,
            field_of_view_mm=(
                shape[0] * self.voxel_mm[0],
                shape[1] * self.voxel_mm[1],
                self.voxel_mm[2],
            ),
        )

    def _volume_geometry(self) -> SliceGeometry | None:
        return None

    def _store(self, source: KspaceSource, file: BinaryIO | None = None) -> SliceStore:
        shape = (source.n_coils, source.n_columns)
        return SliceStore(self.folder, self.n_slices, source.n_slices, shape, file)

    def _transformed(
        self, source: KspaceSource, on_partition: OnPartition | None, file: BinaryIO | None = None
    ) -> SliceStore:
        """Return the store of the partitions of a source, transformed along the readout."""
        shape = (source.n_coils, source.n_columns)
        store = self._store(source, file)
        try:
            one = source.n_rows * source.n_coils * source.n_columns * _ITEM_BYTES
            size = max(1, BLOCK_BYTES // max(one, 1))
            for first in range(0, source.n_slices, size):
                block = range(first, min(first + size, source.n_slices))
                parts: ComplexArray = np.empty((self.n_slices, len(block), *shape), np.complex64)
                for place, index in enumerate(block):
                    parts[:, place] = self._hybrid(source, index).swapaxes(0, 1)
                    if on_partition is not None:
                        on_partition(index + 1)
                store.write(first, parts)
        except BaseException:
            store.close()
            raise
        return store

    def _hybrid(self, source: KspaceSource, index: int) -> ComplexArray:
        """Return a partition (coils, readout positions, lines), transformed along the readout."""
        try:
            kspace = source.read_slice(index)
        except EmptyMaskError:
            return np.zeros((source.n_coils, self.n_slices, source.n_columns), np.complex64)
        if source.mask is not None:
            mask = compact_mask(source.mask) if source.mask.ndim == 2 else source.mask[None]
            kspace = kspace * mask
        columns = kspace.any(axis=(0, 1))  # elliptical and Poisson masks leave most of a partition empty
        hybrid: ComplexArray = np.zeros((len(kspace), self.n_slices, kspace.shape[-1]), np.complex64)
        image = centred_ifft(kspace[..., columns], axes=(-2,))
        hybrid[..., columns] = centre_crop(image, (self.n_slices, image.shape[-1]))
        return hybrid

    def _on_grid(self, parts: ComplexArray, places: NDArray[np.intp]) -> ComplexArray:
        """Return what a store has of a slice, (partitions, coils, lines), as (coils, rows, columns)."""
        kspace: ComplexArray = np.zeros((self.n_coils, self.n_rows, self.n_columns), np.complex64)
        kspace[:, places] = parts.swapaxes(0, 1)
        return kspace


class VolumeMaps:
    """Coil maps of a volume, given partition by partition, as those of the slices along its readout."""

    def __init__(self, maps: MapsSource, volume: VolumeKspace) -> None:
        self._maps, self._volume = maps, volume
        self._store: SliceStore | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._store is not None:
            self._store.close()
        self._maps.__exit__(*error)

    def read_maps(self, index: int) -> ComplexArray:
        """Read the maps of one slice, complex64 (coils, rows, columns), or (sets, coils, ...).

        Raises:
            InputError: see :class:`sbim_deploy.kspace.sources.MapsSource`.
        """
        if self._store is None:
            self._store = self._turned_over()
        n_slices = self._volume.n_slices
        place = mirrored(index, n_slices) if self._volume.conjugated else index
        return np.ascontiguousarray(np.moveaxis(self._store.read(place), 0, -2))

    def _turned_over(self) -> SliceStore:
        n_slices = self._volume.n_slices
        store: SliceStore | None = None
        empty: ComplexArray | None = None
        beside = 0  # partitions beside the object before the first with maps, which the store has as zeros
        for index in range(self._volume.n_rows):
            try:
                maps = self._maps.read_maps(index)
            except EmptyMapsError:
                if store is None or empty is None:
                    beside += 1
                    continue
                maps = empty
            if store is None:
                shape = (*maps.shape[:-2], maps.shape[-1])
                store = SliceStore(self._volume.folder, n_slices, self._volume.n_rows, shape)
                empty = np.zeros_like(maps)
            cropped = centre_crop(maps, (n_slices, maps.shape[-1]))
            store.write(index, np.moveaxis(cropped, -2, 0)[:, None])
        if store is None:
            raise InputError(f"{self._volume.path}: the maps are zero in all of {beside} partitions")
        return store


def _check_readout(source: KspaceSource) -> None:
    """Check that a mask beside k-space leaves no gaps along the readout.

    Raises:
        InputError: it does.
    """
    mask = source.mask
    if mask is not None and mask.ndim == 2 and compact_mask(mask).shape[0] > 1:
        raise InputError(
            f"{source.path}: the mask leaves out samples along the rows, the readout of a 3-D scan, expected "
            "it sampled in full: say by --layout which axis is the row, or store the mask of each partition, "
            "(slices, columns)"
        )
