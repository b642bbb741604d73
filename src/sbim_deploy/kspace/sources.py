"""Files of k-space of every format as a run sees them: one open source, whose slices have numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import find_array, is_array_file
from sbim_deploy.io.hdf5 import dataset_names, find_dataset, open_as
from sbim_deploy.io.hdf5 import reading as reading_hdf5
from sbim_deploy.io.layouts import GUESSED, Reading
from sbim_deploy.io.yardl import is_yardl
from sbim_deploy.kspace.along_trajectory import KspaceAlongTrajectory
from sbim_deploy.kspace.arrays import KSPACE_NAMES, open_array_kspace, open_array_maps
from sbim_deploy.kspace.cfl import CflKspace, CflMaps, CflVolumeMaps, is_cfl, open_cfl_maps
from sbim_deploy.kspace.fastmri import KspaceFile, open_maps
from sbim_deploy.kspace.mrd import MrdKspace
from sbim_deploy.kspace.mrd_trajectory import MrdAlongTrajectory
from sbim_deploy.kspace.slice_buffer import Series
from sbim_deploy.kspace.trajectory_readouts import has_trajectory
from sbim_deploy.kspace.twix import TwixFile
from sbim_deploy.kspace.twix_lines import is_twix
from sbim_deploy.mrd.file import MrdFile, RawFile, is_mrd
from sbim_deploy.mrd.header import MrdHeader
from sbim_deploy.mrd.orientation import Orientation, is_conjugated
from sbim_deploy.mrd.recording import MrdRecording, is_recording
from sbim_deploy.mrd.version2 import Version2File
from sbim_deploy.records import BoolArray, ComplexArray, SliceGeometry

KSPACE = "kspace"  # fastMRI's name of the dataset
# What the names of files end in that are read here; what is in a file, its content tells. BART's .hdr goes
# with its .cfl.
SUFFIXES = (".h5", ".hdf5", ".mrd", ".mrd2", ".bin", ".dat", ".cfl", ".npy", ".npz", ".mat")


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

    def read_whitening(self, index: int) -> ComplexArray | None:
        """Return the (coil, coil) matrix that mixed a slice's coils as they were read; None where none did.

        Maps of the coils as the file holds them become by it those of the coils of :meth:`read_slice`.
        """

    def geometry(self, index: int) -> SliceGeometry | None:
        """Return where its image lies in the patient, or None where the file does not say."""

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types: under ``assumed`` what was assumed of it, or None."""


@runtime_checkable
class ReadoutKspace(KspaceSource, Protocol):
    """k-space of readouts; :class:`sbim_deploy.kspace.mrd.MrdKspace` says what each part is."""

    scan_header: MrdHeader
    xml: bytes | None

    def series(self, index: int) -> Series:
        """Return the series that a slice belongs to."""

    def slice_number(self, index: int) -> int:
        """Return the slice's counter within its series."""

    def slice_header(self, index: int) -> np.void:
        """Return the header of a slice's readout nearest the centre of k-space."""


class MapsSource(Protocol):
    """An open file of coil maps, checked against the k-space they go with."""

    def __enter__(self) -> Self:
        """Return the file itself."""

    def __exit__(self, *_error: Any) -> None:
        """Close it."""

    def read_maps(self, index: int) -> ComplexArray:
        """Read the coil maps of one slice, complex64 (coils, rows, columns), or (sets, coils, ...)."""


def open_source(
    path: Path, reading: Reading = GUESSED, orientation: Orientation = Orientation.AUTO
) -> KspaceSource:
    """Open a file of k-space: MRD of version 1 or 2, fastMRI, Siemens' twix, BART's .cfl, or any array.

    ``reading`` says how an array is read, and goes with files that do not say it themselves.

    ``orientation`` says whether k-space is conjugated. Only MRD's and twix's goes by its vendor: the others
    do not say how the patient lay.

    Raises:
        InputError: see :class:`sbim_deploy.kspace.mrd.MrdKspace`,
            :class:`sbim_deploy.kspace.along_trajectory.KspaceAlongTrajectory`,
            :class:`sbim_deploy.kspace.twix.TwixFile`,
            :class:`sbim_deploy.kspace.fastmri.KspaceFile`, :class:`sbim_deploy.kspace.cfl.CflKspace` and
            :class:`sbim_deploy.kspace.arrays.ArrayKspace`; or a layout is given for MRD, twix or BART.
        BackendMissingError: the file is twix, and twixtools is not installed.
    """
    if reading.trajectory is not None:
        source: KspaceSource = KspaceAlongTrajectory(path, reading.trajectory, reading.matrix, reading)
    else:
        source = _open_any(path, reading)
    if orientation is not Orientation.AUTO:
        source.conjugated = is_conjugated(orientation)
    return source


