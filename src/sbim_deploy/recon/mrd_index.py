"""Which readouts of an MRD file belong to which slice: one pass over the headers, without the samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.mrd_file import HEADERS_AT_ONCE, MrdFile
from sbim_deploy.recon.placement import (
    CALIBRATION,
    IMAGE,
    IMAGE_AND_CALIBRATION,
    NOISE,
    Grid,
    is_nearer,
    make_grid,
    readout_role,
)
from sbim_deploy.recon.prepare import MIN_CALIB_WIDTH
from sbim_deploy.recon.readouts import encoding_index
from sbim_deploy.recon.slice_buffer import Key, centre_run, slice_key


class FoundSlice:
    """What the headers of a file say of one slice of one series.

    Attributes:
        readouts: their numbers, in order.
        lines: their kspace_encode_step_1.
        header: that of the one nearest the centre of k-space.
    """

    def __init__(self, header: np.void) -> None:
        self.readouts: list[int] = []
        self.lines: set[int] = set()
        self.header = header

    def add(self, number: int, header: np.void, grid: Grid) -> None:
        """Add a readout."""
        self.readouts.append(number)
        self.lines.add(int(header["idx"]["kspace_encode_step_1"]))
        if is_nearer(header, self.header, grid):
            self.header = header.copy()


class MrdIndex:
    """The readouts of a file, sorted.

    Attributes:
        images, calibrations: slices of the images, and of calibration readouts that are no part of one.
        noise: the numbers of the noise readouts.
        dropped: how many are left out, by kind.
        grid: the grid that all images are on.

    Raises:
        InputError: the file is damaged, not 2D Cartesian, has no image readouts, or images of several sizes.
    """

    def __init__(self, file: MrdFile) -> None:
        self.images: dict[Key, FoundSlice] = {}
        self.calibrations: dict[Key, FoundSlice] = {}
        self.noise: list[int] = []
        self.dropped: Counter[str] = Counter()
        self._file = file
        self._grids: dict[int, Grid] = {}
        for start in range(0, file.n_readouts, HEADERS_AT_ONCE):
            stop = min(start + HEADERS_AT_ONCE, file.n_readouts)
            for number, header in enumerate(file.read_headers(start, stop), start):
                self._add(number, header)
        self.grid = self._one_grid()

    def donor(self, key: Key) -> Key | None:
        """Return another series of the same slice that has calibration lines where this one has none."""
        if self._own_width(key) >= MIN_CALIB_WIDTH:
            return None
        others = _same_place(key, self.images)
        return next((other for other in others if self._own_width(other) >= MIN_CALIB_WIDTH), None)

    def calibration(self, key: Key) -> Key | None:
        """Return the series with the slice's separate calibration readouts: its own before others."""
        if key in self.calibrations:
            return key
        return next(iter(_same_place(key, self.calibrations)), None)

    def _add(self, number: int, header: np.void) -> None:
        space = encoding_index(header, self._file.header)
        role = readout_role(int(header["flags"]), self._file.header.encodings[space].calibration_mode)
        if role == NOISE:
            self.noise.append(number)
        elif role in (IMAGE, IMAGE_AND_CALIBRATION, CALIBRATION):
            slices = self.calibrations if role == CALIBRATION else self.images
            found = slices.setdefault(slice_key(header), FoundSlice(header.copy()))
            found.add(number, header, self._grid_of(space))
        else:
            self.dropped[role] += 1

    def _grid_of(self, space: int) -> Grid:
        if space not in self._grids:
            encoding = self._file.header.encodings[space]
            self._grids[space] = make_grid(encoding, f"{self._file.path}: encoding space {space}")
        return self._grids[space]

    def _one_grid(self) -> Grid:
        spaces = sorted({series.encoding for series, _ in self.images})
        if not spaces:
            raise InputError(
                f"{self._file.path}: none of its {self._file.n_readouts} readouts is of an image, "
                "expected some; check the file"
            )
        first, *others = (self._grids[space] for space in spaces)
        for space, grid in zip(spaces[1:], others, strict=True):
            if (grid.shape, grid.image_shape) != (first.shape, first.image_shape):
                raise InputError(
                    f"{self._file.path}: images of encoding space {space} are {grid.image_shape} and those "
                    f"of {spaces[0]} {first.image_shape}, expected one size; split the file"
                )
        return first

    def _own_width(self, key: Key) -> int:
        grid = self._grids[key[0].encoding]
        columns = np.array(sorted(self.images[key].lines)) - grid.center_line + grid.shape[1] // 2
        return len(centre_run(columns[(columns >= 0) & (columns < grid.shape[1])], grid.shape[1]))


def _same_place(key: Key, among: Iterable[Key]) -> list[Key]:
    """Return the keys of the same slice of the same encoding space, in order."""
    return sorted(other for other in among if (other[0].encoding, other[1]) == (key[0].encoding, key[1]))
