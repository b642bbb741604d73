"""Whether readouts agree on where the centre of k-space is, or the gradients came later than they should.

A gradient that is late by a time moves the samples of a readout along it, by an amount that goes with the
square of the gradient's share in each axis: along a spoke of angle phi by dx cos^2 + dy sin^2 + 2 dxy sin cos
(Rosenzweig, Holme, Uecker 2019, doi:10.1002/mrm.27506, equation 5). What the object itself moves the echo by,
its phase, goes with a cos + b sin. So both can be told apart.
"""

from __future__ import annotations

import numpy as np

from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.records import ComplexArray, FloatArray

NEAR, WINDOW = 1.0, 6.0  # cycles per field of view: a readout through the centre, and its echo
MIN_READOUTS = 10
ROUNDS = 5
MAX_ONE_SIDED = 0.3  # of the readouts' mean direction: where all go one way, a phase looks like a delay
MIN_DELAY = 0.2  # cycles per field of view
MIN_ERRORS = 5.0  # standard errors of a delay: where there is noise alone none reaches that


def find_delays(kspace: ComplexArray, places: FloatArray) -> list[Fault]:
    """Return a fault where the echoes of the readouts through the centre lie off it as gradients delays do.

    Args:
        kspace: complex64 (coil, readout, sample).
        places: (readout, sample, 2) in cycles per field of view.
    """
    found = readout_delays(kspace, places)
    if found is None:
        return []
    delays, errors = found
    if not (np.abs(delays) >= np.maximum(MIN_DELAY, MIN_ERRORS * errors)).any():
        return []
    along_rows, along_columns, across = (float(each) for each in delays)
    message = (
        "spokes disagree at the centre of k-space: their echoes lie off it as gradient delays move them, by "
        f"{along_rows:.2f} cycles per field of view along the rows, {along_columns:.2f} along the columns "
        f"and {across:.2f} across; correct the trajectory (bart estdelay), or the image blurs"
    )
    return [Fault("gradient delays", message, False)]


def readout_delays(kspace: ComplexArray, places: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Return (dx, dy, dxy) and their standard errors, in cycles per field of view, or None.

    It is None where too few readouts go through the centre, or all go about the same way through it, as those
    that lie evenly over 180 degrees do.
    """
    shifts, directions = [], []
    for readout, samples in zip(places, np.moveaxis(kspace, 1, 0), strict=True):
        radius = np.hypot(*readout.T)
        nearest = int(radius.argmin())
        if radius[nearest] > NEAR or nearest in (0, len(radius) - 1):
            continue
        direction = readout[nearest + 1] - readout[nearest - 1]
        direction = direction / (np.hypot(*direction) or 1)
        along = readout @ direction
        straight = np.abs(np.abs(along) - radius) < NEAR / 2
        energy = np.square(np.abs(samples)).sum(axis=0) * straight
        if along.min() < -WINDOW and along.max() > WINDOW and energy.any():
            shifts.append(_echo(along, energy))
            directions.append(direction)
    if len(shifts) < MIN_READOUTS or np.hypot(*np.mean(directions, axis=0)) > MAX_ONE_SIDED:
        return None
    cos, sin = np.array(directions, np.float64).T
    # What is sampled at k + d was measured as if at k, so that the echo comes at -d.
    terms = np.stack([-(cos**2), -(sin**2), -2 * sin * cos, cos, sin], axis=1)
    fitted = np.linalg.lstsq(terms, np.array(shifts), rcond=None)[0]
    left = np.square(shifts - terms @ fitted).sum() / (len(terms) - terms.shape[1])
    errors = np.sqrt(left * np.diag(np.linalg.pinv(terms.T @ terms)))
    return fitted[:3].astype(np.float32), errors[:3].astype(np.float32)


def _echo(along: FloatArray, energy: FloatArray) -> float:
    """Return where the echo of a readout lies: the middle of its energy, within a window that follows it."""
    place = 0.0
    for _ in range(ROUNDS):
        offset = np.clip((along - place) / WINDOW, -1, 1)
        weight = energy * np.cos(np.pi / 2 * offset) ** 2
        place = float((along * weight).sum() / weight.sum())
    return place
