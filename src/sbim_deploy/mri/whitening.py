"""Noise whitening: coils whose noise is uncorrelated and of unit variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sbim_deploy.records import ComplexArray

DEAD_VARIANCE = 1e-8  # of the median coil's: its noise is below 1e-4 of that coil's
# Of a coil's own variance: what a covariance in single precision does not resolve, 1e-7, with a margin.
DEPENDENT_SHARE = 1e-5


def whitening_matrix(noise: ComplexArray, bandwidth_ratio: float = 1.0) -> ComplexArray:
    """Return the (coil, coil) matrix that whitens, from a noise scan (coil, samples).

    It is sqrt(2 r) L^-1 with L the Cholesky factor of the noise covariance, so that each of the real and
    imaginary parts gets unit variance; r is the noise scan's equivalent bandwidth against the image scan's,
    dwell_image / dwell_noise times the receiver's noise bandwidth. Kellman and McVeigh 2005
    (doi:10.1002/mrm.20713).

    Raises:
        ValueError: fewer samples than coils, or coils whose noise is linearly dependent.
    """
    n_coils, n_samples = noise.shape
    if n_samples <= n_coils:
        raise ValueError(f"noise whitening: {n_samples} samples for {n_coils} coils, expected more")
    return whitening_of_covariance((noise @ noise.conj().T) / (n_samples - 1), bandwidth_ratio)


def whitening_of_covariance(covariance: ComplexArray, bandwidth_ratio: float = 1.0) -> ComplexArray:
    """Return the matrix of :func:`whitening_matrix` from the (coil, coil) covariance of the noise.

    Raises:
        ValueError: coils whose noise is linearly dependent.
    """
    try:
        factor = scipy.linalg.cholesky(covariance, lower=True)
    except np.linalg.LinAlgError as error:
        raise ValueError("noise whitening: the coils' noise is linearly dependent (a dead coil?)") from error
    inverse = scipy.linalg.solve_triangular(factor, np.eye(len(covariance)), lower=True)
    matrix: ComplexArray = (np.sqrt(2 * bandwidth_ratio) * inverse).astype(covariance.dtype)
    return matrix


def mix_coils(matrix: ComplexArray, kspace: ComplexArray) -> ComplexArray:
    """Return k-space (..., coil, rows, columns) with a (new coil, coil) matrix applied to its coils."""
    mixed: ComplexArray = np.einsum("dc,...crk->...drk", matrix, kspace, optimize=True)
    return mixed


@dataclass(frozen=True)
class Whitening:
    """A matrix that whitens, (kept coil, coil), and the coils that it leaves out.

    After it the noise has unit variance in each of the real and imaginary parts of every coil, so that the
    standard deviation of the noise is 1. It applies by :func:`mix_coils` to all that has coils: k-space,
    calibration and maps, whose root-sum-of-squares it changes.
    """

    matrix: ComplexArray
    left_out: tuple[int, ...]


def whitening_without_dependent_coils(covariance: ComplexArray) -> Whitening:
    """Return the whitening of any covariance (coil, coil), with dead and dependent coils left out.

    A coil is dead where its noise is far below that of the median coil. Of coils whose noise depends on one
    another, those are left out of which the others explain the most: the Cholesky factorisation takes the
    coil with the most unexplained noise first, relative to its own (Higham 2002, Accuracy and Stability of
    Numerical Algorithms, section 10.3). A multiple of the unit matrix gives a multiple of the unit matrix.

    Raises:
        ValueError: the covariance is not finite, or no coil has noise.
    """
    covariance = np.asarray(covariance)
    wide = covariance.astype(np.complex128)
    variances = np.diag(wide).real
    if not np.isfinite(wide).all() or variances.max() <= 0:
        raise ValueError("noise whitening: the covariance is zero or not finite, expected noise in a coil")
    alive = np.flatnonzero(variances > DEAD_VARIANCE * np.median(variances[variances > 0]))
    deviations = np.sqrt(variances[alive])
    correlation = wide[np.ix_(alive, alive)] / np.outer(deviations, deviations)
    chosen = sorted(_independent(correlation))
    kept = alive[chosen]
    matrix = np.zeros((len(kept), len(wide)), dtype=np.complex64)
    independent: NDArray[Any] = correlation[np.ix_(chosen, chosen)]
    matrix[:, kept] = whitening_of_covariance(independent) / deviations[chosen]
    return Whitening(matrix, tuple(int(coil) for coil in np.setdiff1d(np.arange(len(wide)), kept)))


def _independent(correlation: NDArray[np.complex128]) -> list[int]:
    """Return the coils that a pivoted Cholesky factorisation takes before nothing is left to explain."""
    rest = correlation.copy()
    kept: list[int] = []
    for _ in range(len(rest)):
        unexplained = np.diag(rest).real
        pivot = int(np.argmax(unexplained))
        if unexplained[pivot] <= DEPENDENT_SHARE:
            break
        kept.append(pivot)
        rest = rest - np.outer(rest[:, pivot], rest[pivot]) / unexplained[pivot]
    return kept
