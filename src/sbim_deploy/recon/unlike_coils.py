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


@dataclass(frozen=True, eq=False)
class CoilNoise:
    """The noise that a slice is solved with: its standard deviation, and in words where it is from.

    ``mixing`` is the (coil, coil) matrix that makes the coils' noise white, None where they are alike, and
    ``faults`` tell of the coils that it drops.
    """

    level: float
    source: str
    mixing: ComplexArray | None = None
    faults: tuple[Fault, ...] = ()


def noise_of_coils(measured: NoiseEstimate, given: float | None, given_source: str) -> CoilNoise:
    """Return the noise that was given, of coils that are alike then, else what was measured.

    Coils that are unlike are whitened. The matrix's row of a coil that is left out, since it is dead or
    depends on others, is zero. The noise gets the level of the quiet coils, so that the maps'
    root-sum-of-squares stays near 1.
    """
    if given is not None:
        return CoilNoise(given, given_source)
    whitening = whitening_without_dependent_coils(measured.covariance)
    kept = np.setdiff1d(np.arange(len(measured.covariance)), whitening.left_out)
    deviations = measured.coil_sds[kept]
    if not whitening.left_out and deviations.max() < UNLIKE_COILS * deviations.min():
        return CoilNoise(measured.sd, measured.source)
    level = float(np.sqrt(len(kept)) / np.linalg.norm(whitening.matrix))
    mixing = np.zeros_like(measured.covariance)
    mixing[kept] = np.float32(level) * whitening.matrix
    faults: tuple[Fault, ...] = ()
    if whitening.left_out:
        coils = ", ".join(map(str, whitening.left_out))
        message = f"coil {coils} of {len(mixing)} measured nothing of its own and is left out"
        faults = (Fault("coil left out", message, False),)
    return CoilNoise(level, f"{measured.source}, coils whitened", mixing, faults)


def mixing_of_given_maps(whitening: ComplexArray | None, mixing: ComplexArray | None) -> ComplexArray | None:
    """Return the (coil, coil) matrix by which given maps become those of the coils that are solved with.

    The coils were whitened by ``whitening`` as k-space was read, and mixed by ``mixing`` after that; None is
    not at all. Of the first the matrix leaves a coil of median noise its power, so that the image is in units
    of that coil's noise, as k-space is of its own coils', and the maps' root-sum-of-squares stays near 1.
    """
    if whitening is None:
        return mixing
    even: ComplexArray = np.float32(_median_noise(whitening)) * whitening
    return even if mixing is None else mixing @ even


def _median_noise(whitening: ComplexArray) -> float:
    """Return the median of the noise of the coils that a matrix whitens; its rows of others are zero."""
    kept = np.flatnonzero(whitening.any(axis=1))
    colouring = np.linalg.inv(whitening[np.ix_(kept, kept)].astype(np.complex128))
    return float(np.median(np.linalg.norm(colouring, axis=1)))


def shade_as_unmixed(maps: ComplexArray, mixing: ComplexArray) -> ComplexArray:
    """Return maps of mixed coils so scaled that the unmixed coils' have a root-sum-of-squares of 1.

    The image then has the shading that it has without whitening.
    """
    norm = root_sum_of_squares(mix_coils(np.linalg.pinv(mixing), maps))[..., None, :, :]
    shaded: ComplexArray = np.divide(maps, norm, out=np.zeros_like(maps), where=norm > 0)
    return shaded
