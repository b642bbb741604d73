"""One slice of k-space while its readouts come, and the lines to estimate its coil maps from.

A :class:`SliceBuffer` sums the readouts of one slice, which becomes an :class:`AssembledSlice`.
:class:`CalibrationLines` keeps those lines, without the zeros around them, for the slice itself or
for another repetition of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.kspace.image_grid import ImageGrid
from sbim_deploy.kspace.placement import MAX_UNFILLED, Grid, is_nearer
from sbim_deploy.mri.fourier import centre_crop, centre_pad
from sbim_deploy.mri.masks import calibration_block
from sbim_deploy.mri.whitening import mix_coils
from sbim_deploy.records import ComplexArray, FloatArray, SliceGeometry, Vector

MAX_KEPT_LINES = 48


@dataclass(frozen=True, order=True)
class Series:
    """The counters that part one series of slices from another."""

    encoding: int
    contrast: int
    phase: int
    repetition: int
    set: int


Key = tuple[Series, int]


def slice_key(header: np.void) -> Key:
    """Return the series and the slice that a readout belongs to."""
    counters = header["idx"]
    series = Series(
        encoding=int(header["encoding_space_ref"]),
        contrast=int(counters["contrast"]),
        phase=int(counters["phase"]),
        repetition=int(counters["repetition"]),
        set=int(counters["set"]),
    )
    return series, int(counters["slice"])


def place_of_key(key: Key) -> tuple[int, int]:
    """Return the encoding space and the slice, which the series of a scan share."""
    return key[0].encoding, key[1]


def describe_key(key: Key) -> str:
    """Return a slice's name for messages."""
    series, number = key
    return (
        f"slice {number} of repetition {series.repetition}, contrast {series.contrast}, "
        f"phase {series.phase}, set {series.set}, encoding space {series.encoding}"
    )


@dataclass(frozen=True, eq=False)
class AssembledSlice:
    """One slice of one series, complete.

    Attributes:
        series, slice: its counters.
        kspace: complex64 (coil, rows, columns), readout along the rows and not cropped, averaged over what
            was repeated, whitened where there were noise readouts, and zero where nothing was acquired.
        calibration: the same grid with the readouts to estimate coil maps from, or None for k-space's own.
        image_shape: (rows, columns) of the image, the middle of the grid.
        geometry: where the image lies in the patient, or None where the scan does not say.
        header: the header of the readout nearest the centre of k-space.
        calibration_series: the series whose readouts ``calibration`` has, or None.
        noise: the standard deviation of each of the real and imaginary parts, where noise readouts tell it.
        field_of_view_mm: (row, column, slice) extent of the image, also where its place is unknown.
        remarks: what was assumed of the scan or left out, a sentence each.
        fault: why the slice cannot be reconstructed, or None; ``kspace`` lacks its readouts at fault.
        places: where samples lie that are on no grid, (readout, sample, 2) in cycles per field of view of the
            image; ``kspace`` is then (coil, readout, sample), not averaged. None is the grid.
    """

    series: Series
    slice: int
    kspace: ComplexArray
    calibration: ComplexArray | None
    image_shape: tuple[int, int]
    geometry: SliceGeometry | None
    header: np.void
    calibration_series: Series | None = None
    noise: float | None = None
    field_of_view_mm: Vector | None = None
    remarks: tuple[str, ...] = ()
    fault: str | None = None
    places: FloatArray | None = None

    @property
    def n_bytes(self) -> int:
        """The memory that its arrays take."""
        arrays = (self.kspace, self.calibration, self.places)
        return sum(each.nbytes for each in arrays if each is not None)


