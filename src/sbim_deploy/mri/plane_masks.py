"""Sampling masks of 3-D scans: which pairs of phase encodes are acquired, (partitions, lines)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.records import BoolArray

EQUISPACED, CAIPIRINHA, POISSON, RANDOM = PLANE_PATTERNS = ("equispaced", "caipirinha", "poisson", "random")


def plane_mask(
    shape: tuple[int, int],
    acceleration: tuple[int, int],
    pattern: str = POISSON,
    calib_width: int = 24,
    elliptic: bool = False,
    seed: int = 0,
) -> BoolArray:
    """Return a mask (partitions, lines) with a calibration block in its middle, which counts on top of R.

    ``equispaced`` is the lattice of every R-th partition and line. ``caipirinha`` shifts the lines of each
    sampled partition by one against the last, in R_2 steps through the lattice (Breuer et al. 2006, Magn
    Reson Med 55:549-556, doi 10.1002/mrm.20787). ``poisson`` has samples at random places, as far
    from each other as they fit, ``random`` those alone.

    Args:
        shape: partitions and lines.
        acceleration: along the partitions and along the lines; patterns at random take the product.
        pattern: one of PLANE_PATTERNS.
        calib_width: sides of the block in the middle, at most; 0 is none.
        elliptic: leave out the corners of k-space, beyond the ellipse in the grid.
        seed: of the random patterns.

    Raises:
        ValueError: the pattern is unknown, or an acceleration or the block does not fit the shape.
    """
    if pattern not in PLANE_PATTERNS:
        raise ValueError(f"unknown sampling pattern {pattern!r}: expected one of {', '.join(PLANE_PATTERNS)}")
    for name, factor, n in zip(("partitions", "lines"), acceleration, shape, strict=True):
        if not 1 <= factor <= n:
            raise ValueError(f"acceleration along the {name} is {factor}: expected 1 to their number, {n}")
    if calib_width < 0:
        raise ValueError(f"calib_width is {calib_width}: expected 0 or more")
    inside = _ellipse(shape) if elliptic else np.ones(shape, np.bool_)
    total = acceleration[0] * acceleration[1]
    if pattern in (EQUISPACED, CAIPIRINHA):
        mask = _lattice(shape, acceleration, 1 if pattern == CAIPIRINHA else 0)
    else:
        rng = np.random.default_rng(seed)
        wanted = round(np.count_nonzero(inside) / total)
        mask = _poisson_disc(inside, wanted, rng) if pattern == POISSON else _random(inside, wanted, rng)
    mask &= inside
    rows, columns = (min(calib_width, n) for n in shape)
    block = tuple(
        slice(n // 2 - width // 2, n // 2 - width // 2 + width)
        for n, width in zip(shape, (rows, columns), strict=True)
    )
    mask[block] = True
    return mask


def balanced_factors(acceleration: int) -> tuple[int, int]:
    """Return the whole factors of an acceleration nearest each other, the smaller for the partitions."""
    smaller = max(n for n in range(1, math.isqrt(acceleration) + 1) if acceleration % n == 0)
    return smaller, acceleration // smaller


def _ellipse(shape: tuple[int, int]) -> BoolArray:
    rows, columns = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    inside: BoolArray = np.hypot(rows[:, None], columns) <= 1
    return inside


def _lattice(shape: tuple[int, int], acceleration: tuple[int, int], shift: int) -> BoolArray:
    mask = np.zeros(shape, np.bool_)
    for count, row in enumerate(range(0, shape[0], acceleration[0])):
        mask[row, (count * shift) % acceleration[1] :: acceleration[1]] = True
    return mask


def _random(inside: BoolArray, wanted: int, rng: np.random.Generator) -> BoolArray:
    mask = np.zeros(inside.size, np.bool_)
    mask[rng.choice(np.flatnonzero(inside), wanted, replace=False)] = True
    return mask.reshape(inside.shape)


def _poisson_disc(inside: BoolArray, wanted: int, rng: np.random.Generator) -> BoolArray:
    """Return so many samples, as far from each other as they fit.

    Places are tried in one random order, and taken where none that was taken before is nearer than a
    distance (dart throwing; Cook 1986, ACM Trans. Graph. 5:51-72, doi 10.1145/7529.8927). On a grid few
    distances are possible: they are gone through from the largest down until there are enough samples.
    """
    order = rng.permutation(np.argwhere(inside))
    reach = math.ceil(1.5 * math.sqrt(inside.size / max(wanted, 1)))
    squares = np.arange(reach + 1) ** 2
    distances = np.unique(np.add.outer(squares, squares))[::-1]
    taken = np.zeros(inside.shape, np.bool_)
    for squared in distances:
        if not _throw(taken, order, int(squared), wanted):
            break
    return taken


def _throw(taken: BoolArray, order: NDArray[np.intp], squared: int, wanted: int) -> bool:
    """Take places whose squared distance to all others is at least so much; tell whether more are wanted."""
    reach = math.isqrt(squared)
    offsets = np.arange(-reach, reach + 1)
    near = np.add.outer(offsets**2, offsets**2) < max(squared, 1)
    blocked = np.zeros([n + 2 * reach for n in taken.shape], np.bool_)

    def block(row: int, column: int) -> None:
        blocked[row : row + 2 * reach + 1, column : column + 2 * reach + 1] |= near

    for row, column in np.argwhere(taken).tolist():
        block(row, column)
    n_taken = int(np.count_nonzero(taken))
    for row, column in order.tolist():
        if n_taken >= wanted:
            return False
        if not blocked[row + reach, column + reach]:
            taken[row, column] = True
            n_taken += 1
            block(row, column)
    return n_taken < wanted
