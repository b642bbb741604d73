"""Means over slices, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
