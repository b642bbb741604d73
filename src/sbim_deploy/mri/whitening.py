"""Noise whitening: coils whose noise is uncorrelated and of unit variance."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from sbim_deploy.records import ComplexArray


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
