"""The readouts of a 3-D scan, sorted by the second phase encode: each partition is read as a slice is.

A partition is all that has one kspace_encode_step_2. :class:`PartitionsFile` shows the readouts of a file so
that the counter of the partition stands where the slice's does. :class:`PartitionKspace` has them on a grid,
:class:`PartitionsAlongTrajectory` along a trajectory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.along_trajectory import FLAT
from sbim_deploy.kspace.image_grid import MeasuredAxis
from sbim_deploy.kspace.mrd import MrdKspace
from sbim_deploy.kspace.mrd_trajectory import MrdAlongTrajectory
from sbim_deploy.kspace.placement import (
    CALIBRATION,
    DROPPED,
    IMAGE,
    IMAGE_AND_CALIBRATION,
    MAX_UNFILLED,
    NOISE,
    encoding_index,
    readout_role,
)
from sbim_deploy.kspace.slice_buffer import AssembledSlice, Key, place_of_key, slice_key
from sbim_deploy.mrd.file import HEADERS_AT_ONCE, RawFile
from sbim_deploy.mrd.header import Encoding, Limit, MrdHeader
from sbim_deploy.mrd.messages import Flag, Readout

_CALIBRATION_FLAG = np.uint64(1 << (Flag.IS_PARALLEL_CALIBRATION - 1))
_LEFT_OUT = sorted(set(DROPPED.values()))
_MAX_NAMED = 8
UNDERSAMPLED = (
    "a stack that is undersampled along its partitions, or of partial Fourier, takes an operator of the "
    "whole volume"
)


class PartitionsFile:
    """The readouts of an open file with the partition in the place of the slice; see :class:`RawFile`.

    Args:
        file: the open file, which this one closes.
        volume: which of several volumes is shown, from 0 in the order of series and slab; None where there
            is but one.
        calibrates: show what is measured apart to calibrate this volume, in the place of an image.

    Attributes:
        encoding: the encoding space of the images, as the file's header has it.
        volumes: the series and the slab of each volume of the file.
        volume_key: that of what is shown, None where nothing is.
        n_calibration: the readouts of the file that are measured apart to calibrate, where an image is shown.

    Raises:
        InputError: the readouts are of several volumes and none is named, or there is no such volume.
    """

    def __init__(
        self, file: RawFile, volume: int | None = None, calibrates: PartitionsFile | None = None
    ) -> None:
        self._file = file
        self.path: Path = file.path
        self.format, self.remarks, self.facts = file.format, file.remarks, file.facts
        self.xml: bytes | None = getattr(file, "xml", None)
        self.n_calibration = 0
        others, found = self._sorted(is_calibration=calibrates is not None)
        self.volumes = tuple(sorted(found))
        self.volume_key = self._chosen(volume) if calibrates is None else self._calibrating(calibrates)
        shown = others + ([] if self.volume_key is None else found[self.volume_key])
        self._numbers = np.array(sorted(shown), np.intp)
        self.encoding = file.header.encodings[0 if self.volume_key is None else self.volume_key[0].encoding]
        self.header: MrdHeader = replace(file.header, encodings=tuple(map(_in_2d, file.header.encodings)))

    @property
    def volume_name(self) -> str | None:
        """What tells the volume from the others of the file, or None where there are none."""
        if self.volume_key is None or len(self.volumes) < 2:
            return None
        return _name(self.volume_key, self.volumes)

    @property
    def n_readouts(self) -> int:
        """The readouts that are shown."""
        return len(self._numbers)

    def __exit__(self, *error: Any) -> None:
        """Close the file."""
        self._file.__exit__(*error)

    def read_headers(self, start: int, stop: int) -> NDArray[np.void]:
        """Read the headers of the readouts of a range, each with its partition as its slice."""
        numbers = self._numbers[start:stop]
        if not len(numbers):
            return self._file.read_headers(0, 0)
        first = int(numbers[0])
        parts = []
        for at in range(first, int(numbers[-1]) + 1, HEADERS_AT_ONCE):
            end = min(at + HEADERS_AT_ONCE, int(numbers[-1]) + 1)
            inside = numbers[(numbers >= at) & (numbers < end)]
            parts.append(self._file.read_headers(at, end)[inside - at])
        return _by_partition(np.concatenate(parts))

    def read_readouts(self, indices: Sequence[int]) -> Iterator[Readout]:
        """Read the readouts of these numbers, one in memory at a time."""
        for readout in self._file.read_readouts([int(self._numbers[index]) for index in indices]):
            yield replace(readout, header=_by_partition(readout.header.reshape(1))[0])

    def _chosen(self, volume: int | None) -> Key | None:
        """Return the volume of this number, or the only one."""
        if volume is None and len(self.volumes) < 2:
            return self.volumes[0] if self.volumes else None
        if volume is not None and 0 <= volume < len(self.volumes):
            return self.volumes[volume]
        names = [
            f"{number} ({_name(key, self.volumes)})" for number, key in enumerate(self.volumes[:_MAX_NAMED])
        ]
        listed = ", ".join(names) + (", ..." if len(self.volumes) > _MAX_NAMED else "")
        if volume is None:
            raise InputError(
                f"{self.path}: holds {len(self.volumes)} volumes, expected one, or --volume to say which: "
                f"{listed}"
            )
        raise InputError(f"{self.path}: has no volume {volume}, expected one of {listed}")

    def _calibrating(self, image: PartitionsFile) -> Key | None:
        """Return which calibration scan is an image's: of its series, of its slab, or the only one."""
        key = image.volume_key
        if key is None or key in self.volumes or len(self.volumes) < 2:
            return key if key in self.volumes else next(iter(self.volumes), None)
        near = [each for each in self.volumes if place_of_key(each) == place_of_key(key)]
        if not near:
            raise InputError(
                f"{self.path}: holds {len(self.volumes)} calibration scans and none of the volume's slab, "
                "expected one of it; give maps with --maps"
            )
        return near[0]

    def _sorted(self, is_calibration: bool) -> tuple[list[int], dict[Key, list[int]]]:
        """Return the numbers of the readouts that go with any volume, and those of each volume."""
        others, found = [], defaultdict[Key, list[int]](list)
        wanted = (CALIBRATION,) if is_calibration else (IMAGE, IMAGE_AND_CALIBRATION)
        for start in range(0, self._file.n_readouts, HEADERS_AT_ONCE):
            stop = min(start + HEADERS_AT_ONCE, self._file.n_readouts)
            for number, header in enumerate(self._file.read_headers(start, stop), start):
                space = encoding_index(header, self._file.header)
                mode = self._file.header.encodings[space].calibration_mode
                role = readout_role(int(header["flags"]), mode)
                if role == NOISE or (role in _LEFT_OUT and not is_calibration):
                    others.append(number)
                elif role in wanted:
                    found[slice_key(header)].append(number)
                elif role == CALIBRATION:
                    self.n_calibration += 1
        return others, found


