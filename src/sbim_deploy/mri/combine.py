"""One image from the coils' images, and its scale."""

from __future__ import annotations

import numpy as np

from sbim_deploy.mri.fourier import centred_ifft
from sbim_deploy.records import ComplexArray, FloatArray


def mvue(kspace: ComplexArray, maps: ComplexArray) -> ComplexArray:
    """Return the minimum-variance unbiased estimate sum_c conj(S_c) F^-1 y_c / sqrt(sum_c |S_c|^2).

    k-space and maps are (..., coil, rows, columns), the image is (..., rows, columns); zero where every map
    is. Jalal et al. 2021 (arXiv:2108.01368), section 3.
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


def normalise_maps(maps: ComplexArray) -> ComplexArray:
    """Return the maps with a root-sum-of-squares of 1 over the coils, zero where they all are."""
    norm = root_sum_of_squares(maps)[..., None, :, :]
    unit: ComplexArray = np.divide(maps, norm, out=np.zeros_like(maps), where=norm > 0)
    return unit


def percentile_scale(image: ComplexArray) -> float:
    """Return the 99th percentile of |image| of one slice: what the network's unit is (Dimos 2022)."""
    return float(np.percentile(np.abs(image), 99))
