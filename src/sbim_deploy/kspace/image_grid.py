"""From a header's two spaces to the grid of k-space and the image: one rule for every format.

The image has reconSpace's field of view and, where k-space is not finer, its matrix: k-space is padded with
zeros to its voxels. What the header does not settle is either told, as a remark, or refused with the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import MAX_SLICE_BYTES
from sbim_deploy.mrd.header import Encoding, Space
from sbim_deploy.records import Vector

MAX_RATIO = 64  # of the two fields of view
MAX_OVERSAMPLING = 8
MAX_PADDING = 8  # of k-space with zeros, along each axis
EXTENT_TOLERANCE = 0.02  # of two fields of view that are the same, or one a multiple of the other
PIXEL_TOLERANCE = 1.0  # headers round: half a pixel at either edge

READOUT, PHASE, PARTITION = "readout", "phase encoding", "partition encoding"


@dataclass(frozen=True)
class MeasuredAxis:
    """Samples of k-space along an axis, and the field of view in mm that their distance stands for."""

    samples: int
    extent_mm: float
    remark: str | None = None


@dataclass(frozen=True)
class ImageGrid:
    """The grid of k-space and the image on it.

    Attributes:
        measured: (rows, columns) of the samples, around the centre.
        shape: (rows, columns) that these are padded to with zeros.
        image_shape: (rows, columns) that an image of ``shape`` is cropped to.
        voxel_mm: (row, column, slice) size of its voxels.
        remarks: what was assumed, a sentence each.
    """

    measured: tuple[int, int]
    shape: tuple[int, int]
    image_shape: tuple[int, int]
    voxel_mm: Vector
    remarks: tuple[str, ...] = ()

    @property
    def field_of_view_mm(self) -> Vector:
        """(row, column, slice) extent of the image."""
        rows, columns, depth = self.voxel_mm
        return self.image_shape[0] * rows, self.image_shape[1] * columns, depth


def half(samples: int) -> int:
    """Return how far a line of so many samples reaches from its centre, samples // 2, counted from 1."""
    return (samples + 1) // 2


def measured_readout(encoding: Encoding, reach: int, where: str) -> MeasuredAxis:
    """Return the readout's samples and field of view by how far all readouts reach from their centre.

    Readouts of an integer times the encoded samples are oversampled where the header has none of it. Those of
    the encoded samples over the factor of the two fields of view have had their oversampling removed.

    Args:
        encoding: what the header says.
        reach: the most that lies on one side of the centre, its own sample counting for the later side.
        where: names the scan in error messages.

    Raises:
        InputError: the readouts fit neither, or more than one reading.
    """
    samples, extent = encoding.encoded.matrix_size[0], encoding.encoded.field_of_view_mm[0]
    pixels, wanted = encoding.recon.matrix_size[0], encoding.recon.field_of_view_mm[0]
    said = (
        f"encodedSpace has {samples} samples over {extent:g} mm and reconSpace {pixels} pixels over "
        f"{wanted:g} mm"
    )
    if reach <= half(samples):
        return _with_oversampling_removed(encoding, reach, said, where)
    factor = next((f for f in range(2, MAX_OVERSAMPLING + 1) if reach <= half(f * samples)), 0)
    if not factor or reach != half(factor * samples):
        raise InputError(
            f"{where}: readouts reach {reach} samples from their centre, which do not fit {samples} encoded "
            f"samples, nor an integer times as many: {said}; check center_sample and the encoded matrix"
        )
    n = factor * samples
    as_encoded = _is_near(extent / samples, wanted / pixels)
    if not as_encoded and _is_near(extent / n, wanted / pixels):
        if extent < 1.5 * wanted:
            raise InputError(
                f"{where}: readouts have {n} samples, either {factor} times oversampled or {factor} times as "
                f"fine as the header says: {said}; repair the header"
            )
        return MeasuredAxis(n, extent, f"readouts have {n} samples: encodedSpace's {samples} was left aside")
    return MeasuredAxis(
        n,
        factor * extent,
        f"readouts have {n} samples where encodedSpace has {samples}: taken as {factor} times oversampled, "
        f"over {factor * extent:g} mm",
    )


