"""Coil maps that go with each other from slice to slice of a volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.records import ComplexArray


def principal_coil(covariance: NDArray[Any]) -> ComplexArray:
    """Return the unit combination of the coils, (coil,), that holds most energy by their covariance.

    ``covariance`` is the sum of y y^H over samples y, (coil, coil), of all slices of a volume.
    """
    vector: ComplexArray = np.linalg.eigh(covariance).eigenvectors[:, -1].astype(np.complex64)
    return vector


def in_phase_with(maps: ComplexArray, coil: ComplexArray) -> ComplexArray:
    """Return maps (..., coil, rows, columns) whose combination by a virtual coil is real and positive.

    Each slice's maps have a phase of their own that nothing tells; with one ``coil``, (coil,), for all slices
    of a volume that phase is as smooth between slices as the maps are (Uecker et al., ESPIRiT, fixes it so
    within a slice, by the principal component of its coils).
    """
    combined = np.einsum("c,...cyx->...yx", coil.conj(), maps)
    size = np.abs(combined)
    phase = np.divide(combined.conj(), size, out=np.ones_like(combined), where=size > 0)
    turned: ComplexArray = maps * phase[..., None, :, :]
    return turned
