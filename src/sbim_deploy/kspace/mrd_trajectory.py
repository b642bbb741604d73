"""The k-space of an MRD file whose readouts carry a trajectory, slice by slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.along_trajectory import BEYOND, MAX_RADIANS, NonCartesianKspace, in_cycles
from sbim_deploy.kspace.channels import OTHER_CHANNELS, check_few_others
from sbim_deploy.kspace.image_grid import check_slice_fits
from sbim_deploy.kspace.mrd import MrdKspace
from sbim_deploy.kspace.noise_scan import NoiseScan, dwell_us
from sbim_deploy.kspace.placement import (
    IMAGE,
    IMAGE_AND_CALIBRATION,
    NOISE,
    encoding_index,
    kept_samples,
    readout_role,
    slice_geometry,
)
from sbim_deploy.kspace.slice_buffer import Key, Series, describe_key, slice_key
from sbim_deploy.mrd.file import HEADERS_AT_ONCE, RawFile
from sbim_deploy.mrd.header import Encoding, MrdHeader
from sbim_deploy.mrd.messages import COMPRESSIONS, Readout
from sbim_deploy.mrd.orientation import Orientation, conjugation_remark, is_conjugated
from sbim_deploy.mri.whitening import mix_coils
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray, SliceGeometry, Vector

CARTESIAN, EPI = "cartesian", "epi"


def has_trajectory(header: MrdHeader) -> bool:
    """Tell whether a scan's header says that its readouts are not Cartesian, EPI's apart."""
    return header.encodings[0].trajectory not in (CARTESIAN, EPI)


class MrdAlongTrajectory(NonCartesianKspace, MrdKspace):
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
        self._conjugated = is_conjugated(Orientation.AUTO, file.header.protocol.vendor)
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
        self.noise = NoiseScan(file.header.noise_bandwidth)
        for readout in file.read_readouts(self._noise_numbers):
            self.noise.add(readout)
        self._remarks: tuple[str, ...] = ()
        self._kept: int | None = None
        self._samples: tuple[ComplexArray, FloatArray]
        self._read(0)  # what is wrong with the trajectory is said before long work

    @property
    def conjugated(self) -> bool:
        """Whether k-space is conjugated as it is read: by the vendor, unless it is set."""
        return self._conjugated

    @conjugated.setter
    def conjugated(self, value: bool) -> None:
        self._conjugated, self._kept = value, None

    def read_slice(self, index: int) -> ComplexArray:
        """Read the samples of one slice, complex64 (coil, readout, sample), whitened.

        Raises:
            InputError: no such slice, damaged data, or readouts of several lengths.
        """
        return self._read(index)[0]

    def read_trajectory(self, index: int) -> FloatArray:
        """Return where a slice's samples lie; see :class:`NonCartesianKspace`."""
        return self._read(index)[1]

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Return None: the maps are estimated from the slice's own samples."""
        return None

    def read_noise(self, index: int) -> float | None:
        """Return the standard deviation of each part of a slice's samples, where noise readouts tell it."""
        dwell = dwell_us(self.slice_header(index))
        return 1.0 if self.noise.tells_level(self.n_coils, dwell) else None

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
        assumed = [*self._file.remarks, *self._encoding.remarks, *self._remarks]
        assumed += self.noise.remarks(self.n_coils)
        assumed += [conjugation_remark(self.scan_header.protocol.vendor)] if self.conjugated else []
        dwell = dwell_us(self.slice_header(0))
        return {
            "format": self._file.format,
            **self._file.facts,
            "trajectory": self._encoding.trajectory,
            "readouts": self._file.n_readouts,
            "readouts_of_slice": len(self._found[self._keys[0]]),
            "channels": self.n_coils,
            "series": len(series),
            "dwell_us": dwell,
            "noise_readouts": len(self._noise_numbers),
            "whitened": self.noise.whitening(self.n_coils, dwell) is not None,
            "dropped_readouts": dict(self._dropped) or None,
            "assumed": assumed or None,
        }

    def _sort(self) -> int:
        """Go through all headers, and return the channels of the image's readouts."""
        channels: dict[int, list[tuple[Key, int]]] = {}
        partitions: set[int] = set()
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
                    self._check_header(header)
                    partitions.add(int(header["idx"]["kspace_encode_step_2"]))
                    key = slice_key(header)
                    self._headers.setdefault(key, header.copy())
                    channels.setdefault(int(header["active_channels"]), []).append((key, number))
        if not channels:
            raise InputError(
                f"{self.path}: none of its {self._file.n_readouts} readouts is of an image, expected some"
            )
        if len(partitions) > 1:
            raise InputError(
                f"{self.path}: is 3D, a stack of {len(partitions)} partitions, expected 2D slices: recon "
                "--dimensions 3 takes a file of them"
            )
        n_coils = max(channels)
        others = sum(len(found) for n, found in channels.items() if n != n_coils)
        if others:
            check_few_others(others, len(channels[n_coils]), n_coils, str(self.path))
            self._dropped[OTHER_CHANNELS] = others
        for key, number in channels[n_coils]:
            self._found.setdefault(key, []).append(number)
        return n_coils

    def _check_header(self, header: np.void) -> None:
        n_dimensions = int(header["trajectory_dimensions"])
        if n_dimensions not in (2, 3):
            raise InputError(
                f"{self.path}: the trajectory is {self._encoding.trajectory!r}, and a readout carries one of "
                f"{n_dimensions} dimensions, expected 2: store it with the readouts, or give the samples as "
                "an array with --trajectory"
            )
        if int(header["encoding_space_ref"]):
            raise InputError(
                f"{self.path}: readouts of several encoding spaces have trajectories, expected one: "
                "split the file"
            )

    def _read(self, index: int) -> tuple[ComplexArray, FloatArray]:
        key = self._key(index)
        if self._kept == index:
            return self._samples
        self._kept = None
        where = f"{self.path}: {describe_key(key)}"
        samples, trajectory = _stacked(self._readouts(key), where)
        matrix = self.whitening_of(index)
        kspace = samples if matrix is None else mix_coils(matrix, samples)
        places = self._places(self._in_plane(trajectory, index, where), where)
        if self.conjugated:
            kspace = kspace.conj()
        self._kept, self._samples = index, (kspace, places)
        return self._samples

    def _readouts(self, key: Key) -> Iterable[Readout]:
        """Return the readouts of a slice in their order."""
        return self._file.read_readouts(self._found[key])

    def _in_plane(self, trajectory: FloatArray, _index: int, where: str) -> FloatArray:
        """Return what of a trajectory (readout, sample, 2 or 3) lies in the plane of its slice.

        Raises:
            InputError: it leaves the plane.
        """
        if trajectory.shape[-1] == 3 and np.abs(trajectory[..., 2]).max() > 0:
            raise InputError(
                f"{where}: its trajectory is three-dimensional, expected one of 2D slices, or with "
                "--dimensions 3 of the partitions of a stack"
            )
        return trajectory[..., :2]

    def whitening_of(self, index: int) -> ComplexArray | None:
        """Return the matrix that whitens a slice's coils, or None where no noise readouts tell one."""
        return self.noise.whitening(self.n_coils, dwell_us(self.slice_header(index)))

    def _places(self, trajectory: FloatArray, where: str) -> FloatArray:
        """Return a trajectory in cycles per field of view of reconSpace."""
        encoded, recon = self._encoding.encoded, self._encoding.recon
        fields = [
            small / large
            for small, large in zip(recon.field_of_view_mm[:2], encoded.field_of_view_mm[:2], strict=True)
        ]
        reach = np.abs(trajectory).max(axis=(0, 1))
        is_of_encoded = float(reach.max()) > MAX_RADIANS and any(
            far > BEYOND * n / 2 for far, n in zip(reach.tolist(), recon.matrix_size[:2], strict=True)
        )
        if is_of_encoded and min(fields) < 1:
            trajectory = (trajectory * np.array(fields)).astype(np.float32)
        found = in_cycles(trajectory, recon.matrix_size[:2], where)
        self._remarks = found.remarks
        if is_of_encoded and min(fields) < 1:
            self._remarks += ("its field of view is that of encodedSpace",)
        return found.values


