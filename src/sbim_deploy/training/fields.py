"""A slice's grid, and smooth random fields over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Square pixels (h, w), ``spacing`` mm apart, one of them on the centre.

    ``rows`` (h,) and ``columns`` (w,) are their positions in mm.
    """

    shape: tuple[int, int]
    spacing: float
    rows: Field = field(init=False, compare=False)
    columns: Field = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Lay out the positions."""
        for name, n in zip(("rows", "columns"), self.shape, strict=True):
            object.__setattr__(self, name, _positions(n, self.spacing))


def smooth_field(rng: np.random.Generator, grid: Grid, scale: float) -> Field:
    """Draw a Gaussian field (h, w) of mean 0 and variance 1 that varies over ``scale`` mm.

    Grids of equal extents draw equally many numbers, so that a seed gives the same field on a finer grid.
    """
    down, across = (_basis(n, grid.spacing, scale) for n in grid.shape)
    knots = rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32)
    return np.asarray(down @ knots @ across.T)


def _positions(n: int, spacing: float) -> Field:
    return ((np.arange(n) - n // 2) * spacing).astype(np.float32)


# It is cached, since the fields of one slice share a few scales.
@lru_cache(maxsize=64)
def _basis(n: int, spacing: float, scale: float) -> Field:
    half = ceil(n // 2 * spacing / scale) + 2
    knots = scale * np.arange(-half, half + 1, dtype=np.float32)
    basis = np.exp(-0.5 * ((_positions(n, spacing)[:, None] - knots) / (0.7 * scale)) ** 2)
    return np.asarray(basis / np.linalg.norm(basis, axis=1, keepdims=True), np.float32)


def soft_step(values: NDArray[np.floating], width: float) -> Field:
    """Return what rises smoothly from 0 to 1 where ``values`` pass 0, over ``width`` to either side."""
    ramp = np.clip(values * np.float32(0.5 / width) + np.float32(0.5), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)
