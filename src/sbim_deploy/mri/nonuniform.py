"""Fourier transforms between a grid and samples anywhere in k-space, by finufft.

Barnett, Magland, af Klinteberg 2019 (doi:10.1137/18M120885X). The convention is that of
:mod:`sbim_deploy.mri.fourier`: y(k) = 1 / sqrt(rows columns) sum_r x(r) exp(-2 pi i k . r / n), where pixel
n // 2 is at r = 0 and k is in cycles per field of view. So the noise of a sample has the unit that it has on
a grid. Transforms are in double precision; they run a few times a slice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import BackendMissingError, install_command
from sbim_deploy.records import FloatArray

TOLERANCE = 1e-9  # finufft's, of the result's norm
EXTRA = "noncartesian"


def import_finufft() -> Any:
    """Return finufft.

    Raises:
        BackendMissingError: it is not installed.
    """
    try:
        import finufft
    except ImportError as error:
        raise BackendMissingError(
            f"finufft is not installed, which samples along a trajectory take: {install_command(EXTRA)}"
        ) from error
    return finufft


def to_samples(images: NDArray[Any], trajectory: FloatArray) -> NDArray[np.complex128]:
    """Return the samples (..., *places) of images (..., rows, columns), for a trajectory (*places, 2)."""
    shape = images.shape[-2:]
    stack = np.ascontiguousarray(images.reshape(-1, *shape), dtype=np.complex128)
    samples = import_finufft().nufft2d2(*_phases(trajectory, shape), stack, isign=-1, eps=TOLERANCE, **_ALONE)
    samples = samples.reshape(*images.shape[:-2], *trajectory.shape[:-1])
    samples /= math.sqrt(math.prod(shape))
    return samples  # type: ignore[no-any-return]


def to_grid(samples: NDArray[Any], trajectory: FloatArray, shape: tuple[int, int]) -> NDArray[np.complex128]:
    """Return images (..., rows, columns) of samples (..., *places): the adjoint of :func:`to_samples`."""
    n_axes = trajectory.ndim - 1
    lead = samples.shape[: samples.ndim - n_axes]
    stack = np.ascontiguousarray(samples.reshape(-1, math.prod(trajectory.shape[:-1])), dtype=np.complex128)
    images = import_finufft().nufft2d1(
        *_phases(trajectory, shape), stack, n_modes=shape, isign=1, eps=TOLERANCE, **_ALONE
    )
    images = images.reshape(*lead, *shape)
    images /= math.sqrt(math.prod(shape))
    return images  # type: ignore[no-any-return]


# One thread, so that a result is the same in every run.
_ALONE = {"nthreads": 1}


def _phases(trajectory: FloatArray, shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Return the phase that a step of one pixel takes at each sample, along rows and columns."""
    places = trajectory.reshape(-1, 2).astype(np.float64)
    return [np.ascontiguousarray(2 * np.pi / n * k) for n, k in zip(shape, places.T, strict=True)]
