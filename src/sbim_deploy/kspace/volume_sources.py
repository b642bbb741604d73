"""Any file of 3-D k-space, opened as a volume: readouts with their headers, BART's arrays, and plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import is_array_file
from sbim_deploy.io.hdf5 import is_hdf5, open_hdf5
from sbim_deploy.io.layouts import COIL, GUESSED, Reading, guess_volume_layout
from sbim_deploy.kspace.cfl import CflVolume, is_cfl
from sbim_deploy.kspace.image_grid import PARTITION, PHASE, MeasuredAxis, image_grid
from sbim_deploy.kspace.partitions import PartitionKspace, PartitionsFile, partition_facts
from sbim_deploy.kspace.slice_buffer import Series
from sbim_deploy.kspace.sources import KSPACE, KspaceSource, open_raw, open_source
from sbim_deploy.kspace.volume import VolumeGrid, VolumeKspace
from sbim_deploy.mrd.file import RawFile
from sbim_deploy.mrd.orientation import Orientation, is_conjugated
from sbim_deploy.records import SliceGeometry


class MrdVolume(VolumeKspace):
    """3-D k-space of readouts, with what their headers say of all of it.

    Attributes:
        scan_header, xml: see :class:`sbim_deploy.kspace.mrd.MrdKspace`.
    """

    def __init__(
        self, source: PartitionKspace, folder: Path, calibration: PartitionKspace | None = None
    ) -> None:
        where = str(source.path)
        grid = _readout_grid(source, where)
        extra = None
        if calibration is not None:
            if (calibration.n_coils, calibration.n_columns) != (source.n_coils, source.n_columns):
                raise InputError(
                    f"{source.path}: the calibration scan has {calibration.n_coils} channels and "
                    f"{calibration.n_columns} lines, expected {source.n_coils} and {source.n_columns} as the "
                    "image has; give maps with --maps"
                )
            extra = (calibration, calibration.places + _shift(grid.shape[0], calibration.partitions.samples))
        super().__init__(source, grid, folder, extra)
        self._readouts = source
        self.scan_header, self.xml = source.scan_header, source.xml

    def series(self, index: int) -> Series:
        """Return the series that a slice belongs to, one for all."""
        self._check(index)
        return self._readouts.series(0)

    def slice_number(self, index: int) -> int:
        """Return the number of a slice within its series: its position along the readout."""
        self._check(index)
        return index

    def slice_header(self, index: int) -> np.void:
        """Return the header of the readout nearest the centre of k-space, with the slice's number."""
        self._check(index)
        middle = int(np.argmin(np.abs(self._readouts.places - self._readouts.partitions.samples // 2)))
        header = self._readouts.slice_header(middle).copy()
        header["idx"]["slice"] = index
        return header

    def _volume_geometry(self) -> SliceGeometry | None:
        return self._readouts.volume_geometry()

    def _facts(self) -> dict[str, Any]:
        return dict(partition_facts(self._readouts))

    def _remarks(self) -> Sequence[str]:
        plane = self._grid.plane
        known = set(self._readouts.describe()["assumed"] or ())
        return [remark for remark in (() if plane is None else plane.remarks) if remark not in known]


def open_volume(
    path: Path,
    folder: Path,
    reading: Reading = GUESSED,
    orientation: Orientation = Orientation.AUTO,
    number: int | None = None,
) -> VolumeKspace:
    """Open a file of 3-D k-space, whose readout is transformed into a temporary store in ``folder``.

    MRD and twix have the second phase encode in a counter of each readout, BART's .cfl on its axis 2, and
    arrays on the axis that is the slice's: (coil, slice, row, column), or fastMRI's (slice, coil, row,
    column).

    ``number`` says which it is of several volumes of a file of readouts (repetitions, contrasts, slabs).

    Raises:
        InputError: see :func:`sbim_deploy.kspace.sources.open_source`; or the readout is not sampled in full,
            or there are several volumes and no number, or none of that number.
    """
    volume = _open_any(path, folder, reading, number)
    if orientation is not Orientation.AUTO:
        volume.conjugated = is_conjugated(orientation)
    return volume


def _open_any(path: Path, folder: Path, reading: Reading, number: int | None) -> VolumeKspace:
    raw = None if is_cfl(path) else open_raw(path, reading)
    if raw is None and number is not None:
        raise InputError(f"{path}: is an array, which holds one volume: leave --volume out")
    if is_cfl(path):
        return _plain(CflVolume(path), folder)
    if raw is not None:
        try:
            return volume_of_readouts(PartitionsFile(raw, number), raw, folder)
        except BaseException:
            raw.__exit__(None, None, None)
            raise
    return _plain(open_source(path, _array_reading(path, reading)), folder)


def volume_of_readouts(partitions: PartitionsFile, raw: RawFile, folder: Path) -> MrdVolume:
    """Return a volume of an open file of readouts; see :func:`open_volume`."""
    calibration = PartitionsFile(raw, calibrates=partitions)
    image = PartitionKspace(partitions)
    separate = None if calibration.volume_key is None else PartitionKspace(calibration)
    return MrdVolume(image, folder, separate)


def _plain(source: KspaceSource, folder: Path) -> VolumeKspace:
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


def _readout_grid(source: PartitionKspace, where: str) -> VolumeGrid:
    """Return the grid of a scan's volume by what its header says of both phase encodes."""
    recon = source.file.encoding.recon
    turned_over = replace(
        recon,
        matrix_size=(recon.matrix_size[2], recon.matrix_size[1], recon.matrix_size[0]),
        field_of_view_mm=(
            recon.field_of_view_mm[2],
            recon.field_of_view_mm[1],
            recon.field_of_view_mm[0],
        ),
    )
    encoded = source.file.encoding.encoded
    lines = MeasuredAxis(encoded.matrix_size[1], encoded.field_of_view_mm[1])
    plane = image_grid(source.partitions, lines, turned_over, where, (PARTITION, PHASE))
    assert source.recon_shape is not None
    assert source.voxel_mm is not None
    return VolumeGrid(
        plane=plane,
        shape=plane.shape,
        image_shape=plane.image_shape,
        places=source.places + _shift(plane.shape[0], source.partitions.samples),
        readout=(source.n_rows, source.recon_shape[0]),
        voxel_mm=(plane.voxel_mm[0], plane.voxel_mm[1], source.voxel_mm[0]),
    )


def _shift(n_grid: int, n_measured: int) -> int:
    return n_grid // 2 - n_measured // 2


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
