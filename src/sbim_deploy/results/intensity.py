"""How magnitudes become whole numbers: one factor for a scan however it is cut, and one window.

The factor comes from the measured data of the whole scan, not from the images of a run: slices or repetitions
that are reconstructed apart, or with other settings, can so be compared pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.mri.masks import calibration_block, compact_mask, sampled_mask
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray
from sbim_deploy.results.series import ImageSeries

HEAD_ROOM = 2.0  # an image's brightest pixel may be so much brighter than the measured data's alone
LEAST, GREATEST = 1e-30, 1e30  # magnitudes whose factor single precision holds
MAX_SURVEYED = 16  # slices, evenly chosen
WHITE_PERCENTILE = 99.8  # a few bright pixels must not darken the picture


@dataclass(frozen=True)
class Intensity:
    """The magnitude that the greatest pixel stands for, and the one that is shown as white.

    Both are in the units of k-space as it is reconstructed, whose transform is orthonormal.
    """

    full_scale: float
    white: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not LEAST <= self.full_scale <= GREATEST:
            raise InputError(
                f"scale is {self.full_scale:g}: expected a number from {LEAST:g} to {GREATEST:g}"
            )


def series_intensity(series: Sequence[ImageSeries], full_scale: float | None = None) -> Intensity:
    """Return the intensity for all series of a scan; without ``full_scale`` their brightest pixel fills it.

    The window ends at the 99.8th percentile of all of them.
    """
    pixels = np.concatenate([each.volume.ravel() for each in series])
    if full_scale is None:
        full_scale = float(pixels.max()) or 1.0
    white = min(float(np.percentile(pixels, WHITE_PERCENTILE)), full_scale)
    return Intensity(full_scale, white or full_scale)


def count_clipped(series: Sequence[ImageSeries], intensity: Intensity) -> int:
    """Return how many pixels are brighter than the greatest one can be."""
    return sum(int(np.count_nonzero(each.volume > intensity.full_scale)) for each in series)


def scan_full_scale(source: KspaceSource) -> float | None:
    """Return the magnitude for the greatest pixel of any image of a scan, or None where no slice is sound.

    It is twice the brightest pixel of the coils' root sum of squares, over at most 16 slices that are evenly
    chosen. Lines outside the fully sampled centre weigh by how many of them were left out, so that fine
    structures have their brightness.
    """
    chosen = np.linspace(0, source.n_slices - 1, min(source.n_slices, MAX_SURVEYED)).round().astype(int)
    shape = source.recon_shape or (source.n_rows, source.n_columns)
    brightest = 0.0
    for index in dict.fromkeys(chosen.tolist()):
        try:
            kspace = source.read_slice(index)
        except InputError:
            continue  # where it is wanted, the run has said so
        brightest = max(brightest, float(measured_magnitude(kspace, source.mask, shape).max()))
    full_scale = HEAD_ROOM * brightest
    return float(f"{full_scale:.6g}") if math.isfinite(full_scale) and full_scale > 0 else None


def measured_magnitude(kspace: ComplexArray, mask: BoolArray | None, shape: tuple[int, int]) -> FloatArray:
    """Return the root sum of squares (rows, columns) of what was measured, cropped to ``shape``.

    k-space is (coil, rows, columns), the mask (columns,), (rows, columns), or None for what is not zero.
    """
    sampled = np.broadcast_to(sampled_mask(kspace), kspace.shape[-2:])
    if mask is not None:
        sampled = np.logical_and(sampled, mask)
    weights = sampled.astype(np.float32)
    rows, columns = calibration_block(compact_mask(sampled), sampled.shape)
    outside = np.ones(sampled.shape, np.bool_)
    outside[rows, columns] = False
    n_sampled = np.count_nonzero(sampled & outside)
    if n_sampled:
        weights[outside] *= np.count_nonzero(outside) / n_sampled
    return np.ascontiguousarray(centre_crop(root_sum_of_squares(centred_ifft(kspace * weights)), shape))