def measured_lines(encoding: Encoding) -> MeasuredAxis:
    """Return the lines that the header says were encoded, and their field of view."""
    return MeasuredAxis(encoding.encoded.matrix_size[1], encoding.encoded.field_of_view_mm[1])


def measured_array(encoding: Encoding, shape: tuple[int, int], where: str) -> tuple[MeasuredAxis, ...]:
    """Return the axes of an array (rows, columns) of k-space that is stored whole, readout along the rows.

    Raises:
        InputError: the array has more samples than were encoded, and no reading explains them.
    """
    rows = measured_readout(encoding, half(shape[0]), where)
    if rows.samples != shape[0]:  # less of the same field of view, or the odd one of an even number
        rows = MeasuredAxis(shape[0], rows.extent_mm, rows.remark)
    lines, extent = encoding.encoded.matrix_size[1], encoding.encoded.field_of_view_mm[1]
    wanted = encoding.recon.field_of_view_mm[1]
    columns = MeasuredAxis(shape[1], extent)
    if shape[1] != lines and _is_near(shape[1] / lines, wanted / extent):
        columns = MeasuredAxis(
            shape[1],
            wanted,
            f"k-space has {shape[1]} columns where encodedSpace has {lines}: its phase oversampling is taken "
            "as removed",
        )
    elif shape[1] > lines:
        raise InputError(
            f"{where}: k-space has {shape[1]} columns where encodedSpace has {lines} over {extent:g} mm and "
            f"reconSpace {encoding.recon.matrix_size[1]} over {wanted:g} mm: whether they are padded or "
            "oversampled is not said; repair the header or remove it"
        )
    return rows, columns


def image_grid(
    rows: MeasuredAxis,
    columns: MeasuredAxis,
    recon: Space,
    where: str,
    names: tuple[str, str] = (READOUT, PHASE),
) -> ImageGrid:
    """Return the grid of an image by what was measured and what reconSpace asks for; ``names`` are the axes'.

    Raises:
        InputError: the fields of view are too unlike, or the grid is larger than any slice that is read.
    """
    fits = [
        fit_axis(name, axis, recon.matrix_size[place], recon.field_of_view_mm[place], where)
        for place, (name, axis) in enumerate(zip(names, (rows, columns), strict=True))
    ]
    shape = (fits[0].grid, fits[1].grid)
    if shape[0] * shape[1] * np.dtype(np.complex64).itemsize > MAX_SLICE_BYTES:
        raise InputError(f"{where}: a grid of {shape} is too large, expected at most {MAX_SLICE_BYTES} bytes")
    said = [rows.remark, columns.remark, *(fit.remark for fit in fits)]
    return ImageGrid(
        measured=(rows.samples, columns.samples),
        shape=shape,
        image_shape=(fits[0].pixels, fits[1].pixels),
        voxel_mm=(fits[0].voxel_mm, fits[1].voxel_mm, recon.field_of_view_mm[2] / recon.matrix_size[2]),
        remarks=tuple(remark for remark in said if remark is not None),
    )


def check_slice_fits(n_coils: int, shape: tuple[int, int], where: str) -> None:
    """Check that a slice of all coils on a grid (rows, columns) is no larger than any that is read.

    A header of a few bytes can ask for a grid far larger than what was measured.

    Raises:
        InputError: it is.
    """
    n_bytes = n_coils * shape[0] * shape[1] * np.dtype(np.complex64).itemsize
    if n_bytes > MAX_SLICE_BYTES:
        raise InputError(
            f"{where}: {n_coils} coils on a grid of {shape[0]} x {shape[1]} take {n_bytes} bytes, expected "
            f"at most {MAX_SLICE_BYTES}; check the matrix sizes, or compress the coils"
        )


def is_square_crop(image: tuple[int, int], stored: tuple[int, int], grid: tuple[int, int]) -> bool:
    """Tell whether an image is square with the narrower side of k-space: fastMRI crops references so.

    k-space of 640 x 203 samples has one of 203 x 203 pixels where others have reconSpace's 320 x 320
    (crop_size in fastmri/data/transforms.py). Pixels are k-space's own; along an axis that ``grid`` pads to
    finer ones the image has to have all of them, or it could not be interpolated.

    Args:
        image: (rows, columns) of the image.
        stored: (rows, columns) of k-space in the file.
        grid: (rows, columns) that these are padded to.
    """
    side = min(stored)
    return image == (side, side) != stored and all(
        samples in (side, padded) for samples, padded in zip(stored, grid, strict=True)
    )


