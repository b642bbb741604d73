"""What a scanner adds: the coils' shading, phase, and k-space that ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft
from sbim_deploy.training.fields import Field, Grid, smooth_field, soft_step

# Air beside tissue bends the field: above the sphenoid and frontal sinuses, and by the ears; MNI space, mm.
AIR_SPACES = np.array([(0, 22, -32), (0, 62, -18), (48, -30, -34), (-48, -30, -34)], np.float32)
STEEP_PHASE_SHARE = 0.4
FULL_MATRIX_SHARE, UNFILTERED_SHARE, ELLIPTIC_SHARE = 0.5, 0.4, 0.35
MIN_RESOLUTION = 0.75


def random_shading(rng: np.random.Generator, grid: Grid) -> Field:
    """Return the coils' slow bias (h, w), which ends with the field of view."""
    rim = rng.uniform(-0.25, 0.45) * (np.hypot(grid.rows[:, None], grid.columns) / 100) ** 2
    bias = rng.uniform(0.05, 0.25) * smooth_field(rng, grid, 90) + rim
    reach = [
        soft_step(np.float32(0.95) * np.abs(axis).max() - np.abs(axis), 5)
        for axis in (grid.rows, grid.columns)
    ]
    return np.asarray(reach[0][:, None] * reach[1] * np.exp(bias), np.float32)


def random_phase(rng: np.random.Generator, points: Field, grid: Grid) -> Field:
    """Return a phase (h, w) in radian: an offset, a ramp, slow waves, at times steep parts by the air."""
    ramp = rng.normal(0, 0.01, 2)
    phase = rng.uniform(0, 2 * np.pi) + ramp[0] * grid.rows[:, None] + ramp[1] * grid.columns
    phase = phase + rng.uniform(0.1, 0.7) * smooth_field(rng, grid, 80)
    if rng.random() < STEEP_PHASE_SHARE:
        strengths = rng.uniform(1.0, 5.0) * rng.uniform(0.4, 1.0, len(AIR_SPACES))
        for centre, strength in zip(AIR_SPACES, strengths, strict=True):
            away = np.sum((points - centre[:, None, None]) ** 2, axis=0)
            phase = phase + np.float32(strength) * np.exp(away / np.float32(-2 * 17.0**2))
    return np.asarray(phase, np.float32)


def acquire(rng: np.random.Generator, image: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Keep the centre of the image's k-space and return the image (h, w) = ``shape`` that it makes.

    As on scanners: the matrix acquired may be smaller than the image's along either axis, its corners may be
    missing, and it may be filtered (a Hamming window of random depth); what was not acquired is zero. An
    unfiltered edge rings.
    """
    kspace = centre_crop(centred_fft(image), shape)
    full = rng.random() < FULL_MATRIX_SHARE
    resolution = np.ones(2) if full else rng.uniform(MIN_RESOLUTION, 1, 2)
    elliptic = rng.random() < ELLIPTIC_SHARE
    pedestal = 1.0 if rng.random() < UNFILTERED_SHARE else rng.uniform(0.54, 0.95)
    rows, columns = (
        np.abs((np.arange(n) - n // 2) / (n / 2 * part)) for n, part in zip(shape, resolution, strict=True)
    )
    if elliptic:
        window = _hamming(np.hypot(rows[:, None], columns), pedestal)
    else:
        window = _hamming(rows, pedestal)[:, None] * _hamming(columns, pedestal)
    return centred_ifft(kspace * window)


def _hamming(radius: NDArray[np.float64], pedestal: float) -> NDArray[np.float64]:
    return np.where(radius <= 1, pedestal + (1 - pedestal) * np.cos(np.pi * radius), 0)
