"""Why the centre of k-space has few calibration lines, where k-space and its mask tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.mri.masks import MIN_CALIB_LINES, calibration_block
from sbim_deploy.records import BoolArray, ComplexArray

AXIS_NAMES = ("row", "column")
RUN_RATIO = 2  # a calibration block is longer than any other run by this: random masks have long runs too


def why_few_lines(kspace: ComplexArray, mask: BoolArray) -> str:
    """Return a clause, with its comma before it, that names the cause; empty where there are lines enough.

    The causes are a centre that is not where k-space has its energy, as by a wrong centre in a header, a mask
    that was shifted against k-space, and a scan without such lines.

    Args:
        kspace: complex64 (coil, rows, columns), as it was given, before a mask is applied.
        mask: what was measured, (1, columns), (rows, 1) or (rows, columns).
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    n_lines = min(part.stop - part.start for part in calibration_block(mask, shape))
    energy = (kspace.real**2 + kspace.imag**2).sum(axis=0, dtype=np.float64)
    if 1 in mask.shape:
        axis = int(mask.shape[0] == 1)
        peak = int(np.argmax(energy.sum(axis=1 - axis)))
        lines = {axis: (mask.ravel(), peak)}
    else:
        row, column = np.unravel_index(int(np.argmax(energy)), shape)
        lines = {0: (mask[:, column], int(row)), 1: (mask[row], int(column))}
    around_peak = min(_width_around(line, peak) for line, peak in lines.values())
    for axis, (line, peak) in lines.items():
        centre, name = line.size // 2, AXIS_NAMES[axis]
        is_elsewhere = abs(peak - centre) > _distance_to_sampled(line, centre) + 1
        if is_elsewhere and around_peak > n_lines:
            return (
                f", for the energy of k-space peaks at {name} {peak} with {around_peak} sampled side by side "
                f"around it, and the centre is {name} {centre}: a header's centre is wrong, or k-space is "
                f"shifted by {peak - centre}"
            )
        longest, second, start = _longest_runs(line)
        is_block = longest > max(n_lines, RUN_RATIO * second, MIN_CALIB_LINES)
        if is_block and not is_elsewhere and len(lines) == 1 and not start <= centre < start + longest:
            return (
                f", for the mask takes {longest} side by side, {name} {start} to {start + longest - 1}, and "
                f"the energy of k-space is at its centre, {name} {centre}: the mask is shifted"
            )
    longest = max(_longest_runs(line)[0] for line, _ in lines.values())
    if max(n_lines, longest) >= MIN_CALIB_LINES:
        return ""
    return f", for nowhere are more than {longest} sampled side by side"


def _distance_to_sampled(line: BoolArray, place: int) -> int:
    return int(np.abs(np.flatnonzero(line) - place).min()) if line.any() else line.size


def _width_around(line: BoolArray, place: int) -> int:
    """Return how many lines are sampled without a gap and evenly to both sides of a place."""
    before, after = line[:place][::-1], line[place:]
    n_before, n_after = (int(part.size if part.all() else np.argmin(part)) for part in (before, after))
    return min(n_before, n_after) + min(n_after, n_before + 1) if n_after else 0


def _longest_runs(line: BoolArray) -> tuple[int, int, int]:
    """Return the lengths of the longest and the next run of sampled lines, and where the longest starts."""
    edges: NDArray[np.intp] = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if not starts.size:
        return 0, 0, 0
    place = int(np.argmax(lengths))
    others = np.delete(lengths, place)
    return int(lengths[place]), int(others.max()) if others.size else 0, int(starts[place])