def _open_any(path: Path, reading: Reading) -> KspaceSource:
    if is_cfl(path):
        _check_unread(path, "BART's arrays", reading)
        return CflKspace(path)
    if is_array_file(path):
        return open_array_kspace(path, reading)
    readouts = _open_stream(path, reading)
    if readouts is not None:
        return _kspace_of(readouts)
    source = open_as(path, lambda file, path: _source_of(file, path, reading))
    return open_array_kspace(path, reading) if source is None else source


def open_raw(path: Path, reading: Reading = GUESSED) -> RawFile | None:
    """Open a file of readouts, MRD of any kind or Siemens' twix; None where it is none.

    Raises:
        InputError: it is damaged, or a layout is given for it.
        BackendMissingError: the file is twix, and twixtools is not installed.
    """
    if is_cfl(path) or is_array_file(path):
        return None
    readouts = _open_stream(path, reading)
    return open_as(path, lambda file, path: _mrd_of(file, path, reading)) if readouts is None else readouts


def _open_stream(path: Path, reading: Reading) -> RawFile | None:
    """Open a file of readouts that is no HDF5; None where it is none."""
    if is_yardl(path):
        _check_unread(path, "MRD files", reading)
        return Version2File(path)
    if is_twix(path):
        _check_unread(path, "Siemens' raw data", reading)
        return TwixFile(path)
    if is_recording(path):
        _check_unread(path, "MRD files", reading)
        return MrdRecording(path)
    return None


def _mrd_of(file: h5py.File, path: Path, reading: Reading) -> RawFile | None:
    if is_mrd(file, path):
        _check_unread(path, "MRD files", reading)
        return MrdFile(file, path)
    file.close()
    return None


def _kspace_of(file: RawFile) -> MrdKspace:
    """Return open readouts as k-space; what is no k-space is closed."""
    try:
        if isinstance(file, Version2File):
            file.check_readouts()
        return open_readouts(file)
    except BaseException:
        file.__exit__(None, None, None)
        raise


def open_readouts(file: RawFile) -> MrdKspace:
    """Return open readouts as k-space, on a grid or along the trajectory that they carry.

    Raises:
        InputError: see :class:`sbim_deploy.kspace.mrd.MrdKspace`.
    """
    return MrdAlongTrajectory(file) if has_trajectory(file.header) else MrdKspace(file)


def open_source_maps(
    path: Path, n_slices: int, n_coils: int, shapes: Sequence[tuple[int, int]], dimensions: int = 2
) -> MapsSource:
    """Open a file of coil maps, HDF5, BART's .cfl or an array, for a k-space of this size.

    The slices of a volume of three ``dimensions`` are its partitions, as they lie in the file.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.fastmri.open_maps`.
    """
    if is_array_file(path):
        return open_array_maps(path, n_slices, n_coils, shapes)
    if is_cfl(path):
        kind = CflMaps if dimensions == 2 else CflVolumeMaps
        return open_cfl_maps(path, n_slices, n_coils, shapes, kind)
    return open_maps(path, n_slices, n_coils, shapes)


def _source_of(file: h5py.File, path: Path, reading: Reading) -> KspaceSource | None:
    """Return an open HDF5 file as a source; None, and the file closed, where it is read as plain arrays."""
    if is_mrd(file, path):
        _check_unread(path, "MRD files", reading)
        return open_readouts(MrdFile(file, path))
    if reading.variable in (None, KSPACE) and not is_plain_hdf5(file, path):
        return KspaceFile(file, path, reading)
    file.close()
    return None


def is_plain_hdf5(file: h5py.File, path: Path) -> bool:
    """Tell whether an HDF5 file has k-space under another name than fastMRI's, or as a table of its parts.

    Raises:
        InputError: the file is damaged.
    """
    names = dataset_names(file, path)
    if KSPACE in names:
        dataset = find_dataset(file, path, KSPACE)
        with reading_hdf5(path, repr(KSPACE)):
            return dataset is not None and dataset.dtype.names is not None
    called_so = (find_array(file, path, name) for name in names if name.lower() in KSPACE_NAMES)
    return any(each is not None and each.is_complex for each in called_so)


def _check_unread(path: Path, what: str, reading: Reading) -> None:
    if reading != GUESSED:
        raise InputError(f"{path}: {what} say how their axes lie: leave --layout and --variable out")
