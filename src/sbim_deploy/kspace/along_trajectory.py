"""k-space along a trajectory: samples (coil, readout, sample), and where each of them lies.

The samples are of a file of arrays or of BART's, and the trajectory of a file of its own. BART's and SigPy's
trajectories are in cycles per field of view, others in cycles per pixel or in radians per pixel; by how far
they reach these are told apart, which is said.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import open_arrays
from sbim_deploy.io.hdf5 import MAX_SLICE_BYTES
from sbim_deploy.io.layouts import COIL, COLUMN, MAX_COILS, ROW, SLICE, UNNAMED, Reading
from sbim_deploy.kspace.arrays import KSPACE_NAMES, choose_array, open_array_kspace
from sbim_deploy.kspace.bare import BareKspace
from sbim_deploy.kspace.cfl import SLICE as CFL_SLICE
from sbim_deploy.kspace.cfl import is_cfl, read_cfl, read_sizes
from sbim_deploy.kspace.image_grid import MAX_PADDING, check_slice_fits
from sbim_deploy.mrd.orientation import conjugation_remark
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray, Vector

CYCLES_PER_FOV, CYCLES_PER_PIXEL, RADIANS = (
    "cycles per field of view",
    "cycles per pixel",
    "radians per pixel",
)
# The corner of k-space is at 0.71 cycles per pixel, which is 4.44 radians.
MAX_CYCLES_PER_PIXEL, MAX_RADIANS = 0.75, 4.5
MIN_MATRIX, MAX_MATRIX = 16, 1024
BEYOND = 1.03  # times n / 2: so far a trajectory may reach beyond what n pixels resolve
NEAR_CENTRE = 1.5  # cycles per field of view; of a grid's samples one is within 0.71
FLAT = 1e-3  # of the reach: a third component that is less is none
MIN_RESOLVED = 0.9  # of the image's pixels


class NonCartesianKspace(ABC):
    """An open source of k-space whose samples lie on a trajectory; the images are on a grid of ``matrix``.

    :class:`sbim_deploy.kspace.sources.KspaceSource` says what its other parts are.
    """

    path: Path
    n_rows: int
    n_columns: int

    @abstractmethod
    def read_noise(self, index: int) -> float | None:
        """Return the standard deviation of each part of a slice's samples, or None where nothing tells it."""

    @abstractmethod
    def read_whitening(self, index: int) -> ComplexArray | None:
        """Return the (coil, coil) matrix that mixed a slice's coils as they were read, or None."""

    @abstractmethod
    def read_trajectory(self, index: int) -> FloatArray:
        """Return where a slice's samples lie, (readout, sample, 2), in cycles per field of view."""


@dataclass(frozen=True, eq=False)
class Places:
    """A trajectory (..., readout, sample, 2) in cycles per field of view, and what was assumed of it."""

    values: FloatArray
    matrix: tuple[int, int]
    remarks: tuple[str, ...]


