"""Smooth random fields over a slice."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray


def smooth_field(
    rng: np.random.Generator, positions: NDArray[np.float64], scale: float
) -> NDArray[np.float64]:
    """Draw a Gaussian field (n, n) of mean 0 and variance 1 that varies over ``scale``.

    ``positions`` (n,) are those of the pixels along either axis, in the unit of ``scale``. Equal extents
    draw equally many numbers, so that a seed gives the same field on a finer grid.
    """
    half = ceil(float(np.abs(positions).max()) / scale) + 2
    knots = scale * np.arange(-half, half + 1)
    basis = np.exp(-0.5 * ((positions[:, None] - knots) / (0.7 * scale)) ** 2)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    field: NDArray[np.float64] = basis @ rng.standard_normal((knots.size, knots.size)) @ basis.T
    return field


def soft_step(values: NDArray[np.floating], width: float) -> NDArray[np.float64]:
    """Rise from 0 to 1 as ``values`` pass 0, over about four ``width``."""
    return np.asarray(0.5 + 0.5 * np.tanh(values / (2 * width)), dtype=np.float64)
