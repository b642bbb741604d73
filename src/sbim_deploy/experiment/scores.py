"""The metrics of a slice or a volume, those of the thesis among them, and means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.experiment.settings import THROUGH_PLANE_NRMSE
from sbim_deploy.mri.metrics import nrmse, psnr, ssim
from sbim_deploy.records import FloatArray

THRESHOLD = 0.05
RADIUS, RADIUS_SIZE = 165, 384
DATA_RANGE = 255.0

N_RESAMPLES = 10_000
LEVEL = 0.95
BOOTSTRAP_SEED = 0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over slices and its bootstrap interval; the ends are NaN for a single slice."""

    mean: float
    low: float
    high: float


def image_scores(image: FloatArray, reference: FloatArray) -> dict[str, float]:
    """Return the metrics of a magnitude (rows, columns) or (slices, rows, columns) by their names.

    The data range is the reference's maximum, that of all slices of a volume; its SSIM is the mean of its
    slices. Through the plane is the NRMSE of the differences between neighbouring slices: what flickers from
    slice to slice counts there.
    """
    masked_psnr, masked_ssim = masked_scores(image, reference)
    scores = {
        "nrmse": nrmse(image, reference),
        "psnr": psnr(image, reference),
        "ssim": _mean_ssim(image, reference, float(reference.max())),
        "masked_psnr": masked_psnr,
        "masked_ssim": masked_ssim,
    }
    if image.ndim == 3:
        scores[THROUGH_PLANE_NRMSE] = nrmse(np.diff(image, axis=0), np.diff(reference, axis=0))
    return scores


def masked_scores(image: FloatArray, reference: FloatArray) -> tuple[float, float]:
    """Return the masked PSNR in dB and the masked SSIM of a magnitude (rows, columns).

    Both images are set to 0 up to 5 % of the reference's maximum, scaled to 8 bits by their own maximum,
    and the image is set to 0 outside a disc of radius 165 pixels at 384, which scales with the size. A volume
    (slices, rows, columns) has one maximum, and the mean SSIM of its slices.
    """
    floor = THRESHOLD * reference.max()
    image_8bit, reference_8bit = (_to_8bit(np.where(each > floor, each, 0)) for each in (image, reference))
    image_8bit = np.where(_disc(image.shape[-2:]), image_8bit, 0)
    return psnr(image_8bit, reference_8bit, DATA_RANGE), _mean_ssim(image_8bit, reference_8bit, DATA_RANGE)


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean and its 95 % percentile bootstrap interval over slices.

    Efron and Tibshirani 1993, chapter 13. The same number of slices is resampled in the same way each time,
    so that methods are compared on the same draws. Slices are taken as independent; with few of them the
    interval is too short.
    """
    given: Values = np.asarray(values, dtype=np.float64)
    if given.size < 2 or not np.isfinite(given).all():
        return Interval(float(given.mean()), float("nan"), float("nan"))
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, given.size, (N_RESAMPLES, given.size))
    tails = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    low, high = np.percentile(given[draws].mean(axis=1), tails)
    return Interval(float(given.mean()), float(low), float(high))


def standard_deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation over slices, NaN for a single one."""
    given: Values = np.asarray(values, dtype=np.float64)
    return float(given.std(ddof=1)) if given.size > 1 and np.isfinite(given).all() else float("nan")


def _mean_ssim(image: FloatArray, reference: FloatArray, data_range: float) -> float:
    images, references = (each.reshape(-1, *each.shape[-2:]) for each in (image, reference))
    return float(np.mean([ssim(*pair, data_range) for pair in zip(images, references, strict=True)]))


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
