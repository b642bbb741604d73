"""Sampling masks: which lines of k-space a scan acquires.

A mask of phase encodes is (1, columns), of rows (rows, 1), and of both (rows, columns), so that it
broadcasts over k-space (..., rows, columns) as it stands.
"""

from __future__ import annotations

import math

import numpy as np

from sbim_deploy.records import BoolArray, ComplexArray

PATTERNS = ("equispaced", "random")
MASK_CONVENTIONS = CENTRED, PUBLISHED = "centred", "published"
MIN_CALIB_LINES = 4  # fewer estimate no coil maps


def published_calib_width(n_lines: int, acceleration: float) -> int:
    """Return the thesis's width of the fully sampled centre: 8 % of the lines up to R = 6, 4 % above."""
    if acceleration <= 1:
        return n_lines
    return math.floor((0.08 if acceleration <= 6 else 0.04) * n_lines)


def line_mask(
    n_lines: int,
    acceleration: float,
    pattern: str = "equispaced",
    calib_width: int | None = None,
    seed: int = 0,
    convention: str = CENTRED,
) -> BoolArray:
    """Return which of ``n_lines`` are sampled: a centre of ``calib_width`` and 1 / R of the lines outside it.

    ``equispaced`` takes every R-th of the lines outside the centre, as published; ``random`` takes as many
    of them, chosen by ``seed``. R is nominal, as in the thesis: see :func:`effective_acceleration`.

    The centre of k-space is the line n // 2. ``centred`` begins the fully sampled centre at n // 2 - w // 2;
    the thesis's code at (n - w) // 2, which is ``published`` and another line where n is even and w is odd.

    Raises:
        ValueError: an unknown pattern or convention, an acceleration below 1 or above the number of lines.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"unknown sampling pattern {pattern!r}: expected one of {', '.join(PATTERNS)}")
    if convention not in MASK_CONVENTIONS:
        raise ValueError(
            f"unknown mask convention {convention!r}: expected one of {', '.join(MASK_CONVENTIONS)}"
        )
    if not 1 <= acceleration <= n_lines:
        raise ValueError(f"acceleration is {acceleration:g}: expected 1 to the number of lines, {n_lines}")
    width = published_calib_width(n_lines, acceleration) if calib_width is None else calib_width
    if not 0 <= width <= n_lines:
        raise ValueError(f"calib_width is {width}: expected 0 to the number of lines, {n_lines}")

    mask = np.zeros(n_lines, dtype=np.bool_)
    start = n_lines // 2 - width // 2 if convention == CENTRED else (n_lines - width) // 2
    mask[start : start + width] = True
    outside = np.flatnonzero(~mask)
    if pattern == "equispaced":
        chosen = np.floor(np.arange(0, outside.size, acceleration)).astype(np.intp)
    else:
        n_chosen = math.ceil(outside.size / acceleration)
        chosen = np.random.default_rng(seed).choice(outside.size, n_chosen, replace=False)
    mask[outside[chosen]] = True
    return mask


def effective_acceleration(mask: BoolArray) -> float:
    """Return how many samples the grid has for each one that the mask takes."""
    return float(mask.size / np.count_nonzero(mask))


def sampled_mask(kspace: ComplexArray) -> BoolArray:
    """Return the mask of the samples that are not zero in every coil; k-space is (coil, rows, columns)."""
    sampled: BoolArray = (kspace != 0).any(axis=0)
    return compact_mask(sampled)


def compact_mask(mask: BoolArray) -> BoolArray:
    """Return a mask (rows, columns) as (1, columns) or (rows, 1) where it consists of whole lines.

    A line counts as whole at 99 %: a sample of an acquired line may be zero by chance.
    """
    rows: BoolArray = np.logical_or.reduce(mask, axis=1, keepdims=True)
    columns: BoolArray = np.logical_or.reduce(mask, axis=0, keepdims=True)
    if np.count_nonzero(mask) < 0.99 * np.count_nonzero(rows & columns):
        return mask
    if rows.all():
        return columns
    return rows if columns.all() else np.logical_and(rows, columns)


def calibration_block(mask: BoolArray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of the largest centred block that is sampled in full.

    For a mask of lines that is the run of sampled lines through the centre. In both directions the block's
    shorter side is as long as it can be, and then its longer one, whatever the grid's proportions. Empty
    slices where the centre is not sampled.
    """
    full = np.broadcast_to(mask, shape)
    rows, columns = shape
    if 1 in mask.shape:
        row_run, column_run = _centre_run(full[:, columns // 2]), _centre_run(full[rows // 2])
        return row_run, column_run
    # Half the width that each row allows around the centre, and then that each half height allows.
    right, left = full[:, columns // 2 :], full[:, : columns // 2][:, ::-1]
    both = np.logical_and.accumulate(right[:, : columns // 2] & left, axis=1)
    row_halves = both.sum(axis=1)
    below, above = row_halves[rows // 2 :], row_halves[: rows // 2][::-1]
    column_halves = np.minimum.accumulate(np.minimum(below[: rows // 2], above))
    sides = [(min(half, width), half * width) for half, width in enumerate(column_halves.tolist(), start=1)]
    row_half = 1 + max(range(len(sides)), key=sides.__getitem__) if sides else 0
    column_half = int(column_halves[row_half - 1]) if row_half else 0
    if column_half == 0:
        return slice(0, 0), slice(0, 0)
    return (
        slice(rows // 2 - row_half, rows // 2 + row_half),
        slice(columns // 2 - column_half, columns // 2 + column_half),
    )


def _centre_run(line: BoolArray) -> slice:
    """Return the run of sampled positions around n // 2 that is symmetric about it."""
    centre = line.size // 2
    if not line[centre]:
        return slice(0, 0)
    above = np.flatnonzero(~line[centre:])
    below = np.flatnonzero(~line[:centre][::-1])
    n_above = int(above[0]) if above.size else line.size - centre
    n_below = int(below[0]) if below.size else centre
    return slice(centre - min(n_below, n_above), centre + min(n_above, n_below + 1))
