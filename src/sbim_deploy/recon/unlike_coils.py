"""Coils whose noise differs: when they are whitened, and what becomes of their maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.mri.noise_level import NoiseEstimate
from sbim_deploy.mri.whitening import mix_coils, whitening_without_dependent_coils
from sbim_deploy.records import ComplexArray

# Coils whose noise is so many times that of others are worth whitening. Below it a covariance that was
# measured in the scan itself, where some of the object counts as noise, may cost more than it gains.
UNLIKE_COILS = 2.0


@dataclass(frozen=True)
class CoilWhitening:
    """The (coil, coil) matrix that whitens, the level of the noise after it, and the coils that it drops."""

    matrix: ComplexArray
    level: float
    faults: tuple[Fault, ...]


def whitening_of_unlike_coils(noise: NoiseEstimate) -> CoilWhitening | None:
    """Return what makes the coils' noise white; None where coils are alike.

    The matrix's row of a coil that is left out, since it is dead or depends on others, is zero. The noise
    gets the level of the quiet coils, so that the maps' root-sum-of-squares stays near 1.
    """
    whitening = whitening_without_dependent_coils(noise.covariance)
    kept = np.setdiff1d(np.arange(len(noise.covariance)), whitening.left_out)
    deviations = noise.coil_sds[kept]
    if not whitening.left_out and deviations.max() < UNLIKE_COILS * deviations.min():
        return None
    level = float(np.sqrt(len(kept)) / np.linalg.norm(whitening.matrix))
    matrix = np.zeros_like(noise.covariance)
    matrix[kept] = np.float32(level) * whitening.matrix
    faults: tuple[Fault, ...] = ()
    if whitening.left_out:
        coils = ", ".join(map(str, whitening.left_out))
        message = f"coil {coils} of {len(matrix)} measured nothing of its own and is left out"
        faults = (Fault("coil left out", message, False),)
    return CoilWhitening(matrix, level, faults)


def shade_as_unmixed(maps: ComplexArray, mixing: ComplexArray) -> ComplexArray:
    """Return maps of mixed coils so scaled that the unmixed coils' have a root-sum-of-squares of 1.

    The image then has the shading that it has without whitening.
    """
    norm = root_sum_of_squares(mix_coils(np.linalg.pinv(mixing), maps))[..., None, :, :]
    shaded: ComplexArray = np.divide(maps, norm, out=np.zeros_like(maps), where=norm > 0)
    return shaded
