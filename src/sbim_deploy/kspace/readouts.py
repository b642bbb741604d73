"""Cartesian readouts in, in the order in which they come, and slices of k-space out as these are complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.assembler import Admit, Assembler, admit_all
from sbim_deploy.kspace.channels import OTHER_CHANNELS
from sbim_deploy.kspace.image_grid import ImageGrid, check_slice_fits, half
from sbim_deploy.kspace.noise_scan import dwell_us
from sbim_deploy.kspace.placement import (
    CALIBRATION,
    IMAGE_AND_CALIBRATION,
    Grid,
    NotFiniteError,
    check_fills,
    check_is_2d_cartesian,
    is_beyond,
    make_grid,
    place,
    readout_reach,
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
)
from sbim_deploy.mrd.header import MrdHeader
from sbim_deploy.mrd.messages import Readout
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.masks import MIN_CALIB_LINES
from sbim_deploy.records import ComplexArray

BEYOND = "beyond the encoded lines"


class SliceAssembler(Assembler[SliceBuffer]):
    """Puts readouts where they belong on the grid of their encoding space.

    Where the header promises separate calibration lines, slices wait for them. The rest is as
    :class:`sbim_deploy.kspace.assembler.Assembler` says.

    Args:
        header, max_bytes, orientation, admit: see there.
        reaches: the largest reach (:func:`sbim_deploy.kspace.placement.readout_reach`) of the readouts of
            each encoding space, where they are all known before the first comes.
        of_volume: slices are the partitions of a volume: one line may be all, and none calibrates by itself.
    """

    def __init__(
        self,
        header: MrdHeader,
        max_bytes: int | None = None,
        reaches: Mapping[int, int] | None = None,
        orientation: Orientation = Orientation.AUTO,
        admit: Admit = admit_all,
        of_volume: bool = False,
    ) -> None:
        super().__init__(header, max_bytes, orientation, admit)
        self._padding, self._of_volume = 1.0, of_volume
        self._grids: dict[int, Grid] = {}
        self._reaches: dict[int, int] = dict(reaches or {})
        self._settled: dict[int, Grid] = {}
        self._calibrations: dict[Key, SliceBuffer] = {}
        self._kept: dict[tuple[int, int], CalibrationLines] = {}
        self._waiting: list[Key] = []

    @property
    def n_whole_bytes(self) -> int:
        """The memory that slices in progress take, padded as they will be."""
        return int(self.n_bytes * self._padding) + self.noise.n_bytes

    def reset(self) -> None:
        """Forget all readouts but those of noise."""
        super().reset()
        self._calibrations.clear()
        self._kept.clear()
        self._waiting.clear()

    def _buffers(self) -> Sequence[dict[Key, SliceBuffer]]:
        return self._images, self._calibrations

    def _completed_by(self, header: np.void, key: Key, role: str) -> Sequence[Key]:
        """Return what LAST_IN_SLICE completes: the slice, or those that waited for these lines."""
        if role == CALIBRATION:
            ready = sorted({each for each in self._waiting if place_of_key(each) == place_of_key(key)})
            self._waiting = [each for each in self._waiting if each not in ready]
            return ready
        ready = list(super()._completed_by(header, key, role))
        if ready and self._awaits_calibration(key):
            if key not in self._waiting:
                self._waiting.append(key)
            return []
        return ready

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
            self._reopen(key, header)
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
            self._check_room(key, wanted, wanted)
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
        self._admit(n_bytes, (n_coils, rows, columns), 0)

    def complete(self, key: Key) -> AssembledSlice:
        """Return the slice of a key from the readouts that there are.

        Raises:
            InputError: its noise readouts or its directions are not what they must be.
        """
        series, number = key
        buffer, remarks = self._take(key)
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