class PartitionKspace(MrdKspace):
    """The k-space of the partitions of a 3-D scan, one at a time, as few lines as one may have.

    Partitions are numbered from 0 in the order of their counter; ``places`` are theirs on the grid of all,
    and ``partitions`` what the header says of that axis.

    Raises:
        InputError: see :class:`MrdKspace`; or a partition lies outside those of the header, or hardly any of
            its partitions or lines was measured.
    """

    _is_3d = True

    def __init__(self, file: PartitionsFile) -> None:
        super().__init__(file)
        self.file = file
        self.partitions, self.places = partition_axis(file, [key[1] for key in self._keys])
        lines = set[int]().union(*(found.lines for found in self._index.images.values()))
        _, n_lines, n_partitions = file.encoding.encoded.matrix_size
        _check_measured(len(self.places), n_partitions, "partitions", str(file.path))
        _check_measured(len(lines), n_lines, "lines", str(file.path))


class PartitionsAlongTrajectory(MrdAlongTrajectory):
    """The partitions of a stack of stars, of spirals or of others, one at a time, with their trajectory.

    ``partitions`` and ``places`` are those of :class:`PartitionKspace`; all are measured. Readouts are in the
    order of their kspace_encode_step_1.

    Raises:
        InputError: see :class:`MrdAlongTrajectory`; or there is but one partition, or some were not measured.
    """

    def __init__(self, file: PartitionsFile) -> None:
        self.file = file
        self._step: float | None = None
        super().__init__(file)

    def _sort(self) -> int:
        n_coils = super()._sort()
        counters = sorted(number for _, number in self._found)
        self.partitions, self.places = _fully_measured(self.file, counters)
        return n_coils

    def _assemble(self, key: Key) -> AssembledSlice:
        try:
            self._add(self._in_plane(self._file.read_readouts(self._found[key]), key))
            return self._assembler.complete(key)
        finally:
            self._assembler.reset()

    def _in_plane(self, readouts: Iterable[Readout], key: Key) -> list[Readout]:
        """Return a partition's readouts in the order of their lines, their trajectory without its height.

        Raises:
            InputError: the third component of the trajectory is not that of the partition.
        """
        ordered = sorted(readouts, key=_line_of)
        found = [each.trajectory for each in ordered if each.trajectory is not None]
        if len(found) < len(ordered) or any(each.shape[-1] != 3 for each in found):
            return ordered  # in the plane, or refused where they are assembled
        heights = np.concatenate([each[:, 2] for each in found])
        tolerance = FLAT * max(float(np.abs(each).max()) for each in found)
        offset = int(self.places[self._keys.index(key)]) - self.partitions.samples // 2
        if self._step is None and offset:
            self._step = float(heights.mean()) / offset
        step = self._step or 0.0
        if step < 0 or np.abs(heights - step * offset).max() > tolerance:
            raise InputError(
                f"{self._where(key)}: the third component of its trajectory is not that of partition "
                f"{offset} from the centre of a stack: a trajectory of three dimensions takes an operator of "
                "the whole volume"
            )
        return [replace(each, trajectory=at[:, :2]) for each, at in zip(ordered, found, strict=True)]


