"""The noise of a scan, from the scan itself."""

from __future__ import annotations

import numpy as np

from sbim_deploy.records import ComplexArray

OUTER_SHARE = 0.05
# The median of |n|, in units of the standard deviation of its real part: |n| is Rayleigh distributed.
RAYLEIGH_MEDIAN = np.sqrt(2 * np.log(2))


def estimate_noise(kspace: ComplexArray) -> float:
    """Return the standard deviation of each of the real and imaginary parts of k-space.

    K-space is (coil, rows, columns), zero where it was not sampled. It is taken from the sampled positions
    farthest from the centre, where an object has the least energy: what is left of it makes the estimate
    too large, never too small. The median leaves out the lines and spikes that do carry energy.
    """
    rows, columns = kspace.shape[-2:]
    y = (np.arange(rows) - rows // 2) / rows
    x = (np.arange(columns) - columns // 2) / columns
    sampled = (kspace != 0).any(axis=0)
    distance = np.where(sampled, np.hypot(y[:, None], x[None, :]), -1.0)
    farthest = distance >= np.quantile(distance[sampled], 1 - OUTER_SHARE)
    return float(np.median(np.abs(kspace[:, farthest])) / RAYLEIGH_MEDIAN)
