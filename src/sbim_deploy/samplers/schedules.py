"""Noise schedules: levels sigma from the largest to the smallest, in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError

Sigmas = NDArray[np.float64]


def geometric(sigma_begin: float, sigma_end: float, n_levels: int) -> Sigmas:
    """Return ``n_levels`` sigmas with a constant ratio, as NCSNv2 has (arXiv:2006.09011, section 3)."""
    return np.geomspace(sigma_begin, sigma_end, n_levels)


def subsample(sigmas: Sigmas, n_levels: int) -> Sigmas:
    """Return exactly ``n_levels`` of the levels at a uniform stride, the first and the last among them.

    A single level is the last one.

    Raises:
        InputError: there are fewer levels than asked for.
    """
    if n_levels > sigmas.size:
        raise InputError(
            f"the model has {sigmas.size} noise levels and the sampler asks for {n_levels}: use fewer steps"
        )
    stride = np.linspace(sigmas.size - 1, 0, n_levels)[::-1]
    return sigmas[np.round(stride).astype(np.intp)]


def starting_at(sigmas: Sigmas, level: int) -> Sigmas:
    """Return the levels from index ``level`` on, for a start below the largest.

    Raises:
        InputError: there is no such level.
    """
    if not 0 <= level < sigmas.size:
        raise InputError(f"start level is {level}: expected 0 to {sigmas.size - 1}")
    return sigmas[level:]