OfPartitions = PartitionKspace | PartitionsAlongTrajectory


def middle_partition(source: OfPartitions) -> int:
    """Return the number of the partition nearest the centre of k-space."""
    return int(np.argmin(np.abs(source.places - source.partitions.samples // 2)))


def _line_of(readout: Readout) -> int:
    return int(readout.header["idx"]["kspace_encode_step_1"])


def _check_measured(n_measured: int, n_encoded: int, what: str, where: str) -> None:
    if n_measured * MAX_UNFILLED < n_encoded:
        raise InputError(
            f"{where}: {n_measured} of {n_encoded} {what} were measured, expected at least one in "
            f"{MAX_UNFILLED}; check the encoded matrix"
        )


def _name(key: Key, among: Sequence[Key]) -> str:
    """Return the counters by which a volume differs from others, in words."""
    counters = [{**vars(series), "slab": slab} for series, slab in among]
    own = {**vars(key[0]), "slab": key[1]}
    told = {name: value for name, value in own.items() if any(each[name] != value for each in counters)}
    return ", ".join(
        f"{'encoding space' if name == 'encoding' else name} {value}" for name, value in told.items()
    )


def _in_2d(encoding: Encoding) -> Encoding:
    """Return an encoding space as its partitions have it."""
    rows, columns, _ = encoding.encoded.matrix_size
    return replace(encoding, encoded=replace(encoding.encoded, matrix_size=(rows, columns, 1)), step_2=None)


def _by_partition(headers: NDArray[np.void]) -> NDArray[np.void]:
    """Return headers with the partition's counter as the slice's; none says that it calibrates alone."""
    shown = headers.copy()
    shown["idx"]["slice"] = headers["idx"]["kspace_encode_step_2"]
    shown["idx"]["kspace_encode_step_2"] = 0
    shown["flags"] = headers["flags"] & ~_CALIBRATION_FLAG
    return shown


def partition_axis(file: PartitionsFile, counters: Sequence[int]) -> tuple[MeasuredAxis, NDArray[np.intp]]:
    """Return the axis of the partitions and where those of these counters lie on it."""
    encoding = file.encoding
    size, extent = encoding.encoded.matrix_size[2], encoding.encoded.field_of_view_mm[2]
    limit = encoding.step_2
    remark = None
    if limit is None or limit == Limit(0, 0, 0):
        limit = Limit(0, size - 1, size // 2)
        remark = f"the limits of kspace_encoding_step_2 are not given: taken as those of {size} partitions"
    places = np.array(counters, np.intp) - limit.center + size // 2
    if places.size and not (places.min() >= 0 and places.max() < size):
        raise InputError(
            f"{file.path}: has kspace_encode_step_2 of {min(counters)} to {max(counters)} around "
            f"{limit.center}, expected those of {size} encoded partitions; check the header's limits"
        )
    return MeasuredAxis(size, extent, remark), places


def _fully_measured(file: PartitionsFile, counters: Sequence[int]) -> tuple[MeasuredAxis, NDArray[np.intp]]:
    """Return the axis of a stack and where its partitions lie: all that are encoded, or those in the middle.

    Raises:
        InputError: others were not measured, or there is but one.
    """
    axis, places = partition_axis(file, counters)
    n, n_encoded = len(places), axis.samples
    if n < 2:
        raise InputError(
            f"{file.path}: has {n} partition along its second phase encode, expected the several of a stack: "
            "leave --dimensions 3 out"
        )
    if n == n_encoded:
        return axis, places
    if np.array_equal(places, np.arange(n) + n_encoded // 2 - n // 2):
        remark = f"{n} of {n_encoded} partitions are measured, around the centre: the others are zero"
        remark = remark if axis.remark is None else f"{axis.remark}; {remark}"
        return MeasuredAxis(n, axis.extent_mm, remark), np.arange(n)
    missing = np.setdiff1d(np.arange(n_encoded), places) + counters[0] - places[0]
    listed = ", ".join(map(str, missing[:_MAX_NAMED])) + (", ..." if len(missing) > _MAX_NAMED else "")
    raise InputError(
        f"{file.path}: {len(missing)} of {n_encoded} partitions were not measured (kspace_encode_step_2 of "
        f"{listed}), expected all: {UNDERSAMPLED}"
    )


def partition_facts(source: OfPartitions) -> Mapping[str, Any]:
    """Return what is to be told of the partitions, as JSON's types."""
    facts = {"partitions": source.partitions.samples, "partitions_measured": len(source.places)}
    name = source.file.volume_name
    return facts if name is None else {**facts, "volumes": len(source.file.volumes), "volume": name}
