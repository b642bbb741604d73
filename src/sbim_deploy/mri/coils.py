"""Simulated receive coils."""

from __future__ import annotations

import numpy as np

from sbim_deploy.mri.combine import normalise_maps
from sbim_deploy.records import ComplexArray


def birdcage_maps(n_coils: int, shape: tuple[int, int], radius: float = 1.5) -> ComplexArray:
    """Return the maps (coil, rows, columns) of a ring of coils, of unit root-sum-of-squares.

    Each coil is a long wire along the bore, whose field falls off as 1 / r and turns with the direction to
    the wire (Biot-Savart). ``radius`` is in units of half the field of view.
    """
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    wires = radius * np.exp(2j * np.pi * np.arange(n_coils) / n_coils)
    offsets = (x[None, :] + 1j * y[:, None]) - wires[:, None, None]
    maps: ComplexArray = (1 / offsets).astype(np.complex64)
    return normalise_maps(maps)
