"""Noise schedules: levels sigma from the largest to the smallest, in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError

Sigmas = NDArray[np.float64]

MAX_SIGMA = 1e6
KARRAS_RHO = 7.0


def geometric(sigma_begin: float, sigma_end: float, n_levels: int) -> Sigmas:
    """Return ``n_levels`` sigmas with a constant ratio, as NCSNv2 has (arXiv:2006.09011, section 3)."""
    return np.geomspace(sigma_begin, sigma_end, n_levels)


def karras(sigma_begin: float, sigma_end: float, n_levels: int) -> Sigmas:
    """Return ``n_levels`` sigmas whose seventh roots are evenly spaced (Karras et al. 2022, equation 5).

    arXiv:2206.00364, with rho = 7; a single level is the last one, as in :func:`subsample`.
    """
    if n_levels == 1:
        return np.array([sigma_end])
    levels: Sigmas = (
        np.linspace(sigma_begin ** (1 / KARRAS_RHO), sigma_end ** (1 / KARRAS_RHO), n_levels) ** KARRAS_RHO
    )
    # Without this the rounding of the power could lead beyond the levels that the model knows.
    levels[0], levels[-1] = sigma_begin, sigma_end
    return levels


def variance_preserving(betas: Sigmas) -> Sigmas:
    """Return the sigmas of a variance-preserving process whose step t adds noise of the variance betas[t].

    sigma_t = sqrt(1 / a_t - 1) with a_t = prod_{i <= t} (1 - beta_i) (Dimos 2022, p. 62, equations 5 and 6).

    Raises:
        InputError: a beta is not between 0 and 1, or the last sigma is beyond single precision's use.
    """
    if not (np.all(betas > 0) and np.all(betas < 1)):
        raise InputError("the betas are not all between 0 and 1: no variance-preserving schedule")
    # log1p and expm1 keep the digits of 1 - a_t, which is small for the first steps.
    with np.errstate(over="ignore"):
        sigmas: Sigmas = np.sqrt(np.expm1(-np.cumsum(np.log1p(-betas))))[::-1].copy()
    if not sigmas[0] <= MAX_SIGMA:
        raise InputError(f"the schedule ends at a sigma of {sigmas[0]:g}: expected at most {MAX_SIGMA:g}")
    return sigmas


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
