"""Readouts that carry their trajectory in, in the order in which they come, and slices of samples out."""

from __future__ import annotations

import math

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.along_trajectory import BEYOND, MAX_RADIANS, Places, in_cycles
from sbim_deploy.kspace.assembler import Assembler
from sbim_deploy.kspace.channels import OTHER_CHANNELS
from sbim_deploy.kspace.image_grid import check_slice_fits
from sbim_deploy.kspace.noise_scan import dwell_us
from sbim_deploy.kspace.placement import (
    CALIBRATION,
    CARTESIAN,
    EPI,
    MAX_UNFILLED,
    NotSlicesError,
    check_is_plain,
    counts_partitions,
    kept_samples,
    slice_geometry,
)
from sbim_deploy.kspace.slice_buffer import AssembledSlice, Key, describe_key
from sbim_deploy.mrd.header import Encoding, MrdHeader
from sbim_deploy.mrd.messages import Readout
from sbim_deploy.mri.whitening import mix_coils
from sbim_deploy.records import ComplexArray, FloatArray

READOUT_BYTES = 1024  # of its header and of the objects that hold its samples
_COMPLEX_BYTES, _PLACE_BYTES = np.dtype(np.complex64).itemsize, 2 * np.dtype(np.float32).itemsize


def has_trajectory(header: MrdHeader) -> bool:
    """Tell whether a scan's header says that its readouts are not Cartesian, EPI's apart."""
    return header.encodings[0].trajectory not in (CARTESIAN, EPI)


class TrajectoryBuffer:
    """The samples of one slice and where they lie, readout by readout.

    Attributes:
        header: that of the first readout, or None before it.
        n_bytes: the memory that it takes.
    """

    def __init__(self, n_coils: int) -> None:
        self.n_coils = n_coils
        self.header: np.void | None = None
        self.n_bytes = 0
        self._samples: list[ComplexArray] = []
        self._places: list[FloatArray] = []

    @property
    def n_readouts(self) -> int:
        """How many readouts went into it."""
        return len(self._samples)

    @property
    def n_samples(self) -> int:
        """The samples of each coil."""
        return sum(len(each) for each in self._places[:1]) * self.n_readouts

    def bytes_of(self, n_samples: int) -> int:
        """Return the memory that a readout of so many samples takes."""
        return n_samples * (self.n_coils * _COMPLEX_BYTES + _PLACE_BYTES) + READOUT_BYTES

    def add(self, samples: ComplexArray, places: FloatArray, header: np.void, where: str) -> None:
        """Add the samples (coil, sample) of a readout and their places (sample, 2), which are copied.

        Raises:
            InputError: readouts before it have another length.
        """
        if self._samples and samples.shape != self._samples[0].shape:
            raise InputError(
                f"{where}: readouts have {samples.shape[1]} and {self._samples[0].shape[1]} samples, "
                "expected as many in each; split the scan"
            )
        self._samples.append(samples.astype(np.complex64))
        self._places.append(places.astype(np.float32))
        self.n_bytes += self.bytes_of(len(places))
        self.header = header.copy() if self.header is None else self.header

    def stacked(self) -> tuple[ComplexArray, FloatArray]:
        """Return the samples (coil, readout, sample) and the trajectory (readout, sample, 2)."""
        return np.stack(self._samples, axis=1), np.stack(self._places)


class TrajectoryAssembler(Assembler[TrajectoryBuffer]):
    """Keeps the readouts of each slice with their trajectory; the image is that of reconSpace.

    What is repeated is not averaged: all of it is data. Lines that are there for calibration alone are left
    out. The rest is as :class:`sbim_deploy.kspace.assembler.Assembler` says.
    """

    def complete(self, key: Key) -> AssembledSlice:
        """Return the slice of a key from the readouts that there are.

        Raises:
            InputError: its trajectory does not go with reconSpace or not near the centre of k-space, its
                values are too large, or its directions are not what they must be.
        """
        series, number = key
        where, encoding = describe_key(key), self._header.encodings[series.encoding]
        buffer, remarks = self._take(key)
        assert buffer.header is not None
        kspace, stored = buffer.stacked()
        found = in_cycles_of_image(stored, encoding, where)
        n_pixels = math.prod(found.matrix)
        if buffer.n_samples * MAX_UNFILLED < n_pixels:
            few = (
                f"{buffer.n_samples} samples for {n_pixels} pixels, expected at least one for {MAX_UNFILLED}"
            )
            self._spoiled.setdefault(key, f"{where}: {few}")
        dwell = dwell_us(buffer.header)
        matrix = self.noise.whitening(buffer.n_coils, dwell)
        remarks += self.noise.remarks(buffer.n_coils)
        if matrix is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                kspace = mix_coils(matrix, kspace)
            if not np.isfinite(kspace).all():
                raise InputError(
                    f"{where}: values are too large, expected float32 with room to compute; leave it out"
                )
        field_of_view = encoding.recon.field_of_view_mm
        return AssembledSlice(
            series=series,
            slice=number,
            kspace=kspace.conj() if self.conjugated else kspace,
            calibration=None,
            image_shape=found.matrix,
            geometry=slice_geometry(buffer.header, field_of_view, where),
            header=buffer.header,
            noise=1.0 if self.noise.tells_level(buffer.n_coils, dwell) else None,
            field_of_view_mm=field_of_view,
            remarks=encoding.remarks + found.remarks + remarks + self.sign_remarks,
            fault=self._spoiled.pop(key, None),
            places=found.values,
        )

    def _place(self, readout: Readout, key: Key, role: str) -> None:
        if role == CALIBRATION:
            self.dropped[role] += 1
            return
        where, header = describe_key(key), readout.header
        encoding = self._header.encodings[key[0].encoding]
        self._reopen(key, header)
        check_carries_trajectory(header, encoding, self._partitions, where)
        if not self._has_its_channels(len(readout.data), key):
            self.dropped[OTHER_CHANNELS] += 1
            return
        samples, places = _kept(readout, where)
        buffer = self._images.get(key) or TrajectoryBuffer(len(samples))
        self._ask(key, buffer, len(places), encoding)
        if not np.isfinite(samples).all():
            self._spoiled[key] = f"{where}: has samples that are not finite; leave its slice out"
            samples = np.zeros_like(samples)  # not measured
        before = buffer.n_bytes
        buffer.add(samples, places, header, where)
        self.n_bytes += buffer.n_bytes - before
        self._images[key] = buffer

    def _ask(self, key: Key, buffer: TrajectoryBuffer, n_samples: int, encoding: Encoding) -> None:
        """Ask whether there is room for so many more samples of a slice, and for the work on all of it."""
        rows, columns = encoding.recon.matrix_size[:2]
        n_more = buffer.bytes_of(n_samples)
        self._check_room(key, buffer.n_bytes + n_more, n_more)
        check_slice_fits(buffer.n_coils, (rows, columns), describe_key(key))
        n_bytes = self.n_bytes + self.noise.n_bytes + n_more
        self._admit(n_bytes, (buffer.n_coils, rows, columns), buffer.n_samples + n_samples)


