"""Any file of 3-D k-space, opened as a volume: readouts with their headers, BART's arrays, and plain ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import is_array_file
from sbim_deploy.io.hdf5 import is_hdf5, open_hdf5
from sbim_deploy.io.layouts import COIL, GUESSED, Reading, guess_volume_layout
from sbim_deploy.kspace.along_trajectory import KspaceAlongTrajectory
from sbim_deploy.kspace.cfl import CflVolume, is_cfl
from sbim_deploy.kspace.mrd_volume import MrdStack, MrdVolume
from sbim_deploy.kspace.partitions import PartitionKspace, PartitionsAlongTrajectory, PartitionsFile
from sbim_deploy.kspace.sources import KSPACE, KspaceSource, open_raw, open_source
from sbim_deploy.kspace.stack import stack_of_arrays
from sbim_deploy.kspace.trajectory_readouts import has_trajectory
from sbim_deploy.kspace.transformed import TransformedKspace
from sbim_deploy.kspace.volume import VolumeGrid, VolumeKspace
from sbim_deploy.mrd.file import RawFile
from sbim_deploy.mrd.orientation import Orientation, is_conjugated


def open_volume(
    path: Path,
    folder: Path,
    reading: Reading = GUESSED,
    orientation: Orientation = Orientation.AUTO,
    number: int | None = None,
) -> TransformedKspace:
    """Open a file of 3-D k-space, which is transformed into a temporary store in ``folder``.

    Cartesian k-space is transformed along its readout, and a stack, whose partitions are sampled along a
    trajectory, along the partitions. MRD and twix have the second phase encode in a counter of each readout,
    BART's .cfl on its axis 2, and arrays on the axis that is the slice's: (coil, slice, row, column), or
    fastMRI's (slice, coil, row, column). Samples with the trajectory of another file have it where slices
    are: (slice, coil, readout, sample), in BART's files axis 13.

    ``number`` says which it is of several volumes of a file of readouts (repetitions, contrasts, slabs).

    Raises:
        InputError: see :func:`sbim_deploy.kspace.sources.open_source`; or the readout, or a stack's
            partitions, are not sampled in full, or there are several volumes and no number, or none of that
            number.
    """
    volume = _open_any(path, folder, reading, number)
    if orientation is not Orientation.AUTO:
        volume.conjugated = is_conjugated(orientation)
    return volume


def _open_any(path: Path, folder: Path, reading: Reading, number: int | None) -> TransformedKspace:
    has_own = reading.trajectory is None and not is_cfl(path)
    raw = open_raw(path, reading) if has_own else None
    if raw is not None:
        return _of_readouts(raw, folder, number)
    if number is not None:
        raise InputError(f"{path}: is an array, which holds one volume: leave --volume out")
    if reading.trajectory is not None:
        source = KspaceAlongTrajectory(path, reading.trajectory, reading.matrix, reading)
        return stack_of_arrays(source, folder)
    if is_cfl(path):
        return volume_of(CflVolume(path), folder)
    return volume_of(open_source(path, _array_reading(path, reading)), folder)


def _of_readouts(raw: RawFile, folder: Path, number: int | None) -> MrdVolume | MrdStack:
    """Return an open file of readouts as a volume, or as a stack where they carry a trajectory."""
    try:
        partitions = PartitionsFile(raw, number)
        if has_trajectory(raw.header):
            return MrdStack(PartitionsAlongTrajectory(partitions), folder)
        return volume_of_readouts(partitions, raw, folder)
    except BaseException:
        raw.__exit__(None, None, None)
        raise


def volume_of_readouts(partitions: PartitionsFile, raw: RawFile, folder: Path) -> MrdVolume:
    """Return a Cartesian volume of an open file of readouts; see :func:`open_volume`."""
    calibration = PartitionsFile(raw, calibrates=partitions)
    image = PartitionKspace(partitions)
    separate = None if calibration.volume_key is None else PartitionKspace(calibration)
    return MrdVolume(image, folder, separate)


def volume_of(source: KspaceSource, folder: Path) -> VolumeKspace:
    """Return an open source of partitions that says nothing of a grid of theirs."""
    try:
        n = source.n_slices
        if n < 2:
            raise InputError(
                f"{source.path}: has {n} partition along its second phase encode, expected several of a 3-D "
                "scan: leave --dimensions 3 out, or say by --layout which axis is the slice"
            )
        n_readout = source.n_rows if source.recon_shape is None else source.recon_shape[0]
        voxel = source.voxel_mm
        columns = source.n_columns if source.recon_shape is None else source.recon_shape[1]
        grid = VolumeGrid(
            plane=None,
            shape=(n, source.n_columns),
            image_shape=(n, columns),
            places=np.arange(n),
            readout=(source.n_rows, n_readout),
            voxel_mm=None if voxel is None else (voxel[2], voxel[1], voxel[0]),
        )
        return VolumeKspace(source, grid, folder)
    except BaseException:
        source.__exit__(None, None, None)
        raise


def _array_reading(path: Path, reading: Reading) -> Reading:
    """Return how HDF5's array is read: one of four axes is guessed by its sizes, coils first or second."""
    if reading.layout is not None or is_array_file(path) or not is_hdf5(path):
        return reading
    with open_hdf5(path) as file:
        found = file.get(reading.variable or KSPACE)
        shape = found.shape if isinstance(found, h5py.Dataset) else ()
    if len(shape) != 4:
        return reading
    layout = guess_volume_layout(shape, f"{path}: {reading.variable or KSPACE!r}")
    return reading if layout.axes[0] != COIL else replace(reading, layout=layout.text)
