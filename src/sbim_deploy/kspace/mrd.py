"""The k-space of an MRD file, or of another that holds readouts, slice by slice.

A pass over the headers of all readouts tells which slice each belongs to (:class:`MrdIndex`); the samples of
a slice are read and assembled when it is asked for (:class:`MrdKspace`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.assembler import Assembler
from sbim_deploy.kspace.channels import OTHER_CHANNELS, check_few_others
from sbim_deploy.kspace.image_grid import ImageGrid
from sbim_deploy.kspace.noise_scan import dwell_us
from sbim_deploy.kspace.placement import (
    CALIBRATION,
    IMAGE,
    IMAGE_AND_CALIBRATION,
    NOISE,
    Grid,
    check_is_2d_cartesian,
    encoding_index,
    is_beyond,
    is_nearer,
    make_grid,
    readout_reach,
    readout_role,
    slice_geometry,
)
from sbim_deploy.kspace.readouts import BEYOND, SliceAssembler
from sbim_deploy.kspace.slice_buffer import AssembledSlice, Key, Series, centre_run, describe_key, slice_key
from sbim_deploy.mrd.file import HEADERS_AT_ONCE, RawFile
from sbim_deploy.mrd.header import MrdHeader
from sbim_deploy.mrd.messages import Flag, Readout
from sbim_deploy.mri.masks import MIN_CALIB_LINES
from sbim_deploy.records import BoolArray, ComplexArray, SliceGeometry

_LAST = (1 << (Flag.LAST_IN_SLICE - 1)) | (1 << (Flag.LAST_IN_MEASUREMENT - 1))


class FoundSlice:
    """What the headers of a file tell of one slice of one series.

    Attributes:
        readouts: their numbers, in order.
        lines: their kspace_encode_step_1.
        header: that of the one nearest the centre of k-space.
    """

    def __init__(self, header: np.void) -> None:
        self.readouts: list[int] = []
        self.lines: set[int] = set()
        self.header = header

    def add(self, number: int, header: np.void, center_line: int) -> None:
        """Add a readout."""
        self.readouts.append(number)
        self.lines.add(int(header["idx"]["kspace_encode_step_1"]))
        if is_nearer(header, self.header, center_line):
            self.header = header.copy()


class MrdIndex:
    """The readouts of a file, sorted.

    Attributes:
        images, calibrations: slices of the images, and of calibration readouts that are no part of one.
        noise: the numbers of the noise readouts.
        dropped: how many are left out, by kind.
        image: the grid that all images are on.
        reaches: how far the readouts of each encoding space reach from their centre.
        n_coils: the channels of the images.
        remarks: what was assumed of the scan or left out, a sentence each.

    Raises:
        InputError: the file is damaged, not 2D Cartesian, has no image readouts, or images of several sizes.
    """

    def __init__(self, file: RawFile) -> None:
        self._file = file
        with _naming(file.path):
            channels = self._sort()
            self.n_coils = max(channels, default=0)
            if len(channels) > 1:
                others = sum(channels.values()) - channels[self.n_coils]
                check_few_others(others, channels[self.n_coils], self.n_coils)
                self._sort(self.n_coils)
        for space, reach in self.reaches.items():
            self._grids[space] = self._make_grid(space, reach)
        self.image = self._one_grid()
        left_out = {kind: self.dropped[kind] for kind in (OTHER_CHANNELS, BEYOND) if self.dropped[kind]}
        self.remarks = (
            file.remarks
            + self.image.remarks
            + tuple(f"{count} readouts are left out: {kind}" for kind, count in left_out.items())
        )

    def _sort(self, n_coils: int | None = None) -> Counter[int]:
        """Go through all headers, and return the channels of the images' and how many readouts have them.

        Those of other channels than ``n_coils`` are dropped, unless it is None.
        """
        self.images: dict[Key, FoundSlice] = {}
        self.calibrations: dict[Key, FoundSlice] = {}
        self.noise: list[int] = []
        self.dropped: Counter[str] = Counter()
        self.reaches: dict[int, int] = {}
        self._grids: dict[int, Grid] = {}
        self._partitions: dict[int, int] = {}
        channels: Counter[int] = Counter()
        for start in range(0, self._file.n_readouts, HEADERS_AT_ONCE):
            stop = min(start + HEADERS_AT_ONCE, self._file.n_readouts)
            for number, header in enumerate(self._file.read_headers(start, stop), start):
                self._add(number, header, channels, n_coils)
        return channels

    def image_of(self, space: int) -> ImageGrid:
        """Return the grid of the images of an encoding space."""
        return self._grids[space].image

    def donor(self, key: Key) -> Key | None:
        """Return another series of the same slice that has calibration lines where this one has none."""
        if self._own_width(key) >= MIN_CALIB_LINES:
            return None
        others = _same_place(key, self.images)
        return next((other for other in others if self._own_width(other) >= MIN_CALIB_LINES), None)

    def calibration(self, key: Key) -> Key | None:
        """Return the series with the slice's separate calibration readouts: its own before others."""
        if key in self.calibrations:
            return key
        return next(iter(_same_place(key, self.calibrations)), None)

    def _add(self, number: int, header: np.void, channels: Counter[int], n_coils: int | None) -> None:
        space = encoding_index(header, self._file.header)
        encoding = self._file.header.encodings[space]
        role = readout_role(int(header["flags"]), encoding.calibration_mode)
        if role == NOISE:
            self.noise.append(number)
            return
        if role not in (IMAGE, IMAGE_AND_CALIBRATION, CALIBRATION):
            self.dropped[role] += 1
            return
        channels[int(header["active_channels"])] += 1
        if n_coils is not None and int(header["active_channels"]) != n_coils:
            self.dropped[OTHER_CHANNELS] += 1
            return
        where = f"{self._file.path}: encoding space {space}"
        check_is_2d_cartesian(header, encoding, self._partitions, where)
        if space not in self._grids:
            self._grids[space] = self._make_grid(space)
        if is_beyond(header, self._grids[space]):
            self.dropped[BEYOND] += 1
            return
        slices = self.calibrations if role == CALIBRATION else self.images
        found = slices.setdefault(slice_key(header), FoundSlice(header.copy()))
        self.reaches[space] = max(readout_reach(header), self.reaches.get(space, 0))
        found.add(number, header, self._grids[space].center_line)

    def _make_grid(self, space: int, reach: int | None = None) -> Grid:
        encoding = self._file.header.encodings[space]
        return make_grid(encoding, f"{self._file.path}: encoding space {space}", reach)

    def _one_grid(self) -> ImageGrid:
        spaces = sorted({series.encoding for series, _ in self.images})
        if not spaces:
            raise InputError(
                f"{self._file.path}: none of its {self._file.n_readouts} readouts is of an image, "
                "expected some; check the file"
            )
        first, *others = (self._grids[space].image for space in spaces)
        for space, grid in zip(spaces[1:], others, strict=True):
            if (grid.shape, grid.image_shape) != (first.shape, first.image_shape):
                raise InputError(
                    f"{self._file.path}: images of encoding space {space} are {grid.image_shape} and those "
                    f"of {spaces[0]} {first.image_shape}, expected one size; split the file"
                )
        return first

    def _own_width(self, key: Key) -> int:
        grid = self._grids[key[0].encoding]
        columns = np.array(sorted(self.images[key].lines)) - grid.center_line + grid.placed[1] // 2
        return len(centre_run(columns[(columns >= 0) & (columns < grid.placed[1])], grid.placed[1]))


