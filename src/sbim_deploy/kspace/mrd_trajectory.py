"""The k-space of an MRD file whose readouts carry a trajectory, slice by slice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.along_trajectory import NonCartesianKspace
from sbim_deploy.kspace.assembler import Assembler
from sbim_deploy.kspace.channels import OTHER_CHANNELS, check_few_others
from sbim_deploy.kspace.image_grid import check_slice_fits
from sbim_deploy.kspace.mrd import MrdKspace
from sbim_deploy.kspace.noise_scan import dwell_us
from sbim_deploy.kspace.placement import (
    IMAGE,
    IMAGE_AND_CALIBRATION,
    NOISE,
    encoding_index,
    readout_role,
    slice_geometry,
)
from sbim_deploy.kspace.slice_buffer import AssembledSlice, Key, Series, describe_key, slice_key
from sbim_deploy.kspace.trajectory_readouts import TrajectoryAssembler, check_carries_trajectory
from sbim_deploy.mrd.file import HEADERS_AT_ONCE, RawFile
from sbim_deploy.mrd.header import Encoding
from sbim_deploy.records import BoolArray, FloatArray, SliceGeometry, Vector


class MrdAlongTrajectory(MrdKspace, NonCartesianKspace):
    """Readouts with a trajectory, a slice of a series at a time; use it in a ``with`` statement.

    The image is that of reconSpace. Readouts are whitened by the noise readouts, as Cartesian ones are. The
    other parts are those of :class:`sbim_deploy.kspace.mrd.MrdKspace`.

    Raises:
        InputError: there are no image readouts, or they are of several partitions, or carry no trajectory.
    """

    mask: BoolArray | None = None

    def __init__(self, file: RawFile) -> None:
        self._keep(file)
        self._encoding: Encoding = file.header.encodings[0]
        self._found: dict[Key, list[int]] = {}
        self._headers: dict[Key, np.void] = {}
        self._noise_numbers: list[int] = []
        self._dropped: Counter[str] = Counter()
        self.n_coils = self._sort()
        self._keys = sorted(self._found)
        self.n_slices = len(self._keys)
        recon = self._encoding.recon
        self.n_rows, self.n_columns = self.stored_shape = recon.matrix_size[:2]
        check_slice_fits(self.n_coils, self.stored_shape, str(self.path))
        self.recon_shape: tuple[int, int] | None = self.stored_shape
        self._field_of_view: Vector = recon.field_of_view_mm
        rows, columns, thickness = self._field_of_view
        self.voxel_mm: Vector | None = (rows / self.n_rows, columns / self.n_columns, thickness)
        self._assembler: Assembler[Any] = TrajectoryAssembler(file.header)
        self._feed(self._noise_numbers)
        self._last = None
        self._calibrated = {}
        self._assembled(0)  # what is wrong with the trajectory is said before long work

    def read_trajectory(self, index: int) -> FloatArray:
        """Return where a slice's samples lie; see :class:`NonCartesianKspace`."""
        places = self._assembled(index).places
        assert places is not None
        return places

    def geometry(self, index: int) -> SliceGeometry | None:
        """Return where the image of a slice lies in the patient, or None where the scan does not say."""
        where = f"{self.path}: {describe_key(self._key(index))}"
        return slice_geometry(self.slice_header(index), self._field_of_view, where)

    def slice_header(self, index: int) -> np.void:
        """Return the header of a slice's first readout.

        Raises:
            InputError: no such slice.
        """
        return self._headers[self._key(index)]

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types."""
        series: set[Series] = {key[0] for key in self._keys}
        read = self._assembled(0) if self._last is None else self._last[1]
        return {
            "format": self._file.format,
            **self._file.facts,
            "trajectory": self._encoding.trajectory,
            "readouts": self._file.n_readouts,
            "readouts_of_slice": len(self._found[self._keys[0]]),
            "channels": self.n_coils,
            "series": len(series),
            "dwell_us": dwell_us(self.slice_header(0)),
            "noise_readouts": len(self._noise_numbers),
            "whitened": self.read_whitening(0) is not None,
            "dropped_readouts": dict(self._dropped) or None,
            "assumed": [*self._file.remarks, *read.remarks] or None,
        }

    def _sort(self) -> int:
        """Go through all headers, and return the channels of the image's readouts."""
        channels: dict[int, list[tuple[Key, int]]] = {}
        partitions: dict[int, int] = {}
        for start in range(0, self._file.n_readouts, HEADERS_AT_ONCE):
            stop = min(start + HEADERS_AT_ONCE, self._file.n_readouts)
            for number, header in enumerate(self._file.read_headers(start, stop), start):
                space = self._file.header.encodings[encoding_index(header, self._file.header)]
                role = readout_role(int(header["flags"]), space.calibration_mode)
                if role == NOISE:
                    self._noise_numbers.append(number)
                elif role not in (IMAGE, IMAGE_AND_CALIBRATION):
                    self._dropped[role] += 1
                else:
                    check_carries_trajectory(header, space, partitions, str(self.path))
                    key = slice_key(header)
                    self._headers.setdefault(key, header.copy())
                    channels.setdefault(int(header["active_channels"]), []).append((key, number))
        if not channels:
            raise InputError(
                f"{self.path}: none of its {self._file.n_readouts} readouts is of an image, expected some"
            )
        n_coils = max(channels)
        others = sum(len(found) for n, found in channels.items() if n != n_coils)
        if others:
            check_few_others(others, len(channels[n_coils]), n_coils, str(self.path))
            self._dropped[OTHER_CHANNELS] = others
        for key, number in channels[n_coils]:
            self._found.setdefault(key, []).append(number)
        return n_coils

    def _assemble(self, key: Key) -> AssembledSlice:
        try:
            self._feed(self._found[key])
            return self._assembler.complete(key)
        finally:
            self._assembler.reset()
