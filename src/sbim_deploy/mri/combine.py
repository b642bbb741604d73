"""One image from the coils' images or from those of sets of maps, and its scale."""

from __future__ import annotations

import numpy as np

from sbim_deploy.mri.fourier import centred_ifft
from sbim_deploy.records import ComplexArray, FloatArray


def mvue(kspace: ComplexArray, maps: ComplexArray) -> ComplexArray:
    """Return the minimum-variance unbiased estimate sum_c conj(S_c) F^-1 y_c / sqrt(sum_c |S_c|^2).

    k-space and maps are (..., coil, rows, columns), the image is (..., rows, columns); zero where every map
    is. Maps of sets, (set, coil, rows, columns), give an image for each. Jalal et al. 2021
    (arXiv:2108.01368), section 3.
    """
    norm = root_sum_of_squares(maps)
    combined = (maps.conj() * centred_ifft(kspace)).sum(axis=-3)
    image: ComplexArray = np.divide(combined, norm, out=np.zeros_like(combined), where=norm > 0)
    return image


def root_sum_of_squares(coil_images: ComplexArray) -> FloatArray:
    """Return sqrt(sum_c |x_c|^2) of (..., coil, rows, columns)."""
    squares = coil_images.real**2 + coil_images.imag**2
    root: FloatArray = np.sqrt(squares.sum(axis=-3))
    return root


def combine_sets(images: ComplexArray) -> ComplexArray:
    """Return one image (..., rows, columns) of those of sets of maps, (..., set, rows, columns).

    Its magnitude is their root sum of squares, as ``bart rss`` over the sets: for maps that are orthonormal
    in each pixel that of the coils' images, whichever vectors span them. Its phase is that of the first set,
    which goes on smoothly where the second ends.
    """
    first = images[..., 0, :, :]
    size = np.abs(first)
    combined = np.ones_like(first)
    np.divide(first, size, out=combined, where=size > 0)
    combined *= root_sum_of_squares(images)
    return combined


def combine_set_variances(variances: FloatArray, images: ComplexArray) -> FloatArray:
    """Return the variance of :func:`combine_sets` (..., rows, columns), to first order.

    Both arguments are (..., set, rows, columns). The sets' errors count as independent: each weighs as its
    share of the image's energy.
    """
    energy = images.real**2 + images.imag**2
    total = energy.sum(axis=-3)
    combined: FloatArray = variances.max(axis=-3)
    np.divide((energy * variances).sum(axis=-3), total, out=combined, where=total > 0)
    return combined


def normalise_maps(maps: ComplexArray) -> ComplexArray:
    """Return the maps with a root-sum-of-squares of 1 over the coils, zero where they all are."""
    norm = root_sum_of_squares(maps)[..., None, :, :]
    unit: ComplexArray = np.divide(maps, norm, out=np.zeros_like(maps), where=norm > 0)
    return unit


def percentile_scale(image: ComplexArray) -> float:
    """Return the 99th percentile of |image| of one slice: what the network's unit is (Dimos 2022)."""
    return float(np.percentile(np.abs(image), 99))


def resample_maps(maps: ComplexArray, shape: tuple[int, int]) -> ComplexArray:
    """Return maps (..., rows, columns) at the pixels of another grid over the same field of view.

    Interpolated linearly, and zero where a neighbour is beyond the edge; the pixels n // 2 coincide.
    """
    if maps.shape[-2:] == shape:
        return maps
    rows, columns = (_weights(old, new) for old, new in zip(maps.shape[-2:], shape, strict=True))
    return (rows @ maps @ columns.T).astype(np.complex64)


def _weights(old: int, new: int) -> FloatArray:
    """Return the (new, old) matrix of linear interpolation."""
    places = (np.arange(new) - new // 2) * (old / new) + old // 2
    weights: FloatArray = np.maximum(1 - np.abs(places[:, None] - np.arange(old)), 0).astype(np.float32)
    return weights
