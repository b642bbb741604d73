"""Conjugate gradients on a batch of slices, each with its own step lengths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sbim_deploy.records import ComplexArray, FloatArray

# This is far below the rounding of any image's energy, and far above the numbers that engines flush to zero.
CONVERGED = 1e-30

Normal = Callable[[ComplexArray, ComplexArray], ComplexArray]
"""(x, out) -> A^H A x, written to ``out``: complex64 (slice, ..., rows, columns)."""


def inner(a: ComplexArray, b: ComplexArray) -> FloatArray:
    """Return the real part of <a, b> for each slice; both are contiguous and (slice, ..., rows, columns)."""
    products: FloatArray = np.vecdot(_parts(a), _parts(b))
    return products


def per_slice(numbers: FloatArray, images: ComplexArray) -> FloatArray:
    """Return numbers (slice,) with axes of one, to multiply images (slice, ..., rows, columns)."""
    return numbers.reshape(-1, *[1] * (images.ndim - 1))


def solve_proximal(
    normal: Normal, backprojection: ComplexArray, centre: ComplexArray, gamma: FloatArray, n_steps: int
) -> ComplexArray:
    """Return argmin |A u - y|^2 + gamma |u - centre|^2 after ``n_steps`` from u = ``centre``.

    ``backprojection`` is A^H y; images are (slice, rows, columns), or (slice, set, rows, columns) where a
    slice is the sum of several, which are solved for together. ``gamma`` is (slice,). Hestenes and Stiefel
    1952 (doi:10.6028/jres.049.044).
    """
    u, weight = centre.copy(), per_slice(gamma, centre)
    product, scaled = np.empty_like(u), np.empty_like(u)
    residual = backprojection - normal(u, product)
    direction = residual.copy()
    energy = inner(residual, residual)
    for _ in range(n_steps):
        normal(direction, product)
        product += np.multiply(direction, weight, out=scaled)
        step = per_slice(_ratio(energy, inner(direction, product)), u)
        u += np.multiply(direction, step, out=scaled)
        residual -= np.multiply(product, step, out=scaled)
        previous, energy = energy, inner(residual, residual)
        direction *= per_slice(_ratio(energy, previous), u)
        direction += residual
    return u


def _parts(x: ComplexArray) -> FloatArray:
    return x.reshape(x.shape[0], -1).view(x.real.dtype)


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return above / below per slice; 0 where a slice has converged, so that it stays where it is."""
    quotient = np.divide(above, below, out=np.zeros_like(above), where=below > CONVERGED)
    return quotient
