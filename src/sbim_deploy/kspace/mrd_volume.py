"""3-D k-space of readouts as slices, with what their headers say of all of it: Cartesian, and stacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.image_grid import PARTITION, PHASE, MeasuredAxis, fit_axis, image_grid
from sbim_deploy.kspace.partitions import (
    OfPartitions,
    PartitionKspace,
    PartitionsAlongTrajectory,
    middle_partition,
    partition_facts,
)
from sbim_deploy.kspace.slice_buffer import Series
from sbim_deploy.kspace.stack import StackGrid, StackKspace
from sbim_deploy.kspace.transformed import TransformedKspace
from sbim_deploy.kspace.volume import VolumeGrid, VolumeKspace
from sbim_deploy.mrd.header import MrdHeader
from sbim_deploy.records import SliceGeometry


class _OfReadouts(TransformedKspace):
    """What the headers of readouts say of all slices, by the partition nearest the centre of k-space."""

    _readouts: OfPartitions
    _said: Sequence[str | None]

    @property
    def scan_header(self) -> MrdHeader:
        """See :class:`sbim_deploy.kspace.mrd.MrdKspace`."""
        return self._readouts.scan_header

    @property
    def xml(self) -> bytes | None:
        """See :class:`sbim_deploy.kspace.mrd.MrdKspace`."""
        return self._readouts.xml

    def series(self, index: int) -> Series:
        """Return the series that a slice belongs to, one for all."""
        self._check(index)
        return self._readouts.series(0)

    def slice_number(self, index: int) -> int:
        """Return the number of a slice within its series: its place in the volume."""
        self._check(index)
        return index

    def slice_header(self, index: int) -> np.void:
        """Return the header of the readout nearest the centre of k-space, with the slice's number."""
        self._check(index)
        header = self._readouts.slice_header(middle_partition(self._readouts)).copy()
        header["idx"]["slice"] = index
        return header

    def _volume_geometry(self) -> SliceGeometry | None:
        return self._readouts.geometry(middle_partition(self._readouts))

    def _facts(self) -> dict[str, Any]:
        return dict(partition_facts(self._readouts))

    def _remarks(self) -> Sequence[str]:
        known = set(self._readouts.describe()["assumed"] or ())
        return [remark for remark in self._said if remark is not None and remark not in known]


class MrdVolume(_OfReadouts, VolumeKspace):
    """3-D Cartesian k-space of readouts."""

    def __init__(
        self, source: PartitionKspace, folder: Path, calibration: PartitionKspace | None = None
    ) -> None:
        grid = _readout_grid(source, str(source.path))
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
        self._said = () if grid.plane is None else grid.plane.remarks


class MrdStack(_OfReadouts, StackKspace):
    """A stack of stars, of spirals or of others, of readouts that carry their trajectory."""

    def __init__(self, source: PartitionsAlongTrajectory, folder: Path) -> None:
        recon, axis = source.file.encoding.recon, source.partitions
        fit = fit_axis(PARTITION, axis, recon.matrix_size[2], recon.field_of_view_mm[2], str(source.path))
        rows, columns, _ = recon.field_of_view_mm
        voxel_mm = (rows / source.n_rows, columns / source.n_columns, fit.voxel_mm)
        places = source.places + _shift(fit.grid, axis.samples)
        super().__init__(source, StackGrid(places, fit.grid, fit.pixels, voxel_mm), folder)
        self._readouts = source
        self._said = (axis.remark, fit.remark, _left_out(source.file.n_calibration))


def _left_out(n_calibration: int) -> str | None:
    if not n_calibration:
        return None
    return f"{n_calibration} calibration readouts are left out: maps are estimated from the stack itself"


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