class KspaceAlongTrajectory(BareKspace, NonCartesianKspace):
    """Samples of a file of arrays or of BART's, with the trajectory of another file.

    Attributes:
        n_rows, n_columns, stored_shape, recon_shape: of the image.
        mask, voxel_mm: None, neither file says.
        conjugated: whether k-space is conjugated as it is read.

    Raises:
        InputError: a file cannot be read, is no k-space or no trajectory, or they do not fit each other.
    """

    mask: BoolArray | None = None
    voxel_mm: Vector | None = None
    conjugated = False

    def __init__(
        self, path: Path, trajectory: Path, matrix: tuple[int, int] | None, reading: Reading
    ) -> None:
        self.path = path
        stored = read_trajectory_file(trajectory)
        self._places = in_cycles(stored, matrix, str(trajectory))
        self.n_rows, self.n_columns = self.stored_shape = self._places.matrix
        self.recon_shape: tuple[int, int] | None = self.stored_shape
        readouts = (stored.shape[-3], stored.shape[-2])
        self._samples = (
            _CflSamples(path, readouts) if is_cfl(path) else _ArraySamples(path, readouts, reading)
        )
        self.n_slices, self.n_coils = self._samples.n_slices, self._samples.n_coils
        check_slice_fits(self.n_coils, self.stored_shape, str(path))
        if stored.ndim > 3 and len(stored) not in (1, self.n_slices):
            raise InputError(
                f"{trajectory}: has trajectories of {len(stored)} slices, expected 1 or {self.n_slices} as "
                f"{path} has"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._samples.__exit__(*error)

    def read_slice(self, index: int) -> ComplexArray:
        """Read the samples of one slice, complex64 (coil, readout, sample).

        Raises:
            InputError: no such slice, damaged data, or values that are not finite.
        """
        kspace = self._samples.read_slice(index)
        return kspace.conj() if self.conjugated else kspace

    def read_trajectory(self, index: int) -> FloatArray:
        """Return where a slice's samples lie; see :class:`NonCartesianKspace`."""
        values = self._places.values
        if values.ndim == 3:
            return values
        of_slice: FloatArray = values[min(index, len(values) - 1)]
        return of_slice

    def read_noise(self, index: int) -> float | None:
        """Return None: such a file does not tell the level of its noise."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return what the files are, as JSON's types."""
        assumed = [*self._places.remarks, *([conjugation_remark()] if self.conjugated else [])]
        return {"format": f"{self._samples.kind} along a trajectory", "assumed": assumed or None}


class _ArraySamples:
    """Samples in a file of arrays, whose axes the trajectory's sizes tell unless they are named."""

    kind = "array"

    def __init__(self, path: Path, readouts: tuple[int, int], reading: Reading) -> None:
        layout = reading.layout or _layout_of(path, readouts, reading.variable)
        self._source = open_array_kspace(path, Reading(layout, reading.variable))
        self.n_slices, self.n_coils = self._source.n_slices, self._source.n_coils
        found = self._source.stored_shape
        self._is_turned = found != readouts and found == readouts[::-1]
        if found != readouts and not self._is_turned:
            self.__exit__(None, None, None)
            raise _unlike(path, found, readouts)

    def __exit__(self, *error: object) -> None:
        self._source.__exit__(*error)

    def read_slice(self, index: int) -> ComplexArray:
        kspace = self._source.read_slice(index)
        return np.ascontiguousarray(kspace.swapaxes(-2, -1)) if self._is_turned else kspace


class _CflSamples:
    """Samples of BART, (1, sample, readout, coil), with slices at axis 13."""

    kind = "BART .cfl"

    def __init__(self, path: Path, readouts: tuple[int, int]) -> None:
        self.path = path
        sizes = read_sizes(path)
        one, samples, lines, self.n_coils = sizes[:4]
        self.n_slices = sizes[CFL_SLICE]
        others = [size for axis, size in enumerate(sizes) if axis > 3 and axis != CFL_SLICE]
        if one != 1 or max(others) > 1 or self.n_coils > MAX_COILS:
            raise InputError(
                f"{path}: has sizes {sizes}, expected 1, samples, readouts, coils and slices at axis 13, as "
                "bart nufft has them"
            )
        if (lines, samples) != readouts:
            raise _unlike(path, (lines, samples), readouts)
        _check_size(path, samples * lines * self.n_coils)

    def __exit__(self, *_: object) -> None:
        pass

    def read_slice(self, index: int) -> ComplexArray:
        if not 0 <= index < self.n_slices:
            raise InputError(f"{self.path}: no slice {index}, expected 0 to {self.n_slices - 1}")
        stored = read_cfl(self.path)
        slices = stored.reshape(*stored.shape[1:4], self.n_slices, order="F")
        kspace: ComplexArray = np.ascontiguousarray(slices[..., index].transpose(2, 1, 0))
        if not np.isfinite(kspace).all():
            raise InputError(f"{self.path}: slice {index} has values that are not finite; repair the file")
        return kspace


def read_trajectory_file(path: Path) -> FloatArray:
    """Read a trajectory as it is stored, (readout, sample, 2) or (slice, readout, sample, 2).

    BART's is (3, sample, readout), with slices at axis 13; others end with the components. A third component
    of zeros is left out.

    Raises:
        InputError: the file cannot be read, or is no trajectory.
    """
    stored: NDArray[Any]
    if is_cfl(path):
        sizes = read_sizes(path)
        _check_size(path, int(np.prod(sizes)))
        if (
            sizes[0] not in (2, 3)
            or max(size for axis, size in enumerate(sizes) if axis not in (0, 1, 2, 13)) > 1
        ):
            raise InputError(
                f"{path}: has sizes {sizes}, expected 3, samples, readouts, as bart traj writes them"
            )
        stored = read_cfl(path).reshape(*sizes[:3], sizes[CFL_SLICE], order="F").transpose(3, 2, 1, 0)
        if sizes[CFL_SLICE] == 1:
            stored = stored[0]
    else:
        stored = _stored_array(path)
    if stored.dtype.kind == "c":
        if np.abs(stored.imag).max(initial=0) > 0:
            raise InputError(f"{path}: the trajectory has imaginary parts, expected real numbers")
        stored = stored.real
    if stored.dtype.kind not in "fiu" or stored.ndim not in (2, 3, 4) or stored.shape[-1] not in (2, 3):
        raise InputError(
            f"{path}: has shape {stored.shape} of {stored.dtype}, expected a trajectory (readout, sample, 2) "
            "of real numbers"
        )
    if not np.isfinite(stored).all():
        raise InputError(f"{path}: the trajectory has values that are not finite; repair the file")
    stored = stored[None] if stored.ndim == 2 else stored
    reach = np.abs(stored).max(initial=0)
    if not reach:
        raise InputError(f"{path}: the trajectory is zero everywhere, expected places of samples")
    if stored.shape[-1] == 3 and np.abs(stored[..., 2]).max() > FLAT * reach:
        raise InputError(
            f"{path}: the trajectory is three-dimensional, expected one of 2D slices: of a stack of stars or "
            "of spirals give the trajectory of one partition, in two dimensions, and say --dimensions 3"
        )
    return np.ascontiguousarray(stored[..., :2], dtype=np.float32)


def in_cycles(stored: FloatArray, matrix: tuple[int, int] | None, where: str) -> Places:
    """Return a trajectory in cycles per field of view, and the image's matrix where none is given.

    Raises:
        InputError: its unit needs a matrix and there is none, it reaches beyond what the matrix resolves, or
            it does not go near the centre of k-space.
    """
    reach = np.abs(stored).max(axis=tuple(range(stored.ndim - 1)))
    largest = float(reach.max())
    unit = CYCLES_PER_FOV
    if largest <= MAX_RADIANS:
        unit = CYCLES_PER_PIXEL if largest <= MAX_CYCLES_PER_PIXEL else RADIANS
        if matrix is None:
            raise InputError(
                f"{where}: reaches {largest:.3g}, which is in {unit}: say by --matrix how many rows and "
                "columns the image has, such as --matrix 128x128"
            )
    guessed = matrix is None
    if matrix is None:
        matrix = _matrix_of(reach, where)
    remarks = [f"the trajectory, which reaches {largest:.4g}, is taken to be in {unit}"]
    if guessed:
        remarks.append(f"the image has {matrix[0]} x {matrix[1]} pixels, which is what it resolves")
    factor = {CYCLES_PER_FOV: 1.0, CYCLES_PER_PIXEL: 1.0, RADIANS: 1 / (2 * np.pi)}[unit]
    pixels = np.array([1, 1] if unit == CYCLES_PER_FOV else matrix) * factor
    values = (stored * pixels).astype(np.float32)
    remarks += check_places(values, matrix, where)
    return Places(values, matrix, tuple(remarks))


def check_places(values: FloatArray, matrix: tuple[int, int], where: str) -> list[str]:
    """Check how far a trajectory in cycles per field of view reaches; return what is to be said of it.

    Raises:
        InputError: it reaches beyond what the matrix resolves, or does not go near the centre of k-space.
    """
    reach = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
    for axis, (far, n) in enumerate(zip(reach.tolist(), matrix, strict=True)):
        if far > BEYOND * n / 2:
            raise InputError(
                f"{where}: reaches {far:.4g} cycles per field of view along the {('rows', 'columns')[axis]}, "
                f"and {n} pixels resolve {n / 2:g}: give a larger --matrix, or the trajectory in its unit"
            )
    nearest = float(np.hypot(*np.moveaxis(values, -1, 0)).min())
    if nearest > NEAR_CENTRE:
        raise InputError(
            f"{where}: its sample nearest the centre of k-space is {nearest:.3g} cycles per field of view "
            "away, expected one at it: the centre is 0, so subtract it if yours is n / 2"
        )
    resolved = [2 * far for far in reach.tolist()]
    if max(matrix) > MAX_PADDING * max(resolved):
        raise InputError(
            f"{where}: resolves {resolved[0]:.0f} x {resolved[1]:.0f} pixels and the image has {matrix[0]} x "
            f"{matrix[1]}, expected at most {MAX_PADDING} times as many; check the image's matrix, or the "
            "trajectory's unit"
        )
    if any(each < MIN_RESOLVED * n for each, n in zip(resolved, matrix, strict=True)):
        return [
            f"the trajectory resolves {resolved[0]:.0f} x {resolved[1]:.0f} of the image's {matrix[0]} x "
            f"{matrix[1]} pixels"
        ]
    return []


def _matrix_of(reach: NDArray[Any], where: str) -> tuple[int, int]:
    rows, columns = (2 * round(float(far)) for far in reach)
    if not all(MIN_MATRIX <= n <= MAX_MATRIX for n in (rows, columns)):
        raise InputError(
            f"{where}: resolves {rows} x {columns} pixels, expected {MIN_MATRIX} to {MAX_MATRIX}: check its "
            "unit, which is cycles per field of view, or say --matrix"
        )
    return rows, columns


def _stored_array(path: Path) -> NDArray[Any]:
    with open_arrays(path) as file:
        held = [each for each in file.arrays.values() if each.is_real and each.n_axes >= 2]
        if len(held) != 1:
            raise InputError(
                f"{path}: holds {file.listed()}, expected one array of real numbers, the trajectory "
                "(readout, sample, 2)"
            )
        (array,) = held
        _check_size(path, int(np.prod(array.shape)))
        return array.read((slice(None),) * len(array.shape))


def _layout_of(path: Path, readouts: tuple[int, int], variable: str | None) -> str:
    """Return the axes of samples: the last ones of the trajectory's sizes are readouts and samples."""
    with open_arrays(path) as file:
        shape = choose_array(file, variable, KSPACE_NAMES, "k-space").shape
    names = [UNNAMED] * len(shape)
    for wanted, name in ((readouts[1], COLUMN), (readouts[0], ROW)):
        free = [axis for axis, size in enumerate(shape) if size == wanted and names[axis] == UNNAMED]
        if not free:
            raise _unlike(path, shape, readouts)
        names[free[-1]] = name
    rest = [axis for axis in range(len(shape)) if names[axis] == UNNAMED]
    rest.sort(key=lambda axis: (shape[axis] > 1, axis))
    if sum(shape[axis] > 1 for axis in rest) > 2:
        raise _unlike(path, shape, readouts)
    for axis, name in zip(reversed(rest), (COIL, SLICE), strict=False):
        names[axis] = name
    return ",".join(name for name in names if name != UNNAMED)


def _unlike(path: Path, found: tuple[int, ...], readouts: tuple[int, int]) -> InputError:
    return InputError(
        f"{path}: has shape {found}, expected (slice, coil, readout, sample) with {readouts[0]} readouts of "
        f"{readouts[1]} samples as the trajectory has"
    )


def _check_size(path: Path, n_items: int) -> None:
    if 8 * n_items > MAX_SLICE_BYTES:
        raise InputError(f"{path}: takes {8 * n_items} bytes, expected at most {MAX_SLICE_BYTES}; split it")
