"""Files of k-space, of whatever format, as a run sees them: slices by number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from sbim_deploy.kspace.cfl import CflKspace, is_cfl, open_cfl_maps
from sbim_deploy.kspace.fastmri import open_kspace, open_maps
from sbim_deploy.kspace.mrd import open_mrd_kspace
from sbim_deploy.mrd.file import is_mrd
from sbim_deploy.mri.masks import calibration_block, effective_acceleration, sampled_mask
from sbim_deploy.records import BoolArray, ComplexArray, SliceGeometry


class KspaceSource(Protocol):
    """An open file of k-space; :class:`sbim_deploy.kspace.fastmri.KspaceFile` says what each part is."""

    path: Path
    n_slices: int
    n_coils: int
    n_rows: int
    n_columns: int
    mask: BoolArray | None
    recon_shape: tuple[int, int] | None
    voxel_mm: tuple[float, float, float] | None

    def __enter__(self) -> Self:
        """Return the file itself."""

    def __exit__(self, *_error: Any) -> None:
        """Close it."""

    def read_slice(self, index: int) -> ComplexArray:
        """Read the k-space of one slice, complex64 (coils, rows, columns)."""

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Read the lines to estimate its maps from, of the same shape, or None where its own will do."""

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
        """Read the coil maps of one slice, complex64 (coils, rows, columns)."""


def open_source(path: Path) -> KspaceSource:
    """Open an MRD or a fastMRI file, which its content tells apart, or BART's .cfl.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.mrd.open_mrd_kspace`,
            :func:`sbim_deploy.kspace.fastmri.open_kspace` and :class:`sbim_deploy.kspace.cfl.CflKspace`.
    """
    if is_cfl(path):
        return CflKspace(path)
    return open_mrd_kspace(path) if is_mrd(path) else open_kspace(path)


def is_fastmri(path: Path) -> bool:
    """Tell whether a file is none of the other formats: only fastMRI files hold references."""
    return not is_cfl(path) and not is_mrd(path)


def open_source_maps(
    path: Path, n_slices: int, n_coils: int, shapes: Sequence[tuple[int, int]]
) -> MapsSource:
    """Open a file of coil maps, HDF5 or BART's .cfl, for a k-space of this size.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.fastmri.open_maps`.
    """
    return (open_cfl_maps if is_cfl(path) else open_maps)(path, n_slices, n_coils, shapes)


def describe_measured(source: KspaceSource, index: int, measured: BoolArray) -> dict[str, Any]:
    """Return the acceleration of a slice's measured mask, its calibration lines, and what the file is."""
    calibration = source.read_calibration(index)
    lines = measured if calibration is None else sampled_mask(calibration)
    block = calibration_block(lines, (source.n_rows, source.n_columns))
    return {
        "acceleration": effective_acceleration(measured),
        "calibration_lines": min(int(part.stop - part.start) for part in block),
        "scan": source.describe(),
    }
