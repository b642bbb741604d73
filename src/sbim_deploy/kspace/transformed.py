"""3-D k-space, transformed along one direction into a store on disk from which slices are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.kspace.slice_store import SliceStore
from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.records import BoolArray, ComplexArray, SliceGeometry, Vector

BLOCK_BYTES = 256 * 1024**2  # of k-space that is transformed together

OnPartition = Callable[[int], None]


class TransformedKspace(ABC):
    """3-D k-space as slices; use it in a ``with`` statement.

    The transform runs when the first slice is read, or at :meth:`transform`.

    Attributes:
        path: the file.
        direction: along what k-space is transformed, in words.
        partitions: what reads the partitions as slices.
        n_slices: how many slices the image has.
        n_coils, n_rows, n_columns: of a slice.
        stored_shape: (n_rows, n_columns).
        mask: None: what was measured is what is not zero.
        recon_shape: (rows, columns) of the image, or None.
        voxel_mm: (row, column, slice) size of its voxels, or None.
        n_partitions: how many are transformed, those of a calibration scan among them.
        folder: where the temporary store is.

    Args:
        sources: what reads the partitions as slices, those of the image first.
        folder: where the temporary store is.
    """

    direction: str
    n_slices: int
    n_rows: int
    n_columns: int
    stored_shape: tuple[int, int]
    recon_shape: tuple[int, int] | None
    voxel_mm: Vector | None
    mask: BoolArray | None = None

    def __init__(self, sources: Sequence[KspaceSource], folder: Path) -> None:
        self.partitions, self._sources = sources[0], sources
        self.path, self.folder = self.partitions.path, folder
        self.n_coils = self.partitions.n_coils
        self.n_partitions = sum(each.n_slices for each in sources)
        self._stores: list[SliceStore] = []
        self._shared: tuple[Path, str] | None = None
        self._noise: tuple[float | None] | None = None

    @property
    def conjugated(self) -> bool:
        """Whether k-space is conjugated as it is read."""
        return self.partitions.conjugated

    @conjugated.setter
    def conjugated(self, value: bool) -> None:
        for source in self._sources:
            source.conjugated = value

    @property
    @abstractmethod
    def store_bytes(self) -> int:
        """The size of what is temporary on disk."""

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
        """Transform all partitions; nothing where that is done.

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

    @abstractmethod
    def read_slice(self, index: int) -> ComplexArray:
        """Read the k-space of a slice, complex64.

        Raises:
            InputError: no such slice, or see :meth:`transform`.
        """

    @abstractmethod
    def read_calibration(self, index: int) -> ComplexArray | None:
        """Read the lines to estimate a slice's maps from, or None where its own will do.

        Raises:
            InputError: see :meth:`read_slice`.
        """

    def read_noise(self, index: int) -> float | None:
        """Return the standard deviation of each part of k-space, one for all slices, where readouts tell it.

        Raises:
            InputError: see :meth:`read_slice`.
        """
        self._check(index)
        if self._noise is None:
            self._noise = (self.partitions.read_noise(self.partitions.n_slices // 2),)
        return self._noise[0]

    def read_whitening(self, index: int) -> ComplexArray | None:
        """Return the (coil, coil) matrix that mixed the coils of all slices alike, or None where none did.

        Partitions of other dwell times have others, which differ by a factor.
        """
        self._check(index)
        return self.partitions.read_whitening(self.partitions.n_slices // 2)

    @abstractmethod
    def geometry(self, index: int) -> SliceGeometry | None:
        """Return where the image of a slice lies in the patient, or None where the file does not say.

        Raises:
            InputError: no such slice, or directions that are not at right angles.
        """

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types."""
        told = {**self.partitions.describe(), "dimensions": 3, **self._facts()}
        assumed = [*(told.pop("assumed", None) or ()), *self._remarks()]
        return {**told, "assumed": assumed or None}

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

    @abstractmethod
    def _store(self, source: KspaceSource, file: BinaryIO | None = None) -> SliceStore:
        """Return a store for the partitions of a source, in an open file or in one without a name."""

    @abstractmethod
    def _transformed(
        self, source: KspaceSource, on_partition: OnPartition | None, file: BinaryIO | None = None
    ) -> SliceStore:
        """Return the store of the partitions of a source, transformed."""


def mirrored(index: int, n_slices: int) -> int:
    """Return where a slice lies in a volume whose k-space is conjugated: it is turned about its centre."""
    return (2 * (n_slices // 2) - index) % n_slices


def _counting_from(n_before: int, on_partition: OnPartition | None) -> OnPartition | None:
    return None if on_partition is None else lambda n_done: on_partition(n_before + n_done)
