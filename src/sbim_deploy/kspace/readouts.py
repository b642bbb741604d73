"""Readouts in, in the order in which they come, and slices of k-space out as they become complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.channels import OTHER_CHANNELS, ReadoutChannels, check_few_others
from sbim_deploy.kspace.image_grid import ImageGrid, check_slice_fits, half
from sbim_deploy.kspace.noise_scan import NoiseScan, dwell_us
from sbim_deploy.kspace.placement import (
    CALIBRATION,
    IMAGE,
    IMAGE_AND_CALIBRATION,
    NOISE,
    Grid,
    NotFiniteError,
    check_fills,
    check_is_2d_cartesian,
    encoding_index,
    is_beyond,
    make_grid,
    place,
    readout_reach,
    readout_role,
    slice_geometry,
)
from sbim_deploy.kspace.slice_buffer import (
    AssembledSlice,
    CalibrationLines,
    Key,
    SliceBuffer,
    describe_key,
    middle_columns,
    place_of_key,
    slice_key,
)
from sbim_deploy.mrd.header import MrdHeader
from sbim_deploy.mrd.messages import Flag, Readout
from sbim_deploy.mrd.orientation import Orientation, conjugation_remark, is_conjugated
from sbim_deploy.mri.masks import MIN_CALIB_LINES
from sbim_deploy.records import ComplexArray

Admit = Callable[[int, tuple[int, int, int]], None]
BEYOND = "beyond the encoded lines"
FINISHED_SHARE = 8  # of the memory is for slices that may get another average


class SliceAssembler:
    """Puts readouts where they belong.

    A slice is complete at LAST_IN_SLICE, at its last average where the header counts them; all are at
    LAST_IN_MEASUREMENT and at :meth:`finish`. Where the header does not count the averages, a slice that gets
    another one is completed again, with all of them. Where it promises separate calibration lines, slices
    wait for them. Slices may interleave. Noise readouts count for the slices that complete after them.

    Args:
        header: the scan's header.
        max_bytes: the most that slices in progress may take together, or None for no bound but one slice's.
        reaches: the largest reach (:func:`sbim_deploy.kspace.placement.readout_reach`) of the readouts of
            each encoding space, where they are all known before the first comes.
        orientation: of the raw data.
        admit: given the bytes that slices will take, before they do, and one's (coil, rows, columns).
        of_volume: slices are the partitions of a volume: one line may be all, and none calibrates by itself.

    Attributes:
        conjugated: whether the slices' k-space is conjugated.
        dropped: how many readouts were left out, by kind.
        n_bytes: the memory that slices in progress, and the calibration lines that are kept, take. Counted as
            it goes, since a hostile stream may begin very many slices.
    """

    def __init__(
        self,
        header: MrdHeader,
        max_bytes: int | None = None,
        reaches: Mapping[int, int] | None = None,
        orientation: Orientation = Orientation.AUTO,
        admit: Admit = lambda _n_bytes, _shape: None,
        of_volume: bool = False,
    ) -> None:
        self.conjugated = is_conjugated(orientation, header.protocol.vendor)
        self.dropped: Counter[str] = Counter()
        self.n_bytes = 0
        self.noise = NoiseScan(header.noise_bandwidth)
        self._header = header
        self._max_bytes, self._of_volume = max_bytes, of_volume
        self._admit, self._padding = admit, 1.0
        self._channels = ReadoutChannels()
        self._partitions: dict[int, int] = {}
        self._spoiled: dict[Key, str] = {}
        self._finished: dict[Key, SliceBuffer] = {}
        self._grids: dict[int, Grid] = {}
        self._reaches: dict[int, int] = dict(reaches or {})
        self._settled: dict[int, Grid] = {}
        self._images: dict[Key, SliceBuffer] = {}
        self._calibrations: dict[Key, SliceBuffer] = {}
        self._kept: dict[tuple[int, int], CalibrationLines] = {}
        self._done: set[Key] = set()
        self._waiting: list[Key] = []

    @property
    def n_whole_bytes(self) -> int:
        """The memory that slices in progress take, padded as they will be."""
        return int(self.n_bytes * self._padding) + self.noise.n_bytes

    def add(self, readout: Readout) -> list[AssembledSlice]:
        """Take a readout, and return the slices that it completes.

        Raises:
            InputError: the readout is not what the header says, not Cartesian, compressed, does not fit, has
                other channels than those before it, belongs to a complete slice, or needs too much memory.
        """
        role = self._role(readout.header)
        complete: list[AssembledSlice] = []
        if role == NOISE:
            self.noise.add(readout)
        elif role not in (IMAGE, CALIBRATION, IMAGE_AND_CALIBRATION):
            self.dropped[role] += 1
        else:
            key = slice_key(readout.header)
            self._place(readout, key, role)
            if readout.has(Flag.LAST_IN_SLICE):
                complete += self._end_slice(readout.header, key, role)
        if readout.has(Flag.LAST_IN_MEASUREMENT):
            complete += self.finish()
        return complete

    def finish(self) -> list[AssembledSlice]:
        """Return the slices that are left, by series and slice, and forget everything but the noise.

        Raises:
            InputError: see :meth:`add`.
        """
        complete = [self.complete(key) for key in sorted(self._images)]
        check_few_others(self._channels.n_others, self._channels.n_kept, self._channels.n_coils)
        self.reset()
        return complete

    def reset(self) -> None:
        """Forget all readouts but those of noise."""
        self._images.clear()
        self._calibrations.clear()
        self._kept.clear()
        self._done.clear()
        self._waiting.clear()
        self._finished.clear()
        self._spoiled.clear()
        self._channels.clear()
        self.n_bytes = 0

    def _role(self, header: np.void) -> str:
        mode = self._header.encodings[encoding_index(header, self._header)].calibration_mode
        return readout_role(int(header["flags"]), mode)

    def _end_slice(self, header: np.void, key: Key, role: str) -> list[AssembledSlice]:
        """Return what LAST_IN_SLICE completes: the slice, or those that waited for these lines."""
        if role == CALIBRATION:
            ready = sorted({each for each in self._waiting if place_of_key(each) == place_of_key(key)})
            self._waiting = [each for each in self._waiting if each not in ready]
        elif not self._is_last_average(header) or key not in self._images:
            ready = []
        elif self._awaits_calibration(key):
            ready = []
            if key not in self._waiting:
                self._waiting.append(key)
        else:
            ready = [key]
        return [self.complete(each) for each in ready]

    def _awaits_calibration(self, key: Key) -> bool:
        """Tell whether the header promises separate calibration lines of which none came yet."""
        if self._header.encodings[key[0].encoding].calibration_mode != "separate":
            return False
        seen = {*self._kept, *(place_of_key(other) for other in self._calibrations)}
        return place_of_key(key) not in seen

    def _place(self, readout: Readout, key: Key, role: str) -> None:
        series, _ = key
        where, header = describe_key(key), readout.header
        if role != CALIBRATION:
            self._reopen(key, header, where)
        encoding = self._header.encodings[series.encoding]
        check_is_2d_cartesian(header, encoding, self._partitions, where)
        if not self._has_its_channels(len(readout.data), key):
            self.dropped[OTHER_CHANNELS] += 1
            return
        grid = self._grid(series.encoding, header)
        if is_beyond(header, grid):
            self.dropped[BEYOND] += 1
            return
        buffers = self._buffers_for(key, role, grid)
        try:
            rows, column, samples = place(readout, grid, where)
        except NotFiniteError as error:
            self._spoiled[key] = str(error)
            for buffer in buffers:
                buffer.header = header.copy() if buffer.header is None else buffer.header
            return
        for buffer in buffers:
            buffer.add(rows, column, samples, header)

    def _buffers_for(self, key: Key, role: str, grid: Grid) -> list[SliceBuffer]:
        """Return where a readout goes: into its slice, its slice's calibration lines, or both."""
        # What is image and calibration needs no second copy unless there are readouts of calibration alone.
        mode = self._header.encodings[key[0].encoding].calibration_mode
        buffers = []
        if role != CALIBRATION:
            buffers.append(self._buffer(self._images, key, grid))
        if role == CALIBRATION or (role == IMAGE_AND_CALIBRATION and mode not in ("embedded", "interleaved")):
            buffers.append(self._buffer(self._calibrations, key, grid))
        return buffers

    def _reopen(self, key: Key, header: np.void, where: str) -> None:
        """Let a slice go on that ended with an average, where the header does not say how many there are.

        Raises:
            InputError: the slice is complete.
        """
        if key not in self._done:
            return
        if key not in self._finished or not int(header["idx"]["average"]):
            raise InputError(f"{where}: gets a readout after LAST_IN_SLICE, expected none; check the flags")
        self._done.remove(key)
        self._images[key] = self._finished.pop(key)

    def _has_its_channels(self, n_channels: int, key: Key) -> bool:
        """Tell whether a readout is of the receiver array; what has fewer channels was none of its."""
        known = self._channels.n_coils
        if known is not None and n_channels > known and not self._done:
            before: Counter[Key] = Counter()
            for buffers in (self._images, self._calibrations):
                for other, buffer in buffers.items():
                    before[other] += buffer.n_readouts
                    self.n_bytes -= buffer.n_bytes
                buffers.clear()
            self._channels.widen(n_channels, before)
        return self._channels.keeps(n_channels, key)

    def _grid(self, encoding: int, header: np.void) -> Grid:
        """Return where readouts of an encoding space are placed, with room for this one."""
        where, reach = f"encoding space {encoding}", readout_reach(header)
        known = self._grids.get(encoding)
        if known is not None and reach <= self._reaches[encoding]:
            return known
        self._reaches[encoding] = max(reach, self._reaches.get(encoding, 0))
        space = self._header.encodings[encoding]
        whole = half(space.encoded.matrix_size[0])
        grid = make_grid(space, where, max(self._reaches[encoding], whole))
        settled = self._settled.get(encoding)
        if settled is not None and self._settle(encoding).image != settled.image:
            raise InputError(
                f"{where}: a readout reaches {reach} samples from its centre, those of slices that are "
                f"complete were taken for {settled.image.measured[0]} in all; send readouts of one length"
            )
        check_fills(header, grid, where)
        self._ask(grid, self.n_bytes * (grid.placed[0] / known.placed[0] - 1) if known else 0)
        self._grids[encoding] = grid
        for key, buffer in (*self._images.items(), *self._calibrations.items()):
            if key[0].encoding == encoding:
                self.n_bytes -= buffer.n_bytes
                buffer.grow(grid.placed[0])
                self.n_bytes += buffer.n_bytes
        return grid

    def _settle(self, encoding: int) -> Grid:
        """Return the grid that the readouts so far tell."""
        space = self._header.encodings[encoding]
        return make_grid(space, f"encoding space {encoding}", self._reaches[encoding])

    def _buffer(self, buffers: dict[Key, SliceBuffer], key: Key, grid: Grid) -> SliceBuffer:
        if key not in buffers:
            n_coils = self._channels.n_coils
            assert n_coils is not None
            wanted = grid.placed[0] * grid.placed[1] * n_coils * np.dtype(np.complex64).itemsize
            if self._max_bytes is not None and wanted + self.n_bytes > self._max_bytes:
                raise InputError(
                    f"{describe_key(key)}: {wanted + self.n_bytes} bytes for all slices in progress, "
                    f"expected at most {self._max_bytes}; allow more memory"
                )
            self._ask(grid, wanted)
            buffers[key] = SliceBuffer(grid, n_coils)
            self.n_bytes += buffers[key].n_bytes
        return buffers[key]

    def _ask(self, grid: Grid, n_more: float) -> None:
        """Ask whether slices on a grid may take more bytes, once whole and worked on."""
        n_coils, (rows, columns) = self._channels.n_coils or 1, grid.whole
        check_slice_fits(n_coils, grid.whole, "a slice")
        self._padding = max(self._padding, rows * columns / (grid.placed[0] * grid.placed[1]))
        n_bytes = int((self.n_bytes + n_more) * self._padding) + self.noise.n_bytes
        self._admit(n_bytes, (n_coils, rows, columns))

    def _is_last_average(self, header: np.void) -> bool:
        limit = self._header.encodings[int(header["encoding_space_ref"])].average
        return limit is None or int(header["idx"]["average"]) >= limit.maximum

    def complete(self, key: Key) -> AssembledSlice:
        """Return the slice of a key from the readouts that there are.

        Raises:
            InputError: its noise readouts or its directions are not what they must be.
        """
        series, number = key
        buffer = self._images.pop(key)
        self._done.add(key)
        if self._header.encodings[series.encoding].average is None and self._max_bytes is not None:
            self._keep_finished(key, buffer)
        else:
            self.n_bytes -= buffer.n_bytes
        remarks: tuple[str, ...] = ()
        try:
            remarks = self._channels.remarks(key, buffer.n_readouts)
        except InputError as error:  # of this slice alone; finish() looks at all of the scan
            self._spoiled.setdefault(key, str(error))
        image = self._settled.setdefault(series.encoding, self._settle(series.encoding)).image
        buffer = buffer.fitted(image)
        where, few = describe_key(key), buffer.too_few_lines(image.measured[1])
        if few is not None and not self._of_volume:
            self._spoiled.setdefault(key, f"{where}: {few}")
        assert buffer.header is not None
        of_slice = None if self._of_volume else buffer.header
        dwell = dwell_us(buffer.header)
        matrix = self.noise.whitening(buffer.n_coils, dwell)
        remarks += self.noise.remarks(buffer.n_coils)
        try:
            kspace = buffer.averaged(matrix)
            source = None if self._of_volume else self._calibration(key, buffer, kspace, matrix, image)
        except ValueError as error:
            raise InputError(f"{where}: {error}; rescale the readouts, or leave the slice out") from error
        return AssembledSlice(
            series=series,
            slice=number,
            kspace=kspace.conj() if self.conjugated else kspace,
            calibration=None if source is None else source.on_grid(kspace.shape, self.conjugated),
            image_shape=image.image_shape,
            geometry=None if of_slice is None else slice_geometry(of_slice, image.field_of_view_mm, where),
            header=buffer.header,
            calibration_series=None if source is None else source.series,
            noise=buffer.averaged_noise() if self.noise.tells_level(buffer.n_coils, dwell) else None,
            field_of_view_mm=image.field_of_view_mm,
            remarks=image.remarks + remarks + self.sign_remarks,
            fault=self._spoiled.pop(key, None),
        )

    @property
    def sign_remarks(self) -> tuple[str, ...]:
        """What is to be said of the sign of k-space."""
        return (conjugation_remark(self._header.protocol.vendor),) if self.conjugated else ()

    def _keep_finished(self, key: Key, buffer: SliceBuffer) -> None:
        """Keep a slice that may get another average, and the memory for such within its share."""
        assert self._max_bytes is not None
        self._finished[key] = buffer
        while sum(each.n_bytes for each in self._finished.values()) > self._max_bytes // FINISHED_SHARE:
            self.n_bytes -= self._finished.pop(next(iter(self._finished))).n_bytes

    def _calibration(
        self,
        key: Key,
        buffer: SliceBuffer,
        kspace: ComplexArray,
        matrix: ComplexArray | None,
        image: ImageGrid,
    ) -> CalibrationLines | None:
        """Return the calibration readouts where they are better than the slice's own centre."""
        place_of = place_of_key(key)
        centre = buffer.centre_columns()
        own_width = len(centre)
        if key in self._calibrations:
            separate = self._separate(key, matrix, image)
            self.n_bytes -= self._calibrations.pop(key).n_bytes
            if separate.width >= MIN_CALIB_LINES:
                self._keep(place_of, separate)
        kept = self._kept.get(place_of) or self._borrowed(place_of, matrix, image)
        if kept is not None and (kept.separate or own_width < MIN_CALIB_LINES) and kept.width > own_width:
            return kept
        if own_width >= MIN_CALIB_LINES and (kept is None or not kept.separate):
            self._keep(place_of, CalibrationLines(key[0], middle_columns(centre), kspace, False))
        return None

    def _keep(self, place_of: tuple[int, int], lines: CalibrationLines) -> None:
        before = self._kept.get(place_of)
        self.n_bytes += lines.n_bytes - (0 if before is None else before.n_bytes)
        self._kept[place_of] = lines

    def _borrowed(
        self, place_of: tuple[int, int], matrix: ComplexArray | None, image: ImageGrid
    ) -> CalibrationLines | None:
        for key in sorted(self._calibrations):
            if place_of_key(key) == place_of:
                return self._separate(key, matrix, image)
        return None

    def _separate(self, key: Key, matrix: ComplexArray | None, image: ImageGrid) -> CalibrationLines:
        buffer = self._calibrations[key].fitted(image)
        return CalibrationLines(key[0], buffer.columns(), buffer.averaged(matrix), True)
