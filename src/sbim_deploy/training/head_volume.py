"""Writes the head that 3-D scans are simulated of: ``python -m sbim_deploy.training.head_volume OUTPUT``.

OUTPUT is an .npz that holds ``magnitude`` (112, 112, 112), uint8, voxels of 2 mm from inferior to superior,
from anterior to posterior and from right to left: an axial slice at an index is upright. The same versions of
numpy and scipy write the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sbim_deploy.io.atomic import replacing
from sbim_deploy.training.fields import Field, soft_step
from sbim_deploy.training.held_out import run_writer
from sbim_deploy.training.tissues import Tissues, load_tissues

SIZE, SPACING_MM = 112, 2.0
CENTRE_MM = (0.0, -17.0, 12.0)  # of the field of view, (right, anterior, superior)
# Signals of an inversion-recovery gradient echo, white matter's 1.
FLUID, GRAY, WHITE, BONE, SCALP, DURA = 0.22, 0.68, 1.0, 0.12, 0.85, 0.4
SKULL_MM, SKIN_MM = 7.0, 12.0
FOLDS_MM = ((70.0, 2.5), (35.0, 0.6))  # scale and amplitude: nobody has the template's brain
SHADING, SHADING_MM = 0.12, 60.0
SEED = 5


def head_magnitude(tissues: Tissues) -> Field:
    """Return the magnitude (superior, posterior, left), at twice the resolution that is stored."""
    n = 2 * SIZE
    places = (np.arange(n) - n // 2) * np.float32(SPACING_MM / 2)
    rng = np.random.default_rng(SEED)
    warps = [_folds(rng, n) for _ in range(3)]
    magnitude = np.empty((n, n, n), np.float32)
    for index, height in enumerate(places):
        y, x = np.meshgrid(CENTRE_MM[1] - places, CENTRE_MM[0] - places, indexing="ij")
        points = np.stack([x, y, np.full_like(x, CENTRE_MM[2] + height)])
        points += np.stack([warp[index] for warp in warps])
        magnitude[index] = _slice(tissues, points.astype(np.float32))
    shading: Field = magnitude * np.exp(SHADING * _smooth(rng, n, SHADING_MM))
    return shading


def _slice(tissues: Tissues, points: Field) -> Field:
    everywhere = np.ones(points.shape[1:], np.bool_)
    gray, white, cavity, hull = (
        volume.sample(points, everywhere)
        for volume in (tissues.gray, tissues.white, tissues.from_cavity, tissues.from_hull)
    )
    image = SCALP * soft_step(SKIN_MM - hull, 1.0)
    image += (BONE - image) * soft_step(SKULL_MM - hull, 1.0)
    image += (DURA - image) * soft_step(2.0 - cavity, 1.0)
    inside = soft_step(0.8 - cavity, 1.0)
    gray, white = gray / np.maximum(gray + white, 1), white / np.maximum(gray + white, 1)
    brain = FLUID + (GRAY - FLUID) * gray + (WHITE - FLUID) * white
    return np.asarray(image + (brain - image) * inside, np.float32)


def _folds(rng: np.random.Generator, n: int) -> Field:
    """Return how far points are moved along one axis (n, n, n), in mm."""
    moved = np.zeros((n, n, n), np.float32)
    for scale, amplitude in FOLDS_MM:
        moved += np.float32(amplitude) * _smooth(rng, n, scale)
    return moved


def _smooth(rng: np.random.Generator, n: int, scale_mm: float) -> Field:
    """Return a field (n, n, n) of unit variance that varies over ``scale_mm``."""
    coarse = max(int(np.ceil(n * SPACING_MM / 2 / scale_mm)) + 3, 4)
    knots = rng.standard_normal((coarse, coarse, coarse)).astype(np.float32)
    fine = ndimage.zoom(knots, n / coarse, order=3, mode="nearest")
    return np.asarray(fine / fine.std(), np.float32)


def quantised_head() -> NDArray[np.uint8]:
    """Return what is stored."""
    fine = head_magnitude(load_tissues())
    coarse = fine.reshape(SIZE, 2, SIZE, 2, SIZE, 2).mean(axis=(1, 3, 5))
    quantised: NDArray[np.uint8] = np.round(coarse * (255 / coarse.max())).astype(np.uint8)
    return quantised


def write_head(path: Path) -> None:
    """Write the volume."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, magnitude=quantised_head())


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    return run_writer(write_head, ".npz", "sbim_deploy.training.head_volume", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
