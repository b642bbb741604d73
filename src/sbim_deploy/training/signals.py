"""The steady-state signals of the common pulse sequences (Bernstein, King and Zhou 2004, ch. 14).

Times in ms, angles in degrees; ``t1``, ``t2`` and ``density`` are arrays that broadcast against each other,
and so is what comes back: the magnitude of the transverse magnetisation.
"""

from __future__ import annotations

import numpy as np

from sbim_deploy.training.fields import Field


def spoiled_gradient_echo(t1: Field, t2: Field, density: Field, tr: float, te: float, flip: float) -> Field:
    """The Ernst equation: PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2)."""
    e1 = np.exp(-tr / t1)
    sine, cosine = np.sin(np.deg2rad(flip)), np.cos(np.deg2rad(flip))
    return np.asarray(density * sine * (1 - e1) / (1 - cosine * e1) * np.exp(-te / t2))


def spin_echo(t1: Field, t2: Field, density: Field, tr: float, te: float) -> Field:
    """PD (1 - exp(-TR / T1)) exp(-TE / T2), for TE far below TR."""
    return np.asarray(density * (1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def inversion_recovery(t1: Field, t2: Field, density: Field, tr: float, te: float, ti: float) -> Field:
    """PD |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2): FLAIR, and MPRAGE at the centre of k-space."""
    recovered = np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))
    return np.asarray(density * recovered * np.exp(-te / t2))


def nulling_inversion_time(t1: float, tr: float) -> float:
    """Return the TI that nulls ``t1`` in ``inversion_recovery``: T1 ln(2 / (1 + exp(-TR / T1)))."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))