def _stacked(readouts: Iterable[Readout], where: str) -> tuple[ComplexArray, FloatArray]:
    """Return the samples (coil, readout, sample) and the trajectory (readout, sample, 2 or 3) of readouts."""
    samples: list[ComplexArray] = []
    places: list[FloatArray] = []
    for readout in readouts:
        data, trajectory = _kept(readout, where)
        if samples and (data.shape, trajectory.shape) != (samples[0].shape, places[0].shape):
            raise InputError(
                f"{where}: readouts have {data.shape[1]} samples in {trajectory.shape[1]} dimensions and "
                f"{samples[0].shape[1]} in {places[0].shape[1]}, expected as many in each; split the file"
            )
        samples.append(data)
        places.append(trajectory)
    return np.stack(samples, axis=1), np.stack(places)


def _kept(readout: Readout, where: str) -> tuple[ComplexArray, FloatArray]:
    header = readout.header
    if int(header["flags"]) & COMPRESSIONS:
        raise InputError(
            f"{where}: its samples are compressed, expected plain ones; send without compression"
        )
    first, last = kept_samples(header)
    trajectory = readout.trajectory
    if first >= last or trajectory is None:
        raise InputError(f"{where}: a readout has no samples with a trajectory; check the file")
    data, places = readout.data[:, first:last], trajectory[first:last]
    if not (np.isfinite(data).all() and np.isfinite(places).all()):
        raise InputError(f"{where}: has samples or places that are not finite; leave its slice out")
    return data, places
