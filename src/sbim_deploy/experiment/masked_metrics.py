"""The masked PSNR and SSIM of the thesis, as its code computed them, for comparison with its figures.

Dimos 2022, slides 73-74, and its public code. They favour dark backgrounds and know no intensity scale,
and the disc is laid over the reconstruction alone: :mod:`sbim_deploy.recon.metrics` has neither fault.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.recon.metrics import psnr, ssim
from sbim_deploy.records import FloatArray

THRESHOLD = 0.05
RADIUS, RADIUS_SIZE = 165, 384
DATA_RANGE = 255.0


def masked_psnr_and_ssim(image: FloatArray, reference: FloatArray) -> tuple[float, float]:
    """Return the masked PSNR in dB and the masked SSIM of a magnitude (rows, columns).

    Both images are set to 0 up to 5 % of the reference's maximum, scaled to 8 bits by their own maximum,
    and the image is set to 0 outside a disc of radius 165 pixels at 384, which scales with the size.
    """
    floor = THRESHOLD * reference.max()
    image_8bit, reference_8bit = (_to_8bit(np.where(each > floor, each, 0)) for each in (image, reference))
    image_8bit = np.where(_disc(image.shape), image_8bit, 0)
    return psnr(image_8bit, reference_8bit, DATA_RANGE), ssim(image_8bit, reference_8bit, DATA_RANGE)


def _to_8bit(image: FloatArray) -> FloatArray:
    """Scale to 0 to 255 by the maximum and drop the fraction, which is what the published code does."""
    largest = image.max()
    return np.floor(image * (np.float32(DATA_RANGE) / largest)) if largest > 0 else image


def _disc(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the disc about (192, 192) of the published 384 x 384 pixels, whose rows were flipped first."""
    rows, columns = shape
    y = np.arange(rows) - (rows - 1 - rows // 2)
    x = np.arange(columns) - columns // 2
    inside: NDArray[np.bool_] = np.hypot(y[:, None], x) <= RADIUS / RADIUS_SIZE * min(shape)
    return inside