class SliceBuffer:
    """The sums of the samples of one slice, and how many went into each.

    Attributes:
        header: that of the readout nearest the centre of k-space, or None before the first.
        n_readouts: how many went into it.
    """

    def __init__(self, grid: Grid, n_coils: int) -> None:
        self.n_coils = n_coils
        self.header: np.void | None = None
        self.n_readouts = 0
        self._center_line = grid.center_line
        self._sums: ComplexArray = np.zeros((n_coils, *grid.placed), np.complex64)
        self._counts = np.zeros(grid.placed, np.uint32)

    @property
    def n_bytes(self) -> int:
        """The memory that it takes."""
        return self._sums.nbytes + self._counts.nbytes

    def add(self, rows: slice, column: int, samples: ComplexArray, header: np.void) -> None:
        """Add the samples (coil, row) of one readout."""
        with np.errstate(over="ignore"):  # what overflows is met when the slice is complete
            self._sums[:, rows, column] += samples
        self._counts[rows, column] += 1
        self.n_readouts += 1
        if is_nearer(header, self.header, self._center_line):
            self.header = header.copy()

    def grow(self, n_rows: int) -> None:
        """Make room for readouts that are longer than those so far, to ``n_rows`` around the centre."""
        shape = (n_rows, self._counts.shape[1])
        if n_rows > self._counts.shape[0]:
            self._sums, self._counts = centre_pad(self._sums, shape), centre_pad(self._counts, shape)

    def fitted(self, image: ImageGrid) -> SliceBuffer:
        """Return the rows that were measured, with zeros around them up to the grid of the image."""
        fitted = copy.copy(self)
        n_rows, n_columns = self._counts.shape
        measured = image.measured[0]
        if measured < n_rows:
            start, beyond = n_rows // 2 - measured // 2, n_rows // 2 + measured // 2
            fitted._sums = centre_crop(self._sums, (measured, n_columns)).copy()
            fitted._counts = centre_crop(self._counts, (measured, n_columns)).copy()
            if measured % 2 == 0:
                # As place() does: + n / 2 of reversed readouts is - n / 2, where they reach there.
                whole = self._counts[start + 1] > 0
                fitted._sums[:, 0] += self._sums[:, beyond] * whole
                fitted._counts[0] += self._counts[beyond] * whole
        if fitted._counts.shape != image.shape:
            fitted._sums = centre_pad(fitted._sums, image.shape)
            fitted._counts = centre_pad(fitted._counts, image.shape)
        return fitted

    def averaged(self, matrix: ComplexArray | None) -> ComplexArray:
        """Return k-space (coil, rows, columns), averaged over what was repeated, whitened by a matrix.

        Raises:
            ValueError: the values are too large to be computed with.
        """
        kspace = self._sums
        with np.errstate(over="ignore", invalid="ignore"):
            if self._counts.max() > 1:
                kspace = (kspace / np.maximum(self._counts, 1)).astype(np.complex64)
            if matrix is not None:
                kspace = mix_coils(matrix, kspace)
        if not np.isfinite(kspace).all():
            raise ValueError("values are too large, expected float32 with room to compute")
        return kspace

    def averaged_noise(self) -> float:
        """Return the standard deviation of averaged noise that was 1: root mean square over the samples."""
        counts = self._counts[self._counts > 0].astype(np.float64)
        return float(np.sqrt(np.mean(1 / counts)))

    def too_few_lines(self, n_lines: int) -> str | None:
        """Say that too few of a grid's lines were measured for an image; None where there are enough."""
        measured = len(self.columns())
        if measured * MAX_UNFILLED >= n_lines:
            return None
        return f"{measured} of {n_lines} lines were measured, expected at least one in {MAX_UNFILLED}"

    def columns(self) -> NDArray[np.intp]:
        """Return the columns that have samples."""
        return np.flatnonzero(self._counts.sum(axis=0))

    def centre_columns(self) -> NDArray[np.intp]:
        """Return those of them that form the run around the centre."""
        return centre_run(self.columns(), self._counts.shape[1])


class CalibrationLines:
    """The lines to estimate a slice's maps from, without the zeros between and around them.

    Args:
        series: where they are from.
        columns: which of k-space (coil, rows, columns) they are.
        kspace: the whole of it.
        separate: whether they are no part of an image.

    Attributes:
        width: how many of them form the run around the centre.
        n_bytes: the memory that they take.
    """

    def __init__(
        self, series: Series, columns: NDArray[np.intp], kspace: ComplexArray, separate: bool
    ) -> None:
        self.series, self.separate = series, separate
        self._columns = columns
        self._lines = kspace[:, :, columns]
        self.n_bytes = self._lines.nbytes
        self.width = len(centre_run(columns, kspace.shape[-1]))

    def on_grid(self, shape: tuple[int, ...], conjugated: bool = False) -> ComplexArray:
        """Return k-space (coil, rows, columns) of these lines."""
        kspace = np.zeros(shape, np.complex64)
        kspace[:, :, self._columns] = self._lines.conj() if conjugated else self._lines
        return kspace


def centre_run(columns: NDArray[np.intp], n_columns: int) -> NDArray[np.intp]:
    """Return those of some columns that form the run around the centre of all ``n_columns``."""
    sampled = np.zeros((1, n_columns), np.bool_)
    sampled[0, columns] = True
    block = calibration_block(sampled, (1, n_columns))[1]
    return np.arange(block.start, block.stop)


def middle_columns(columns: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the middle of some columns: what is kept of a slice's own centre for another repetition."""
    cut = max(len(columns) - MAX_KEPT_LINES, 0)
    return columns[cut // 2 : len(columns) - (cut - cut // 2)]