@dataclass(frozen=True)
class AxisFit:
    """One axis: samples of the padded grid, pixels of the image, their size, and what was assumed."""

    grid: int
    pixels: int
    voxel_mm: float
    remark: str | None = None


def fit_axis(name: str, axis: MeasuredAxis, pixels: int, wanted_mm: float, where: str) -> AxisFit:
    """Return the grid of an axis by what was measured and what reconSpace asks for; ``name`` is the axis's.

    Raises:
        InputError: the fields of view are too unlike, or the grid is much larger than what was measured.
    """
    fit = _fit(name, axis, pixels, wanted_mm, where)
    if fit.grid > MAX_PADDING * axis.samples:
        raise InputError(
            f"{where}: reconSpace asks for {fit.grid} samples along the {name} where {axis.samples} are "
            f"measured, expected at most {MAX_PADDING} times as many; check the matrix sizes"
        )
    return fit


def _fit(name: str, axis: MeasuredAxis, pixels: int, wanted_mm: float, where: str) -> AxisFit:
    samples, extent = axis.samples, axis.extent_mm
    if not 1 / MAX_RATIO <= extent / wanted_mm <= MAX_RATIO:
        raise InputError(
            f"{where}: encodedSpace is {extent / wanted_mm:g} times as wide as reconSpace, expected at most "
            f"{MAX_RATIO} times; check the fields of view"
        )
    remark = None
    if wanted_mm > extent * (1 + PIXEL_TOLERANCE / pixels):
        # Beyond what was encoded there is nothing to show.
        covered = max(round(pixels * extent / wanted_mm), 1)
        remark = (
            f"reconSpace is {wanted_mm:g} mm wide along the {name}, more than the {extent:g} mm encoded: the "
            f"image ends there, {covered} of {pixels} pixels"
        )
        pixels, wanted_mm = covered, extent
    native = samples * wanted_mm / extent  # pixels of the size that was measured
    if abs(native - pixels) <= PIXEL_TOLERANCE:
        return AxisFit(max(samples, pixels), pixels, wanted_mm / pixels, remark)
    if native < pixels:
        padded = max(round(pixels * extent / wanted_mm), pixels)
        return AxisFit(padded, pixels, wanted_mm / pixels, remark)
    if name == READOUT and samples % pixels == 0 and _is_near(extent, wanted_mm):
        remark = (
            f"{samples} samples over {extent:g} mm where the image has {pixels}: taken as "
            f"{samples // pixels} times oversampled, over {samples // pixels * extent:g} mm"
        )
        return AxisFit(samples, pixels, wanted_mm / pixels, remark)
    kept = round(native)
    remark = (
        f"reconSpace has {pixels} pixels over {wanted_mm:g} mm along the {name}, coarser than what was "
        f"measured, which is kept: {kept} pixels"
    )
    return AxisFit(max(samples, kept), kept, wanted_mm / kept, remark)


def _with_oversampling_removed(encoding: Encoding, reach: int, said: str, where: str) -> MeasuredAxis:
    samples, extent = encoding.encoded.matrix_size[0], encoding.encoded.field_of_view_mm[0]
    factor = round(extent / encoding.recon.field_of_view_mm[0])
    as_header = MeasuredAxis(samples, extent)
    multiple = factor >= 2 and _is_near(extent, factor * encoding.recon.field_of_view_mm[0])
    if not multiple or samples % factor:
        return as_header
    rest = samples // factor
    if reach == half(rest):
        remark = (
            f"readouts have {rest} samples where encodedSpace has {samples} over {extent:g} mm: their "
            f"{factor} times oversampling is taken as removed"
        )
        return MeasuredAxis(rest, extent / factor, remark)
    if reach < half(rest):
        raise InputError(
            f"{where}: readouts reach {reach} samples from their centre, either of {samples} or, with their "
            f"oversampling removed, of {rest}: {said}; pad the readouts with zeros or repair the header"
        )
    return as_header


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= EXTENT_TOLERANCE * other
