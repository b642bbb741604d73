"""Random synthetic slices of the brain, one for each seed.

Everything random is drawn from ``numpy.random.default_rng([stream, index])``. The two streams never meet,
whatever the index: training draws from the first alone, so that no slice of the second was ever trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft
from sbim_deploy.records import ComplexArray
from sbim_deploy.training.anatomy import Field, random_fractions, random_points
from sbim_deploy.training.contrast import random_magnitude
from sbim_deploy.training.fields import smooth_field, soft_step
from sbim_deploy.training.tissues import Tissues

TRAINING_STREAM = 0
HELD_OUT_STREAM = 1

MIN_SIZE = 16


def training_slice(tissues: Tissues, index: int, size: int) -> ComplexArray:
    """Return the training slice ``index``, (size, size)."""
    return brain_slice(tissues, np.random.default_rng([TRAINING_STREAM, index]), size)


def held_out_slice(tissues: Tissues, index: int, size: int) -> ComplexArray:
    """Return the slice ``index`` that training never sees, (size, size)."""
    return brain_slice(tissues, np.random.default_rng([HELD_OUT_STREAM, index]), size)


def brain_slice(tissues: Tissues, rng: np.random.Generator, size: int) -> ComplexArray:
    """Draw a complex slice (size, size), its magnitude's 99th percentile 1.

    A random plane through a randomly deformed head, of random contrast, with a bias field and a smooth
    phase, sampled in k-space up to the resolution that ``size`` has. The same ``rng`` gives the same anatomy
    at any even size.

    Raises:
        InputError: ``size`` is too small for a brain.
    """
    if size < MIN_SIZE:
        raise InputError(f"size is {size}: a slice needs at least {MIN_SIZE} x {MIN_SIZE} pixels")
    field_of_view = rng.uniform(215, 255)
    n_fine = size + size // 4 * 2
    extent = field_of_view / 2
    positions = np.arange(-(n_fine // 2), n_fine - n_fine // 2) * np.float64(field_of_view / n_fine)
    points = random_points(rng, positions)
    magnitude = random_magnitude(rng, random_fractions(rng, tissues, points, positions))
    magnitude *= _random_shading(rng, positions)
    image = magnitude * np.exp(1j * _random_phase(rng, positions / extent))
    acquired = _acquire(rng, image, size)
    return np.asarray(acquired / np.percentile(np.abs(acquired), 99), np.complex64)


def _random_shading(rng: np.random.Generator, positions: Field) -> Field:
    """Multiply a receive coil's slow bias, which ends with the field of view, and the tissues' unevenness."""
    bias = rng.uniform(0.05, 0.25) * smooth_field(rng, positions, 90)
    texture = rng.uniform(0.01, 0.04) * (smooth_field(rng, positions, 3) + smooth_field(rng, positions, 8))
    reach = soft_step(0.95 * np.abs(positions).max() - np.abs(positions), 2.5)
    return np.asarray(reach[:, None] * reach[None, :] * np.exp(bias + texture))


def _random_phase(rng: np.random.Generator, positions: Field) -> Field:
    """Draw a phase in radian: an offset, a ramp and slow waves; ``positions`` run from -1 to 1."""
    ramp = rng.normal(0, 1.0, 2)
    waves = rng.uniform(0.1, 0.7) * smooth_field(rng, positions, 0.7)
    return np.asarray(
        rng.uniform(0, 2 * np.pi) + ramp[0] * positions[:, None] + ramp[1] * positions[None, :] + waves
    )


def _acquire(rng: np.random.Generator, image: NDArray[Any], size: int) -> NDArray[Any]:
    """Keep the centre (size, size) of k-space, apodised, as a scanner would."""
    kspace = centre_crop(centred_fft(image), (size, size))
    frequencies = (np.arange(size) - size // 2) / (size / 2)
    window = np.exp(-0.5 * (rng.uniform(0.6, 1.5) * frequencies) ** 2)
    return centred_ifft(kspace * window[:, None] * window[None, :])
