"""Daubechies wavelets of images: the orthonormal transform, and the shrinkage of its coefficients.

The filters have two vanishing moments, four taps, and are applied by lifting (Daubechies and Sweldens 1998,
doi:10.1007/BF02476026, section 7.5). Images end where they begin again, so that the transform is orthonormal;
their sizes are multiples of 2^levels (:func:`padded_shape`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sbim_deploy.records import ComplexArray, FloatArray

COARSEST = 16
_ROOT_3 = math.sqrt(3)
_UPDATE, _PREDICT, _PREDICT_BEFORE = (np.float32(c) for c in (_ROOT_3, _ROOT_3 / 4, (_ROOT_3 - 2) / 4))
_LOW, _HIGH = (np.float32(c) for c in ((_ROOT_3 - 1) / math.sqrt(2), (_ROOT_3 + 1) / math.sqrt(2)))


@dataclass(frozen=True)
class Coefficients:
    """The wavelet coefficients of complex images.

    ``coarse`` is (..., rows / 2^levels, columns / 2^levels). ``details`` has three bands for each level, the
    finest level first: high from row to row, from column to column, and both. They are kept transposed,
    (..., columns / 2^level, rows / 2^level), which saves copies.
    """

    coarse: ComplexArray
    details: tuple[tuple[ComplexArray, ComplexArray, ComplexArray], ...]


def n_levels(shape: tuple[int, int]) -> int:
    """Return the number of levels at which the coarse image is still 16 to 31 pixels wide, at least 1."""
    return max(1, (min(shape) // COARSEST).bit_length() - 1)


def padded_shape(shape: tuple[int, int], levels: int) -> tuple[int, int]:
    """Return the smallest shape that holds ``shape`` and can be halved ``levels`` times."""
    step = 2**levels
    return -(-shape[0] // step) * step, -(-shape[1] // step) * step


def analyse(image: ComplexArray, levels: int) -> Coefficients:
    """Return the coefficients of images, complex64 (..., rows, columns) of a :func:`padded_shape`."""
    details = []
    coarse = image
    for _ in range(levels):
        low, high = (_transposed(part) for part in _split(coarse))
        (low_low, low_high), (high_low, high_high) = _split(low), _split(high)
        details.append((high_low, low_high, high_high))
        coarse = _transposed(low_low)
    return Coefficients(coarse, tuple(details))


def synthesise(coefficients: Coefficients) -> ComplexArray:
    """Return the images of coefficients: the inverse, and the adjoint, of :func:`analyse`."""
    image = coefficients.coarse
    for high_low, low_high, high_high in reversed(coefficients.details):
        low, high = _merge(_transposed(image), low_high), _merge(high_low, high_high)
        image = _merge(_transposed(low), _transposed(high))
    return image


def shrink(image: ComplexArray, threshold: float, levels: int, shift: tuple[int, int]) -> ComplexArray:
    """Return argmin |u - image|^2 / 2 + threshold |W u|_1, without the coarse coefficients in the norm.

    W is the transform of the image after it has moved around by ``shift`` rows and columns. Complex
    coefficients keep their phase. Other shifts in other iterations leave no grid of blocks in the image
    (Figueiredo and Nowak 2003, doi:10.1109/TIP.2003.814255, section V-C).
    """
    coefficients = analyse(np.roll(image, shift, (-2, -1)), levels)
    for bands in coefficients.details:
        for band in bands:
            _soft_threshold(band, np.float32(threshold))
    return np.roll(synthesise(coefficients), (-shift[0], -shift[1]), (-2, -1))


def _soft_threshold(band: ComplexArray, threshold: np.float32) -> None:
    """Shorten every number by the threshold, or to 0, in place."""
    magnitude: FloatArray = band.real**2
    magnitude += band.imag**2
    np.sqrt(magnitude, out=magnitude)
    np.maximum(magnitude, np.finfo(np.float32).tiny, out=magnitude)
    factor = np.maximum(1 - threshold / magnitude, 0)
    band.real *= factor
    band.imag *= factor


def _split(image: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
    """Return the low and the high half of images (..., rows, columns) from row to row."""
    parts = image.view(np.float32)
    odd = parts[..., 1::2, :]
    low = odd * _UPDATE
    low += parts[..., 0::2, :]
    high = low * -_PREDICT
    high += odd
    high[..., 1:, :] -= low[..., :-1, :] * _PREDICT_BEFORE
    high[..., :1, :] -= low[..., -1:, :] * _PREDICT_BEFORE
    low[..., :-1, :] -= high[..., 1:, :]
    low[..., -1:, :] -= high[..., :1, :]
    low *= _LOW
    high *= _HIGH
    return low.view(np.complex64), high.view(np.complex64)


def _merge(low_half: ComplexArray, high_half: ComplexArray) -> ComplexArray:
    """Return the images whose halves from row to row these are: the inverse of :func:`_split`."""
    # The filters are orthonormal: (root 3 - 1) (root 3 + 1) / 2 = 1, so each factor undoes the other.
    low, high = low_half.view(np.float32) * _HIGH, high_half.view(np.float32) * _LOW
    low[..., :-1, :] += high[..., 1:, :]
    low[..., -1:, :] += high[..., :1, :]
    high[..., 1:, :] += low[..., :-1, :] * _PREDICT_BEFORE
    high[..., :1, :] += low[..., -1:, :] * _PREDICT_BEFORE
    merged = np.empty((*low.shape[:-2], 2 * low.shape[-2], low.shape[-1]), np.float32)
    odd = merged[..., 1::2, :]
    np.multiply(low, _PREDICT, out=odd)
    odd += high
    low -= odd * _UPDATE
    merged[..., 0::2, :] = low
    return merged.view(np.complex64)


def _transposed(image: ComplexArray) -> ComplexArray:
    return np.ascontiguousarray(np.swapaxes(image, -2, -1))
