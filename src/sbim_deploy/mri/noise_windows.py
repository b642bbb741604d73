"""The noise of k-space where its object is strong: in small windows.

An object of limited extent, seen by smooth coils, makes neighbouring samples of k-space predict each other:
small windows of k-space lie close to a subspace, and what they have in the other directions is noise. That is
the block-Hankel matrix of ESPIRiT (Uecker et al. 2014, doi 10.1002/mrm.24751), put to the use that Veraart et
al. 2016 (doi 10.1016/j.neuroimage.2016.08.016) make of the small eigenvalues of diffusion series.

Their Marchenko-Pastur law asks for independent windows, which overlapping ones are not, so that the data
calibrate the eigenvalues here: the directions come from the windows on one side of k-space's centre, and the
energy in them is measured on both sides. Where they were fitted it is too small by 1 - h, and on the other
side too large by 1 / (1 - h), h being the leverage of the fit, as the residuals and the prediction errors of
least squares are (Allen 1974, doi 10.1080/00401706.1974.10489157). The geometric mean is free of h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sbim_deploy.mri.conjugate_gradients import conjugate_gradients
from sbim_deploy.mri.masks import calibration_block
from sbim_deploy.records import BoolArray, ComplexArray

Matrix = NDArray[np.complex128]
Real = NDArray[np.float64]

EPS = float(np.finfo(np.float32).eps)
WINDOW_SIZE = 96  # coils x samples of a window: its eigenproblem takes milliseconds
WINDOWS_PER_DIMENSION = 4  # on each side of the centre; with fewer the leverage is near 1
MAX_WINDOW_WIDTH, MAX_WINDOW_HEIGHT = 5, 16
MIN_LINES, MAX_LINES = 4, 24
MAX_WINDOWS = 6000
# Edges of the strips of windows, by distance from the centre of k-space, 1 its edge. Within the first one the
# object's energy is so large that what one side does not predict of the other hides the noise.
STRIPS = np.array([1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1])
# The noise directions end where the energy rises above so many times the median of the lowest quarter's.
PLATEAU = 1.5
MIN_PLATEAU = 0.15
ITERATIONS = 3
SOLVER_STEPS = 8
MIN_EIGENVALUE = 0.01  # of the largest, for each round: what the fit makes less has not been measured
# Ratios of variances. Hann and Hamming windows fall to 0.4 from the first strip to the third, and to less
# than 0.05 at the last: what falls more steeply holds the object too, and below OBJECT_RATIO little else.
STEEP_RATIO, OBJECT_RATIO = 0.16, 0.06
MAX_WINDOWED_EDGE = 0.3


@dataclass(frozen=True)
class NoiseFit:
    """A covariance of the noise, how many samples it is worth, and the variance of each strip, relative.

    ``whole`` says whether the strips reach the edge of k-space, so that a window function shows in them.
    """

    covariance: Matrix
    n_samples: int
    profile: Real
    whole: bool
    source: str


@dataclass(frozen=True)
class _Windows:
    """Windows of k-space, (coil, tap, window), and how far and on which side of the centre each one is.

    ``whole`` is that of :class:`NoiseFit`.
    """

    samples: Matrix
    distance: Real
    side: NDArray[np.intp]
    n_samples: int
    whole: bool
    source: str


def noise_in_windows(kspace: ComplexArray, mask: BoolArray, guess: Matrix) -> NoiseFit | None:
    """Return the noise at the centre of k-space, or None where it holds too few windows.

    They are those of the calibration lines, or of all lines where there are none.

    Args:
        kspace: (coil, rows, columns), zero where it was not sampled; no coil depends on others.
        mask: (1, columns), (rows, 1) or (rows, columns).
        guess: the covariance to start from, (coil, coil), in any unit.
    """
    windows = _windows(kspace, mask)
    return None if windows is None else _windows_fit(windows, guess)


def _windows(kspace: ComplexArray, mask: BoolArray) -> _Windows | None:
    rows, columns = _centre_block(mask, kspace.shape[-2:])
    if rows.stop - rows.start < columns.stop - columns.start:
        kspace, mask, rows, columns = kspace.swapaxes(1, 2), mask.T, columns, rows
    n_lines = columns.stop - columns.start
    across = np.zeros(0)
    if n_lines >= MIN_LINES:
        lines = np.arange(columns.start, columns.stop)[max(n_lines - MAX_LINES, 0) // 2 :][:MAX_LINES]
        region, source = kspace[:, rows, lines[0] : lines[-1] + 1], "calibration lines"
    elif mask.shape[0] == 1:
        rows = slice(0, kspace.shape[1])
        across = np.abs(np.arange(kspace.shape[2]) / (kspace.shape[2] // 2) - 1)
        lines = np.flatnonzero(mask[0] & (across >= STRIPS[0]))
        region, across, source = kspace[:, :, lines], across[lines], "sampled lines"
    else:
        return None
    shape = _window_shape(region.shape, side_by_side=not across.size)
    if shape is None:
        return None
    height, width = shape
    view = np.lib.stride_tricks.sliding_window_view(region, shape, axis=(1, 2))
    first = np.arange(view.shape[1])
    centre = kspace.shape[1] // 2 - rows.start
    reach = min(centre, region.shape[1] - centre)
    along = np.abs(first + (height - 1) / 2 - centre) / reach
    distance = np.hypot(along[:, None], across if across.size else np.zeros(view.shape[2]))
    side = np.where(first + height <= centre, 0, np.where(first > centre, 1, -1))
    chosen = np.argwhere((side >= 0)[:, None] & (distance >= STRIPS[0]) & (distance <= np.sqrt(2)))
    n_samples = len(chosen)
    y, x = chosen[:: -(-len(chosen) // MAX_WINDOWS)].T
    samples = view[:, y, x].transpose(0, 2, 3, 1).reshape(len(kspace), height * width, -1)
    whole = 2 * reach >= 0.6 * kspace.shape[1]
    return _Windows(samples.astype(np.complex128), distance[y, x], side[y], n_samples, whole, source)


def _centre_block(mask: BoolArray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the block around the centre that was sampled in full, as long as the sampled lines are."""
    rows, columns = shape
    if 1 not in mask.shape:
        vertical = calibration_block(mask[:, columns // 2][:, None], (rows, columns))[0]
        horizontal = calibration_block(mask[rows // 2][None], (rows, columns))[1]
        block = mask[vertical, horizontal]
        if block.size and block.mean() > 0.99:
            return vertical, horizontal
    return calibration_block(mask, (rows, columns))


def _window_shape(shape: tuple[int, ...], side_by_side: bool) -> tuple[int, int] | None:
    """Return the largest window, preferably as wide as high, that there are enough windows for."""
    n_coils, n_rows, n_lines = shape
    for width in range(min(MAX_WINDOW_WIDTH, n_lines // 2) if side_by_side else 1, 0, -1):
        n_windows = (n_lines - width + 1) * n_rows // 2
        taps = min(max(WINDOW_SIZE, n_coils), n_windows // WINDOWS_PER_DIMENSION) // n_coils
        height = min(taps // width, MAX_WINDOW_HEIGHT, n_rows // 8)
        if height >= min(width, 2):
            return height, width
    return None


def _windows_fit(windows: _Windows, covariance: Matrix) -> NoiseFit | None:
    """Return the covariance of the noise at the centre, or None where a strip is empty or has no noise.

    Each round whitens by the covariance of the one before, the first by a guess, so that the directions of
    least energy are those without the object and not those of the quietest coils.
    """
    n_coils, n_taps, _ = windows.samples.shape
    grams, counts = _grams(windows)
    if not counts.all():
        return None
    for _ in range(ITERATIONS):
        whitening, colouring = _roots(covariance)
        whiten = np.kron(whitening, np.eye(n_taps)).astype(np.complex128)
        found = _whitened_noise(grams, counts, whiten)
        if found is None:
            return None
        bases, energies, profile = found
        level = _centre_level(profile, windows.whole)
        coils = _unproject(bases, [level * energy for energy in energies], n_coils)
        covariance = colouring @ coils @ colouring
    share = sum(basis.shape[1] for basis in bases) / 2 / (n_coils * n_taps)
    return NoiseFit(
        covariance, max(int(share * windows.n_samples), 1), profile, windows.whole, windows.source
    )


def _grams(windows: _Windows) -> tuple[Matrix, NDArray[np.intp]]:
    """Return the sums of w w^H over the windows of each side and strip, and how many these are."""
    flat = windows.samples.reshape(-1, windows.samples.shape[-1])
    n_strips = len(STRIPS) - 1
    strip = np.minimum(np.searchsorted(STRIPS, windows.distance, side="right") - 1, n_strips - 1)
    grams = np.empty((2, n_strips, len(flat), len(flat)), dtype=np.complex128)
    counts = np.empty((2, n_strips), dtype=np.intp)
    for side, index in np.ndindex(2, n_strips):
        members = flat[:, (windows.side == side) & (strip == index)]
        grams[side, index] = members @ members.conj().T
        counts[side, index] = members.shape[1]
    return grams, counts


def _whitened_noise(
    grams: Matrix, counts: NDArray[np.intp], whiten: Matrix
) -> tuple[list[Matrix], list[Matrix], Real] | None:
    """Return, per side, the noise directions and the energy in them, and the variance of each strip.

    The energy is the mean over the windows of both sides, each strip of each side scaled to a variance of 1.
    None is where there is none but that of rounding.
    """
    per_side = counts.sum(axis=1)
    means = [whiten @ side.sum(axis=0) @ whiten / n for side, n in zip(grams, per_side, strict=True)]
    bases = [_noise_basis(means[side], means[1 - side]) for side in (0, 1)]
    filters = [whiten @ basis for basis in bases]
    fitted, predicted = (
        [filters[side].conj().T @ (grams[side ^ other] @ filters[side]) for side in (0, 1)]
        for other in (0, 1)
    )
    inside, outside = (
        sum(np.einsum("sii->s", part).real / part.shape[-1] for part in parts) / counts.sum(axis=0)
        for parts in (fitted, predicted)
    )
    if not min(inside.min(), outside.min()) > 0:
        return None
    energies = [
        np.einsum("s,sij->ij", 1 / inside, fitted[side]) / (2 * per_side[side])
        + np.einsum("s,sij->ij", 1 / outside, predicted[side]) / (2 * per_side[1 - side])
        for side in (0, 1)
    ]
    return bases, energies, np.sqrt(inside * outside)


def _noise_basis(fitted: Matrix, other: Matrix) -> Matrix:
    """Return the directions of least energy of one side's windows, up to where the other's energy rises."""
    vectors: Matrix = scipy.linalg.eigh(fitted)[1]
    energy = np.einsum("ij,ij->j", vectors.conj(), other @ vectors).real
    smooth = np.convolve(np.pad(energy, 1, mode="edge"), np.ones(3) / 3, "valid")
    n = len(energy)
    risen = np.flatnonzero(smooth > PLATEAU * np.median(energy[: max(n // 4, 1)]))
    rank = int(risen[0]) if risen.size else n
    return vectors[:, : max(rank, int(MIN_PLATEAU * n), 1)]


def _centre_level(profile: Real, whole: bool) -> float:
    """Return the variance at the centre, from that of each strip."""
    if whole and profile[2] < STEEP_RATIO * profile[0]:
        return float(profile[2])
    if whole and profile[-1] < MAX_WINDOWED_EDGE * profile[1]:
        return float(profile[:2].mean())
    return float(np.median(profile))


def _unproject(bases: list[Matrix], energies: list[Matrix], n_coils: int) -> Matrix:
    """Return the coils' covariance C, (coil, coil), that the energies in the noise directions come from.

    They are V^H (C x I) V with the unit matrix over the taps: least squares, by a few conjugate gradients
    from the multiple of the unit matrix that has the right trace.
    """
    projectors = [basis @ basis.conj().T for basis in bases]

    def normal(coils: Matrix) -> Matrix:
        total = np.zeros_like(coils)
        for projector in projectors:
            taps = projector.reshape(len(projector), n_coils, -1)
            mixed = np.einsum("pct,cd->pdt", taps, coils, optimize=True).reshape(projector.shape)
            total += _trace_taps(mixed @ projector, n_coils)
        return total

    target = sum(
        _trace_taps(basis @ energy @ basis.conj().T, n_coils)
        for basis, energy in zip(bases, energies, strict=True)
    )
    n_directions = sum(basis.shape[1] for basis in bases)
    coils = np.eye(n_coils, dtype=np.complex128) * (np.trace(target).real / n_directions)
    goal = EPS * np.vdot(target, target).real
    coils = coils + conjugate_gradients(normal, target - normal(coils), goal, SOLVER_STEPS)
    values, vectors = np.linalg.eigh((coils + coils.conj().T) / 2)
    positive: Matrix = (vectors * np.maximum(values, MIN_EIGENVALUE * values[-1])) @ vectors.conj().T
    return positive


def _trace_taps(matrix: Matrix, n_coils: int) -> Matrix:
    """Return the sum over the taps of a (coil x tap, coil x tap) matrix, (coil, coil)."""
    n_taps = len(matrix) // n_coils
    total: Matrix = np.einsum("ctdt->cd", matrix.reshape(n_coils, n_taps, n_coils, n_taps))
    return total


def _roots(covariance: Matrix) -> tuple[Matrix, Matrix]:
    """Return C^-1/2 and C^1/2."""
    values, vectors = np.linalg.eigh(covariance)
    roots = np.sqrt(np.maximum(values, EPS**2 * values[-1]))
    return (vectors / roots) @ vectors.conj().T, (vectors * roots) @ vectors.conj().T
