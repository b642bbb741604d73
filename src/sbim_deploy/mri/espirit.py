"""ESPIRiT coil-sensitivity maps from the fully sampled centre of k-space: one set, or two for soft SENSE.

Uecker et al., "ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI: where SENSE meets GRAPPA",
Magn Reson Med 71:990-1001 (2014), doi 10.1002/mrm.24751, section Theory, whose V_parallel, W and G_q appear
below. Options and defaults follow ``bart ecalib -m1``.

G_q is a trigonometric polynomial of degree kernel_width - 1 over the field of view, so its first eigenvectors
are found on a coarse grid and carried to the image grid by a periodic cubic spline. Interpolation and power
iteration are also among the accelerations of Lobos et al., arXiv 2302.13431.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sbim_deploy.mri.fourier import IMAGE_AXES, centre_crop, centre_pad, centred_ifft
from sbim_deploy.records import ComplexArray, FloatArray

# BART's default -r. A wider region adds noise and no signal: the noise's singular values grow with the
# number of windows, and from 64 samples on they can pass the threshold, which is relative to the largest one,
# so that no null space is left. From 20 to 40 samples the maps are the same.
CALIB_WIDTH = 24
POWER_ITERATIONS = 30  # as BART
GRID_POINTS_PER_KERNEL_SAMPLE = 12  # on the object the maps are those of the full grid to about 1e-5
EIGENVALUE_FLOOR = 1e-6  # keeps the power iteration from dividing by zero where no coil sees anything
THRESHOLD = 0.001  # BART's default -t
SET_CROP = 0.8  # BART's default -c
# Of 150 simulated heads with room around them none had so much energy where the second eigenvalue is above
# 0.9, of 150 that fill the field of view to 91 to 98 % two had. Of 150 whose field of view is 65 to 86 % of
# their width 132 had: 49 of 52 with 20 calibration lines or more, 83 of 98 with 16 to 19.
SECOND_EIGENVALUE, SECOND_SET_SHARE = 0.9, 0.01
SEARCH_GRID = (32, 32)  # fine enough for G_q, and for 24 x 24 calibration samples


def espirit_maps(
    calibration: ComplexArray,
    shape: tuple[int, int],
    *,
    kernel_width: int = 6,
    threshold: float = THRESHOLD,
    crop: float = 0.0,
) -> ComplexArray:
    """Estimate one set of coil-sensitivity maps (ESPIRiT, doi 10.1002/mrm.24751).

    The coils' first principal component is real and positive in every pixel: this fixes the phase of the maps
    up to one constant.

    Args:
        calibration: Fully sampled centre of the centred k-space, (coil, ky, kx), in any unit. A side longer
            than 24 samples is cut to them around its centre: more would add noise alone.
        shape: Rows and columns of the image grid, which spans the calibration's field of view.
        kernel_width: Side of the square k-space kernels, in samples (BART's -k).
        threshold: Kernels whose squared singular value is at most this fraction of the largest belong to the
            null space (BART's -t).
        crop: Maps are zero where the largest eigenvalue, about 1 on the object, is below this (BART's -c,
            whose default is 0.8).

    Returns:
        Maps (coil, rows, columns) with unit root sum of squares over the coils, or zero where cropped.

    Raises:
        ValueError: The calibration is smaller than the kernel, not finite or all zero, or an option is out of
            its range.
    """
    _check_options(shape, kernel_width, threshold, crop)
    _check_calibration(calibration, kernel_width)
    calibration, _ = _cut_and_scale(calibration)
    kernels = _signal_kernels(calibration, kernel_width, threshold)
    vectors, eigenvalues = _eigenvectors(kernels, _coarse_grid(shape, kernel_width), calibration, 1)
    return _on_image_grid(vectors[0], eigenvalues[0], shape, crop)


def espirit_map_sets(
    calibration: ComplexArray,
    shape: tuple[int, int],
    *,
    noise: float = 0.0,
    kernel_width: int = 6,
    crop: float = SET_CROP,
) -> ComplexArray:
    """Estimate two sets of maps, for an object that is larger than the field of view and folds over.

    Where parts of the object lie on top of each other the coils see the sum of two, each with sensitivities
    of its own, and the two first eigenvectors span them (section "Theory", and Fig. 5). The first set is
    in phase with the coils' first principal component, the second with the second.

    Args:
        calibration: As in :func:`espirit_maps`.
        shape: As in :func:`espirit_maps`.
        noise: Standard deviation of each part of the samples. Kernels whose singular values noise alone
            reaches do not count as signal: they would raise the second eigenvalue everywhere.
        kernel_width: As in :func:`espirit_maps`.
        crop: The second set is zero where its eigenvalue is below this: where one set explains the data.

    Returns:
        Maps (set, coil, rows, columns), of unit root sum of squares over the coils or zero.

    Raises:
        ValueError: As :func:`espirit_maps`, or there is one coil alone.
    """
    _check_options(shape, kernel_width, THRESHOLD, crop)
    _check_calibration(calibration, kernel_width)
    if len(calibration) < 2:
        raise ValueError(f"calibration: got {len(calibration)} coil, expected 2 or more for two sets of maps")
    calibration, largest = _cut_and_scale(calibration)
    kernels = _signal_kernels(calibration, kernel_width, THRESHOLD, noise / largest)
    vectors, eigenvalues = _eigenvectors(kernels, _coarse_grid(shape, kernel_width), calibration, 2)
    first = _on_image_grid(vectors[0], eigenvalues[0], shape, 0.0)
    second = _on_image_grid(vectors[1], eigenvalues[1], shape, crop)
    return np.stack([first, second])


def needs_two_sets(calibration: ComplexArray, *, noise: float = 0.0, kernel_width: int = 6) -> bool:
    """Tell whether one set of maps cannot explain the calibration data: the object folds over.

    It does where more than 1 % of the energy lies in pixels whose second eigenvalue is above 0.9. The
    arguments are those of :func:`espirit_map_sets`. With fewer than 20 calibration lines, or where little
    folds over, it may pass unseen.

    Raises:
        ValueError: As :func:`espirit_maps`.
    """
    _check_calibration(calibration, kernel_width)
    if len(calibration) == 1:
        return False
    calibration, largest = _cut_and_scale(calibration)
    kernels = _signal_kernels(calibration, kernel_width, THRESHOLD, noise / largest)
    _, (_, second) = _eigenvectors(kernels, SEARCH_GRID, calibration, 2)
    coil_images = np.fft.ifftshift(centred_ifft(centre_pad(calibration, SEARCH_GRID)), axes=IMAGE_AXES)
    energy = np.sum(coil_images.real**2 + coil_images.imag**2, axis=0)
    share = energy[second > SECOND_EIGENVALUE].sum() / energy.sum()
    return bool(share > SECOND_SET_SHARE)


def _check_options(shape: tuple[int, int], kernel_width: int, threshold: float, crop: float) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape: got {shape}, expected two positive numbers (rows, columns)")
    if kernel_width < 1:
        raise ValueError(f"kernel_width: got {kernel_width}, expected at least 1 sample")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: got {threshold}, expected a number above 0 and below 1")
    if not 0 <= crop <= 1:
        raise ValueError(f"crop: got {crop}, expected a number from 0 to 1")


def _check_calibration(calibration: ComplexArray, kernel_width: int) -> None:
    if calibration.ndim != 3 or calibration.shape[0] < 1:
        raise ValueError(f"calibration: got shape {calibration.shape}, expected (coil, ky, kx)")
    n_ky, n_kx = calibration.shape[1:]
    if min(n_ky, n_kx) < kernel_width:
        raise ValueError(
            f"calibration: got {n_ky} x {n_kx} samples, "
            f"expected the kernel's {kernel_width} x {kernel_width} or more"
        )
    if not np.isfinite(calibration).all():
        raise ValueError("calibration: got NaN or infinite samples, expected finite ones")


def _cut_and_scale(calibration: ComplexArray) -> tuple[ComplexArray, float]:
    """Cut long sides; scale the largest sample to 1, so that squares stay within single precision.

    The second result is what the samples were divided by.
    """
    block = centre_crop(calibration, [min(side, CALIB_WIDTH) for side in calibration.shape[1:]])
    largest = float(np.abs(block).max())
    if largest == 0:
        raise ValueError("calibration: got zeros only, expected a signal")
    scaled: ComplexArray = (block / largest).astype(np.complex64)
    return scaled, largest


def _signal_kernels(
    calibration: ComplexArray, kernel_width: int, threshold: float, noise: float = 0.0
) -> ComplexArray:
    """Return V_parallel, (coil, dy, dx, kernel): an orthonormal basis of the calibration's windows.

    It comes from the smaller of the calibration matrix's two Gram matrices. What noise of the standard
    deviation ``noise`` in each part reaches alone is no signal: the upper edge of Marchenko and Pastur.
    """
    n_coils = len(calibration)
    windows = np.lib.stride_tricks.sliding_window_view(calibration, (kernel_width, kernel_width), axis=(1, 2))
    matrix = windows.transpose(0, 3, 4, 1, 2).reshape(n_coils * kernel_width**2, -1)
    few_windows = matrix.shape[1] < matrix.shape[0]
    gram = matrix.conj().T @ matrix if few_windows else matrix @ matrix.conj().T

    # The largest eigenvalue is at least sum(values^2) / sum(values): none below this bound can count.
    bound = threshold * np.linalg.norm(gram) ** 2 / np.trace(gram).real
    values, vectors = scipy.linalg.eigh(gram, subset_by_value=(bound, np.inf), driver="evr")
    noise_edge = 2 * noise**2 * (math.sqrt(matrix.shape[0]) + math.sqrt(matrix.shape[1])) ** 2
    is_signal = values > max(threshold * values[-1], noise_edge)
    is_signal[-1] = True
    vectors = vectors[:, is_signal]
    basis = np.linalg.qr(matrix @ vectors if few_windows else vectors).Q
    return basis.reshape(n_coils, kernel_width, kernel_width, -1)


def _window_filter(kernels: ComplexArray) -> ComplexArray:
    """Return W as a k-space filter, (dy, dx, coil, coil): project each window, average the overlaps."""
    n_coils, width, _, n_kernels = kernels.shape
    flat = kernels.reshape(-1, n_kernels)
    projector = (flat @ flat.conj().T).reshape(n_coils, width, width, n_coils, width, width)
    window_filter = np.zeros((2 * width - 1, 2 * width - 1, n_coils, n_coils), np.complex64)
    for y, x in np.ndindex(width, width):
        shifts = np.s_[width - 1 - y : 2 * width - 1 - y, width - 1 - x : 2 * width - 1 - x]
        window_filter[shifts] += projector[:, y, x].transpose(2, 3, 0, 1)
    window_filter /= width**2
    window_filter[width - 1, width - 1] += EIGENVALUE_FLOOR * np.eye(n_coils)
    return window_filter


def _image_operators(window_filter: ComplexArray, grid: tuple[int, ...]) -> ComplexArray:
    """Evaluate G_q, (pixel, coil, coil), on a periodic grid whose first pixel is the image's centre."""
    n_shifts, _, n_coils, _ = window_filter.shape
    shifts = np.arange(n_shifts) - n_shifts // 2
    rows, columns = (np.exp(-2j * np.pi / n * np.outer(range(n), shifts)).astype(np.complex64) for n in grid)
    along_rows = (rows @ window_filter.reshape(n_shifts, -1)).reshape(grid[0], n_shifts, -1)
    operators: ComplexArray = (columns @ along_rows).reshape(-1, n_coils, n_coils)
    return operators


def _coarse_grid(shape: tuple[int, int], kernel_width: int) -> tuple[int, int]:
    rows, columns = (min(n, GRID_POINTS_PER_KERNEL_SAMPLE * kernel_width) for n in shape)
    return rows, columns


def _principal_coils(calibration: ComplexArray, n: int) -> ComplexArray:
    """Return the n unit combinations of the coils, (coil, n), that hold most of the calibration's energy."""
    samples = calibration.reshape(len(calibration), -1)
    vectors: ComplexArray = np.linalg.eigh(samples @ samples.conj().T).eigenvectors[:, : -n - 1 : -1]
    return vectors


def _eigenvectors(
    kernels: ComplexArray, grid: tuple[int, int], calibration: ComplexArray, n_sets: int
) -> tuple[ComplexArray, FloatArray]:
    """Return the first eigenvectors, (set, coil, *grid), and eigenvalues, (set, *grid).

    They come from orthogonal iteration (Golub and Van Loan, Matrix Computations, 8.2.4) that starts from the
    principal coils in every pixel. The operators are positive definite, so <start, G^n start> > 0: every
    first vector is in phase with its start. Where several eigenvalues are equal, the vectors are projections
    of the starts, and so as smooth as the operators.
    """
    operators = _image_operators(_window_filter(kernels), grid)
    starts = _principal_coils(calibration, n_sets)
    vectors: NDArray[Any] = np.broadcast_to(starts, (*operators.shape[:2], n_sets))
    eigenvalues = np.empty((n_sets, len(operators)), np.float32)
    for _ in range(POWER_ITERATIONS):
        vectors = operators @ vectors
        for i in range(n_sets):
            vector = vectors[..., i]
            for j in range(i):
                vector -= np.vecdot(vectors[..., j], vector)[:, None] * vectors[..., j]
            eigenvalues[i] = np.linalg.norm(vector, axis=1)
            vector /= eigenvalues[i][:, None]
    sets = np.ascontiguousarray(np.moveaxis(vectors, 0, -1).swapaxes(0, 1))
    return sets.reshape(n_sets, -1, *grid), eigenvalues.reshape(n_sets, *grid)


def _on_image_grid(
    vectors: ComplexArray, eigenvalues: FloatArray, shape: tuple[int, int], crop: float
) -> ComplexArray:
    """Return maps (coil, *shape) of unit norm, zero where the eigenvalue is below ``crop``."""
    grid = eigenvalues.shape
    rows, columns = (_spline_matrix(coarse, fine) for coarse, fine in zip(grid, shape, strict=True))
    along_columns = vectors @ columns.T.astype(np.complex64)
    # The weights are real: as real arrays the larger product is half the work.
    maps: ComplexArray = (rows @ along_columns.view(np.float32)).view(np.complex64)
    norm = np.sqrt(sum(np.einsum("cyx,cyx->yx", part, part) for part in (maps.real, maps.imag)))
    scale = 1 / np.maximum(norm, np.finfo(np.float32).tiny)
    if crop > 0:
        scale[rows @ eigenvalues @ columns.T < crop] = 0
    maps *= scale
    return maps


def _spline_matrix(n_coarse: int, n_fine: int) -> FloatArray:
    """Return periodic cubic-spline interpolation, (fine, coarse): nodes start at the image's centre."""
    nodes = np.arange(n_coarse)

    def basis(positions: NDArray[Any]) -> NDArray[Any]:
        separation = positions[:, None] - nodes
        distance = np.abs((separation + n_coarse / 2) % n_coarse - n_coarse / 2)
        values: NDArray[Any] = np.maximum(2 - distance, 0) ** 3 - 4 * np.maximum(1 - distance, 0) ** 3
        return values

    pixels = (np.arange(n_fine) - n_fine // 2) * (n_coarse / n_fine)
    weights: FloatArray = np.linalg.solve(basis(nodes), basis(pixels).T).T.astype(np.float32)
    return weights
