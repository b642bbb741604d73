"""3-D Cartesian k-space as slices: transformed along the readout, which is sampled in full.

Each position along the readout is then a slice, whose rows are the second phase encode (the partitions) and
whose columns are the first, with one mask in both directions for all of them. The transform takes a block of
partitions at a time to a temporary store on disk, from which slices are read: the memory that it takes is
bounded whatever the size of the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.kspace.bare import EmptyMapsError
from sbim_deploy.kspace.image_grid import ImageGrid, check_slice_fits
from sbim_deploy.kspace.sampling_mask import EmptyMaskError
from sbim_deploy.kspace.slice_store import SliceStore
from sbim_deploy.kspace.sources import KspaceSource, MapsSource
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.mri.masks import compact_mask
from sbim_deploy.records import BoolArray, ComplexArray, SliceGeometry, Vector

BLOCK_BYTES = 256 * 1024**2  # of partitions that are transformed together

_ITEM_BYTES = np.dtype(np.complex64).itemsize

OnPartition = Callable[[int], None]


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


class VolumeKspace:
    """3-D k-space as the slices along its readout; use it in a ``with`` statement.

    The transform runs when the first slice is read, or at :meth:`transform`.

    Attributes:
        path: the file.
        partitions: what reads the partitions as slices.
        n_slices: the positions along the readout that the image keeps.
        n_coils, n_rows, n_columns: of a slice: its rows are partitions, its columns lines.
        stored_shape: (n_rows, n_columns).
        mask: None: what was measured is what is not zero.
        recon_shape: (rows, columns) of the image, or None.
        voxel_mm: (partition, line, readout) size of its voxels, or None.
        n_partitions: how many are transformed, those of a calibration scan among them.
        folder: where the temporary store is.
        n_readout: the positions along the readout before the image is cropped.

    Args:
        source: what reads the partitions as slices.
        grid: where they lie.
        folder: where the temporary store is.
        calibration: what reads the partitions of a calibration scan, and their places, or None.
    """

    mask: BoolArray | None = None

    def __init__(
        self,
        source: KspaceSource,
        grid: VolumeGrid,
        folder: Path,
        calibration: tuple[KspaceSource, NDArray[np.intp]] | None = None,
    ) -> None:
        self.path, self.folder, self.partitions, self._grid = source.path, folder, source, grid
        self.n_readout, self.n_slices = grid.readout
        self.n_coils = source.n_coils
        self.n_rows, self.n_columns = self.stored_shape = grid.shape
        self.recon_shape, self.voxel_mm = grid.image_shape, grid.voxel_mm
        check_slice_fits(self.n_coils, grid.shape, str(self.path))
        self._calibration = calibration
        self._sources = [source] if calibration is None else [source, calibration[0]]
        self.n_partitions = sum(each.n_slices for each in self._sources)
        self._stores: list[SliceStore] = []
        self._shared: tuple[Path, str] | None = None
        self._noise: tuple[float | None] | None = None
        _check_readout(source)

    @property
    def conjugated(self) -> bool:
        """Whether k-space is conjugated as it is read."""
        return self.partitions.conjugated

    @conjugated.setter
    def conjugated(self, value: bool) -> None:
        for source in self._sources:
            source.conjugated = value

    @property
    def store_bytes(self) -> int:
        """The size of the temporary store."""
        return self.n_slices * self.n_partitions * self.n_coils * self.n_columns * _ITEM_BYTES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._stores:
            store.close()
        self.partitions.__exit__(kind, error, trace)

    def share(self, folder: Path, name: str) -> None:
        """Keep what is transformed under ``name`` in ``folder``, where other processes find it so.

        Whoever comes first transforms; the others read what is there. It is for the caller to remove, and the
        name to tell apart what was read otherwise.
        """
        self._shared = (folder, name)

    def transform(self, on_partition: OnPartition | None = None) -> None:
        """Transform all partitions along the readout; nothing where that is done.

        ``on_partition`` hears how many are done.

        Raises:
            InputError: a partition is damaged, or the store cannot be written.
        """
        if self._stores:
            return
        try:
            for which, source in enumerate(self._sources):
                before = sum(each.n_slices for each in self._sources[:which])
                self._stores.append(self._stored(which, source, _counting_from(before, on_partition)))
        except BaseException:
            while self._stores:
                self._stores.pop().close()
            raise

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

    def read_noise(self, index: int) -> float | None:
        """Return the standard deviation of each part of k-space, one for all slices, where readouts tell it.

        Raises:
            InputError: see :meth:`read_slice`.
        """
        self._check(index)
        if self._noise is None:
            self._noise = (self.partitions.read_noise(self.partitions.n_slices // 2),)
        return self._noise[0]

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

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types."""
        told = {**self.partitions.describe(), "dimensions": 3, **self._facts()}
        assumed = [*(told.pop("assumed", None) or ()), *self._remarks()]
        return {**told, "assumed": assumed or None}

    def _volume_geometry(self) -> SliceGeometry | None:
        return None

    def _facts(self) -> dict[str, Any]:
        return {"partitions": self.partitions.n_slices}

    def _remarks(self) -> Sequence[str]:
        return ()

    def _check(self, index: int) -> None:
        if not 0 <= index < self.n_slices:
            raise InputError(f"{self.path}: no slice {index}, expected 0 to {self.n_slices - 1}")

    def _stored(self, which: int, source: KspaceSource, on_partition: OnPartition | None) -> SliceStore:
        """Return the store of the partitions of a source: one of this process, or one that is shared."""
        if self._shared is None:
            return self._transformed(source, on_partition)
        folder, name = self._shared
        path = folder / f"{name}-{which}.store"
        try:
            return self._store(source, path.open("rb"))
        except FileNotFoundError:
            with replacing(path) as temporary:
                return self._transformed(source, on_partition, temporary.open("x+b"))

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
        place = 2 * (n_slices // 2) - index if self._volume.conjugated else index
        return np.ascontiguousarray(np.moveaxis(self._store.read(place % n_slices), 0, -2))

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


def _counting_from(n_before: int, on_partition: OnPartition | None) -> OnPartition | None:
    return None if on_partition is None else lambda n_done: on_partition(n_before + n_done)


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
