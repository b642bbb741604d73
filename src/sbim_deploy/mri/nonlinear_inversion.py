"""Coil-sensitivity maps by regularised nonlinear inversion: image and maps together, from every sample.

Uecker, Hohage, Block, Frahm, "Image reconstruction by regularized nonlinear inversion - joint estimation of
coil sensitivities and image content", Magn Reson Med 60:674-682 (2008), doi 10.1002/mrm.21691. The maps are
told from the image by their smoothness, so few calibration lines are enough. None are needed where sampling
is irregular; a regular lattice of samples alone leaves maps and image ambiguous.

Coil maps are smooth, so the inversion runs on the centre of k-space, with the image at that resolution, and
the maps' few Fourier coefficients give them on any grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.fft

from sbim_deploy.mri.combine import normalise_maps
from sbim_deploy.mri.compression import compression_matrix
from sbim_deploy.mri.conjugate_gradients import conjugate_gradients
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray

# A map's coefficient of n cycles per field of view is weighted by (1 + SOBOLEV_SCALE n^2)^-SOBOLEV_POWER:
# equation 8 of the paper, with its constants at a grid of 128 samples and twice its power, which gave the
# truest maps on simulated heads.
SOBOLEV_SCALE, SOBOLEV_POWER = 220 / 128**2, 16.0
N_COEFFICIENTS = 17  # along each axis: beyond 8 cycles the weight is below 1e-4
COARSE_GRID = 64  # samples along each axis; 128 gave the same maps
MAX_VIRTUAL_COILS = 16
N_STEPS = 12
CG_TOLERANCE, MAX_CG_ITERATIONS = 0.2, 100
# The regularisation starts at 1, which has its meaning at this root mean square of the data over the grid:
# that of BART's `nlinv` at 128 x 128.
DATA_RMS = 100 / 128


def nonlinear_inversion_maps(
    kspace: ComplexArray, mask: BoolArray, check: Callable[[], None] = lambda: None
) -> ComplexArray:
    """Estimate one set of coil-sensitivity maps from undersampled k-space (doi 10.1002/mrm.21691).

    The phase of a pixel is shared so that the maps are smooth, and the image has what is left. The result
    depends on the samples' unit by rounding alone, and is the same in every run.

    Args:
        kspace: complex64 (coil, rows, columns), centred, zero where it was not sampled, in any unit.
        mask: (1, columns), (rows, 1) or (rows, columns).
        check: called before every step; what it raises ends the work.

    Returns:
        Maps (coil, rows, columns) with unit root sum of squares over the coils; zero for a coil that
        measured zeros.

    Raises:
        ValueError: a shape does not fit, a sample is not finite, or the centre of k-space holds no signal.
    """
    _check(kspace, mask)
    if mask.shape[0] > mask.shape[1] == 1:
        transposed = nonlinear_inversion_maps(kspace.swapaxes(-2, -1), mask.T, check)
        return np.ascontiguousarray(transposed.swapaxes(-2, -1))
    n_coils, *shape = kspace.shape
    coarse = [min(n, COARSE_GRID) for n in shape]
    centre_mask = centre_crop(mask, [min(n, m) for n, m in zip(mask.shape, coarse, strict=True)])
    centre = centre_crop(kspace, coarse) * centre_mask
    largest = np.abs(centre).max()
    if largest == 0:
        raise ValueError(
            f"k-space: got zeros only in its {coarse[0]} x {coarse[1]} centre, expected a signal"
        )
    centre /= largest
    matrix = compression_matrix(centre, min(n_coils, MAX_VIRTUAL_COILS))
    coefficients = _invert(np.tensordot(matrix, centre, 1), centre_mask, check)
    coefficients = np.tensordot(matrix.conj().T, coefficients, 1)
    coefficients[~centre.any(axis=(1, 2))] = 0
    along_rows, along_columns = (
        _fourier_sum(n, m) for n, m in zip(shape, coefficients.shape[1:], strict=True)
    )
    maps: ComplexArray = (along_rows @ coefficients @ along_columns.T).astype(np.complex64, copy=False)
    return normalise_maps(maps)


class JointModel:
    """What the coils measure, F(image, maps) = P F (image * maps), and its derivative at one point.

    A point is one vector: the image (rows, columns), then the maps' weighted Fourier coefficients (coil, m,
    n). The mask is (1, columns), where k-space is already an image along the rows, or (rows, columns).
    Images and k-space are not shifted along the axes of the transform: their zero is at index 0.
    """

    def __init__(self, mask: BoolArray, n_coils: int, shape: tuple[int, int]):
        self.axes = (-1,) if mask.shape[0] == 1 else (-2, -1)
        self.image_shape = shape
        self.coefficient_shape = (n_coils, *(min(n, N_COEFFICIENTS) for n in shape))
        self._mask = np.fft.ifftshift(mask, axes=self.axes)
        rows, columns = (_fourier_sum(n, m) for n, m in zip(shape, self.coefficient_shape[1:], strict=True))
        self._rows = np.fft.ifftshift(rows, axes=0) if -2 in self.axes else rows
        self._columns = np.ascontiguousarray(np.fft.ifftshift(columns, axes=0).T)
        self._rows_adjoint = np.ascontiguousarray(self._rows.conj().T)
        self._columns_adjoint = np.ascontiguousarray(self._columns.conj().T)
        self.weights = _sobolev_weights(self.coefficient_shape[1:])
        self.size = math.prod(shape) + math.prod(self.coefficient_shape)

    def split(self, point: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        """Return views of the image and the coefficients of a point."""
        n_pixels = math.prod(self.image_shape)
        image, coefficients = point[:n_pixels], point[n_pixels:]
        return image.reshape(self.image_shape), coefficients.reshape(self.coefficient_shape)

    def measure(self, point: ComplexArray) -> ComplexArray:
        """Return F at a point, which becomes the point of :meth:`derivative` and :meth:`adjoint`."""
        image, coefficients = self.split(point)
        self._image, self._maps = image.copy(), self._sum(coefficients)
        self._image_conjugate, self._maps_conjugate = self._image.conj(), self._maps.conj()
        return self._sample(self._image * self._maps)

    def derivative(self, change: ComplexArray) -> ComplexArray:
        """Return DF applied to a change of the point."""
        image, coefficients = self.split(change)
        coil_images = self._sum(coefficients)
        coil_images *= self._image
        coil_images += self._maps * image
        return self._sample(coil_images)

    def adjoint(self, kspace: ComplexArray) -> ComplexArray:
        """Return DF^H applied to sampled k-space (coil, rows, columns), which is overwritten."""
        coil_images = scipy.fft.ifftn(kspace, axes=self.axes, norm="ortho", overwrite_x=True)
        result = np.empty(self.size, np.complex64)
        image, coefficients = self.split(result)
        np.einsum("cyx,cyx->yx", self._maps_conjugate, coil_images, out=image)
        coil_images *= self._image_conjugate
        np.matmul(self._rows_adjoint, coil_images @ self._columns_adjoint, out=coefficients)
        coefficients *= self.weights
        return result

    def _sum(self, coefficients: ComplexArray) -> ComplexArray:
        maps: ComplexArray = (self._rows @ (coefficients * self.weights)) @ self._columns
        return maps

    def _sample(self, coil_images: ComplexArray) -> ComplexArray:
        kspace: ComplexArray = scipy.fft.fftn(coil_images, axes=self.axes, norm="ortho", overwrite_x=True)
        kspace *= self._mask
        return kspace


def _invert(kspace: ComplexArray, mask: BoolArray, check: Callable[[], None]) -> ComplexArray:
    """Return the Fourier coefficients (coil, m, n) of the maps: the iteratively regularised Gauss-Newton.

    Equation 5 of the paper, where the regularisation draws towards zero, so that the image vanishes where
    there is no signal; it halves at each step.
    """
    n_coils, rows, columns = kspace.shape
    model = JointModel(mask, n_coils, (rows, columns))
    if -2 not in model.axes:
        kspace = centred_ifft(kspace, axes=(-2,))
    data = np.fft.ifftshift(kspace, axes=model.axes)
    data = (data * (DATA_RMS * math.sqrt(rows * columns) / np.linalg.norm(data))).astype(np.complex64)
    point = np.zeros(model.size, np.complex64)
    image, coefficients = model.split(point)
    image[:] = 1
    for step in range(N_STEPS):
        check()
        regularisation = np.float32(0.5**step)
        gradient = model.adjoint(data - model.measure(point))
        gradient -= regularisation * point
        point += _solve(model, gradient, regularisation)
    result: ComplexArray = coefficients * model.weights
    return result


def _solve(model: JointModel, residual: ComplexArray, regularisation: np.float32) -> ComplexArray:
    """Return (DF^H DF + regularisation)^-1 residual by conjugate gradients; the residual is overwritten."""

    def normal(direction: ComplexArray) -> ComplexArray:
        applied = model.adjoint(model.derivative(direction))
        applied += regularisation * direction
        return applied

    goal = CG_TOLERANCE**2 * np.vdot(residual, residual).real
    return conjugate_gradients(normal, residual, goal, MAX_CG_ITERATIONS)


def _sobolev_weights(shape: tuple[int, ...]) -> FloatArray:
    y, x = (np.arange(n) - n // 2 for n in shape)
    weights: FloatArray = ((1 + SOBOLEV_SCALE * (y[:, None] ** 2 + x**2)) ** -SOBOLEV_POWER).astype(
        np.float32
    )
    return weights


def _fourier_sum(n: int, n_coefficients: int) -> ComplexArray:
    """Return the (n, coefficient) matrix of the centred, orthonormal inverse Fourier transform's middle."""
    positions, cycles = (np.arange(m) - m // 2 for m in (n, n_coefficients))
    phasors = np.exp(2j * np.pi / n * np.outer(positions, cycles))
    matrix: ComplexArray = (phasors / math.sqrt(n)).astype(np.complex64)
    return matrix


def _check(kspace: ComplexArray, mask: BoolArray) -> None:
    if kspace.ndim != 3 or kspace.shape[0] < 1:
        raise ValueError(f"k-space: got shape {kspace.shape}, expected (coil, rows, columns)")
    rows, columns = kspace.shape[1:]
    if mask.shape not in ((1, columns), (rows, 1), (rows, columns)):
        raise ValueError(
            f"mask: got shape {mask.shape}, expected (1, {columns}), ({rows}, 1) or ({rows}, {columns})"
        )
    if not np.isfinite(kspace).all():
        raise ValueError("k-space: got NaN or infinite samples, expected finite ones")
