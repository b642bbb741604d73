"""Files of k-space of every format as a run sees them: one open source, whose slices have numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import h5py

from sbim_deploy.io.hdf5 import open_as
from sbim_deploy.kspace.cfl import CflKspace, is_cfl, open_cfl_maps
from sbim_deploy.kspace.fastmri import KspaceFile, open_maps
from sbim_deploy.kspace.mrd import MrdKspace
from sbim_deploy.mrd.file import MrdFile, is_mrd
from sbim_deploy.mrd.orientation import Orientation, is_conjugated
from sbim_deploy.records import BoolArray, ComplexArray, SliceGeometry


class KspaceSource(Protocol):
    """An open file of k-space; :class:`sbim_deploy.kspace.fastmri.KspaceFile` says what each part is."""

    path: Path
    n_slices: int
    n_coils: int
    n_rows: int
    n_columns: int
    stored_shape: tuple[int, int]
    mask: BoolArray | None
    recon_shape: tuple[int, int] | None
    voxel_mm: tuple[float, float, float] | None
    conjugated: bool

    def __enter__(self) -> Self:
        """Return the file itself."""

    def __exit__(self, *_error: Any) -> None:
        """Close it."""

    def read_slice(self, index: int) -> ComplexArray:
        """Read the k-space of one slice, complex64 (coils, rows, columns)."""

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Read the lines to estimate its maps from, of the same shape, or None where its own will do."""

    def read_noise(self, index: int) -> float | None:
        """Return the standard deviation of each part of a slice's k-space, or None where nothing tells it."""

    def geometry(self, index: int) -> SliceGeometry | None:
        """Return where its image lies in the patient, or None where the file does not say."""

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types."""


class MapsSource(Protocol):
    """An open file of coil maps, checked against the k-space they go with."""

    def __enter__(self) -> Self:
        """Return the file itself."""

    def __exit__(self, *_error: Any) -> None:
        """Close it."""

    def read_maps(self, index: int) -> ComplexArray:
        """Read the coil maps of one slice, complex64 (coils, rows, columns), or (sets, coils, ...)."""


def open_source(path: Path, orientation: Orientation = Orientation.AUTO) -> KspaceSource:
    """Open an MRD or a fastMRI file, which its content tells apart, or BART's .cfl.

    ``orientation`` says whether k-space is conjugated. Only MRD's goes by its vendor: the others do
    not say how the patient lay.

    Raises:
        InputError: see :class:`sbim_deploy.kspace.mrd.MrdKspace`,
            :class:`sbim_deploy.kspace.fastmri.KspaceFile`` and :class:``sbim_deploy.kspace.cfl.CflKspace`.
    """
    source = CflKspace(path) if is_cfl(path) else open_as(path, _source_of)
    if orientation is not Orientation.AUTO:
        source.conjugated = is_conjugated(orientation)
    return source


def open_source_maps(
    path: Path, n_slices: int, n_coils: int, shapes: Sequence[tuple[int, int]]
) -> MapsSource:
    """Open a file of coil maps, HDF5 or BART's .cfl, for a k-space of this size.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.fastmri.open_maps`.
    """
    return (open_cfl_maps if is_cfl(path) else open_maps)(path, n_slices, n_coils, shapes)


def _source_of(file: h5py.File, path: Path) -> KspaceSource:
    return MrdKspace(MrdFile(file, path)) if is_mrd(file, path) else KspaceFile(file, path)