def check_is_no_stack(encoding: Encoding, where: str) -> None:
    """Refuse an encoding space of several partitions, before the readouts come.

    Raises:
        NotSlicesError: its header promises them.
    """
    if counts_partitions(encoding):
        raise NotSlicesError(
            f"{where}: is 3D, a stack of {encoding.encoded.matrix_size[2]} partitions, expected 2D slices: "
            "recon --dimensions 3 takes a file of them"
        )


def check_carries_trajectory(
    header: np.void, encoding: Encoding, partitions: dict[int, int], where: str
) -> None:
    """Refuse a readout that is none of 2D slices along a trajectory.

    ``partitions`` keeps the first readout's kspace_encode_step_2 of each encoding space.

    Raises:
        NotSlicesError: it carries no trajectory, is of another partition than the first, or of another
            encoding space than the header's first.
    """
    n_dimensions, space = int(header["trajectory_dimensions"]), int(header["encoding_space_ref"])
    if n_dimensions not in (2, 3):
        raise NotSlicesError(
            f"{where}: the trajectory is {encoding.trajectory!r}, and a readout carries one of "
            f"{n_dimensions} dimensions, expected 2: put it into the readouts, or give recon the samples as "
            "an array with --trajectory"
        )
    if space:
        raise NotSlicesError(
            f"{where}: readouts of several encoding spaces have trajectories, expected one: split the scan"
        )
    partition = int(header["idx"]["kspace_encode_step_2"])
    first = partitions.setdefault(space, partition)
    if partition != first:
        raise NotSlicesError(
            f"{where}: is 3D, a stack with kspace_encode_step_2 of {first} and {partition}, expected 2D "
            "slices: recon --dimensions 3 takes a file of them"
        )


def in_cycles_of_image(stored: FloatArray, encoding: Encoding, where: str) -> Places:
    """Return a trajectory (readout, sample, 2) in cycles per field of view of reconSpace.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.along_trajectory.in_cycles`.
    """
    encoded, recon = encoding.encoded, encoding.recon
    fields = [
        small / large
        for small, large in zip(recon.field_of_view_mm[:2], encoded.field_of_view_mm[:2], strict=True)
    ]
    reach = np.abs(stored).max(axis=(0, 1))
    is_of_encoded = float(reach.max()) > MAX_RADIANS and any(
        far > BEYOND * n / 2 for far, n in zip(reach.tolist(), recon.matrix_size[:2], strict=True)
    )
    if not is_of_encoded or min(fields) >= 1:
        return in_cycles(stored, recon.matrix_size[:2], where)
    found = in_cycles((stored * np.array(fields)).astype(np.float32), recon.matrix_size[:2], where)
    remark = "its field of view is that of encodedSpace"
    return Places(found.values, found.matrix, (*found.remarks, remark))


def _kept(readout: Readout, where: str) -> tuple[ComplexArray, FloatArray]:
    """Return the samples (coil, sample) and the places (sample, 2) of a readout that are not discarded."""
    check_is_plain(readout.header, where)
    first, last = kept_samples(readout.header)
    trajectory = readout.trajectory
    if first >= last or trajectory is None:
        raise InputError(f"{where}: a readout has no samples with a trajectory; check the scan")
    places = trajectory[first:last]
    if not np.isfinite(places).all():
        raise InputError(f"{where}: its trajectory has places that are not finite; leave its slice out")
    if places.shape[1] == 3 and np.abs(places[:, 2]).max() > 0:
        raise NotSlicesError(
            f"{where}: its trajectory is three-dimensional, expected one of 2D slices, or with recon "
            "--dimensions 3 of the partitions of a stack"
        )
    return readout.data[:, first:last], places[:, :2]
