"""Random synthetic slices of the brain, one for each seed.

Everything random is drawn from ``numpy.random.default_rng([stream, index])``. The two streams never meet,
whatever the index: training draws from the first alone, so that no slice of the second was ever trained on.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.records import ComplexArray
from sbim_deploy.training.acquisition import acquire, random_phase, random_shading
from sbim_deploy.training.anatomy import random_fractions
from sbim_deploy.training.contrast import random_magnitude, random_protocol
from sbim_deploy.training.fields import Grid
from sbim_deploy.training.placement import random_orientation, random_points
from sbim_deploy.training.shapes import section_at
from sbim_deploy.training.tissues import Tissues

TRAINING_STREAM = 0
HELD_OUT_STREAM = 1

MIN_SIZE = 16
# The anatomy is drawn on a grid that is finer than the image, and at least this fine.
OVERSAMPLING = 1.5
FINE_SPACING_MM = 1.3

Size = int | tuple[int, int]


def training_slice(tissues: Tissues, index: int, size: Size) -> ComplexArray:
    """Return the training slice ``index``, of ``size`` pixels along both axes or (rows, columns)."""
    return brain_slice(tissues, np.random.default_rng([TRAINING_STREAM, index]), size)


def held_out_slice(tissues: Tissues, index: int, size: Size) -> ComplexArray:
    """Return the slice ``index`` that training never sees, of ``size`` as in ``training_slice``."""
    return brain_slice(tissues, np.random.default_rng([HELD_OUT_STREAM, index]), size)


def brain_slice(tissues: Tissues, rng: np.random.Generator, size: Size) -> ComplexArray:
    """Draw a complex slice (rows, columns), its magnitude's 99th percentile 1.

    A random plane through a randomly deformed head, as a random pulse sequence shows it, with the coils'
    shading and a phase, and with no more of k-space than a scanner would acquire. Pixels are square and the
    head fits the field of view. The same ``rng`` gives the same anatomy at any even size of one aspect.

    Raises:
        InputError: ``size`` is too small for a brain.
    """
    shape = (size, size) if isinstance(size, int) else size
    if min(shape) < MIN_SIZE:
        raise InputError(f"size is {size}: a slice needs at least {MIN_SIZE} x {MIN_SIZE} pixels")
    orientation = random_orientation(rng)
    needed = max(length / n for length, n in zip(orientation.extent, shape, strict=True))
    spacing = needed * rng.uniform(0.97, 1.14)
    fineness = max(OVERSAMPLING, spacing / FINE_SPACING_MM)
    fine_shape = (2 * ceil(shape[0] * fineness / 2), 2 * ceil(shape[1] * fineness / 2))
    grid = Grid(fine_shape, spacing * shape[0] / fine_shape[0])
    age = float(rng.beta(1.2, 2.0))
    points = random_points(rng, orientation, grid)
    fractions = random_fractions(rng, tissues, section_at(points), grid, age)
    magnitude = random_magnitude(rng, random_protocol(rng), fractions, grid)
    magnitude *= random_shading(rng, grid)
    image = magnitude * np.exp(1j * random_phase(rng, points, grid))
    acquired = acquire(rng, image, shape)
    return np.asarray(acquired / np.percentile(np.abs(acquired), 99), np.complex64)