def _same_place(key: Key, among: Iterable[Key]) -> list[Key]:
    """Return the keys of the same slice of the same encoding space, in order."""
    return sorted(other for other in among if (other[0].encoding, other[1]) == (key[0].encoding, key[1]))


class MrdKspace:
    """The k-space of an open file of readouts, a slice at a time; use it in a ``with`` statement.

    Each slice of each series (repetition, contrast, phase, set, encoding space) is one, numbered from 0.

    Attributes:
        path: the file.
        scan_header: what its XML says.
        xml: the text of it, for those who may know whose scan it is; None where the format has none.
        n_slices, n_coils, n_rows, n_columns: the size of k-space, the readout's oversampling not cropped.
        stored_shape: the same (rows, columns).
        mask: None: what was acquired is what is not zero.
        recon_shape: (rows, columns) of the image.
        voxel_mm: (row, column, slice) size of its voxels.

    Raises:
        InputError: the file has no image readouts, or several encoding spaces of different sizes have.
    """

    mask: BoolArray | None = None
    _is_3d = False

    def __init__(self, file: RawFile) -> None:
        self._keep(file)
        self._index = MrdIndex(file)
        self._keys = sorted(self._index.images)
        grid = self._index.image
        self.n_slices, self.n_coils = len(self._keys), self._index.n_coils
        self.n_rows, self.n_columns = self.stored_shape = grid.shape
        self.recon_shape: tuple[int, int] | None = grid.image_shape
        self.voxel_mm: tuple[float, float, float] | None = grid.voxel_mm
        self._assembler: Assembler[Any] = SliceAssembler(
            self.scan_header, None, self._index.reaches, of_volume=self._is_3d
        )
        self._feed(self._index.noise)
        self._last: tuple[int, AssembledSlice] | None = None
        self._calibrated: dict[int, str] = {}

    def _keep(self, file: RawFile) -> None:
        self.path: Path = file.path
        self.scan_header: MrdHeader = file.header
        self.xml: bytes | None = getattr(file, "xml", None)
        self._file = file

    @property
    def conjugated(self) -> bool:
        """Whether k-space is conjugated as it is read: by the vendor, unless it is set."""
        return self._assembler.conjugated

    @conjugated.setter
    def conjugated(self, value: bool) -> None:
        self._assembler.conjugated, self._last = value, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def read_slice(self, index: int) -> ComplexArray:
        """Assemble the k-space of one slice, complex64 (coils, rows, columns), whitened.

        Raises:
            InputError: no such slice, damaged data, or readouts that do not fit.
        """
        return self._assembled(index).kspace

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Assemble the lines to estimate the maps of a slice from, or None where its own will do.

        They are complex64 (coils, rows, columns), the shape of :meth:`read_slice`.

        Raises:
            InputError: see :meth:`read_slice`.
        """
        return self._assembled(index).calibration

    def read_noise(self, index: int) -> float | None:
        """Return the noise of each part of a slice's k-space by noise readouts, or None; see `read_slice`."""
        return self._assembled(index).noise

    def read_whitening(self, index: int) -> ComplexArray | None:
        """Return the (coil, coil) matrix that whitened a slice's coils, or None; see :meth:`slice_header`."""
        matrix = self._assembler.noise.whitening(self.n_coils, dwell_us(self.slice_header(index)))
        return matrix.conj() if matrix is not None and self.conjugated else matrix

    def geometry(self, index: int) -> SliceGeometry | None:
        """Return where the image of a slice lies in the patient, or None where the scan does not say.

        Raises:
            InputError: no such slice, or directions that are not at right angles.
        """
        key = self._key(index)
        field_of_view = self._index.image_of(key[0].encoding).field_of_view_mm
        return slice_geometry(self.slice_header(index), field_of_view, self._where(key))

    def series(self, index: int) -> Series:
        """Return the series that a slice belongs to; InputError where there is no such slice."""
        return self._key(index)[0]

    def slice_number(self, index: int) -> int:
        """Return the slice's counter within its series; InputError where there is no such slice."""
        return self._key(index)[1]

    def slice_header(self, index: int) -> np.void:
        """Return the header of a slice's readout nearest the centre of k-space; InputError: no such slice."""
        return self._index.images[self._key(index)].header

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types; maps count for the slices that were read so far."""
        series = sorted({key[0] for key in self._keys})
        return {
            "format": self._file.format,
            **self._file.facts,
            "readouts": self._file.n_readouts,
            "channels": self.n_coils,
            "series": len(series),
            "slices_of_series": max(Counter(key[0] for key in self._keys).values()),
            "dwell_us": dwell_us(self.slice_header(0)),
            "noise_readouts": len(self._index.noise),
            "whitened": self.read_whitening(0) is not None,
            "calibration_mode": self.scan_header.encodings[series[0].encoding].calibration_mode,
            "calibration_readouts": sum(len(found.readouts) for found in self._index.calibrations.values()),
            "calibration_of_slices": dict(Counter(self._calibrated.values())) or None,
            "dropped_readouts": dict(self._index.dropped) or None,
            "assumed": [
                *self._index.remarks,
                *self._assembler.noise.remarks(self.n_coils),
                *self._assembler.sign_remarks,
            ]
            or None,
        }

    def _key(self, index: int) -> Key:
        if not 0 <= index < len(self._keys):
            raise InputError(f"{self.path}: no slice {index}, expected 0 to {len(self._keys) - 1}")
        return self._keys[index]

    def _where(self, key: Key) -> str:
        return f"{self.path}: {describe_key(key)}"

    def _assembled(self, index: int) -> AssembledSlice:
        key = self._key(index)
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        self._last = None  # one slice in memory, not two
        with _naming(self.path):
            assembled = self._assemble(key)
            if assembled.fault is not None:
                raise InputError(assembled.fault)
        if assembled.kspace.shape[0] != self.n_coils:
            raise InputError(
                f"{self._where(key)}: has {assembled.kspace.shape[0]} channels, expected {self.n_coils}"
            )
        self._calibrated[index] = _source(assembled)
        self._last = (index, assembled)
        return assembled

    def _assemble(self, key: Key) -> AssembledSlice:
        try:
            if (donor := self._index.donor(key)) is not None:
                self._feed(self._index.images[donor].readouts)
                self._assembler.complete(donor)
            if (calibration := self._index.calibration(key)) is not None:
                self._feed(self._index.calibrations[calibration].readouts)
            self._feed(self._index.images[key].readouts)
            return self._assembler.complete(key)
        finally:
            self._assembler.reset()

    def _feed(self, indices: Iterable[int]) -> None:
        self._add(self._file.read_readouts(list(indices)))

    def _add(self, readouts: Iterable[Readout]) -> None:
        with _naming(self.path):
            for readout in readouts:
                header = readout.header.copy()
                header["flags"] = int(header["flags"]) & ~_LAST
                self._assembler.add(replace(readout, header=header))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is said of a readout of it."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error


def _source(assembled: AssembledSlice) -> str:
    if assembled.calibration is None:
        return "its own lines"
    if assembled.calibration_series == assembled.series:
        return "separate readouts"
    return "another series"
