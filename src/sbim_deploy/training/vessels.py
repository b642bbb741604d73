"""Blood vessels: the sinuses of the dura, the arteries at the base, and small ones in the sulci and scalp."""

from __future__ import annotations

import numpy as np

from sbim_deploy.training.fields import Field, Grid, smooth_field, soft_step
from sbim_deploy.training.relaxation import INDEX
from sbim_deploy.training.shapes import Section, Tube, cover_of, paint

ARTERIES = (
    Tube("blood", (0, -22, -48), (0, -12, -18), 1.3),  # basilar
    Tube("blood", (0, -22, -48), (12, -36, -72), 1.2),  # vertebral
    Tube("blood", (13, 2, -50), (12, 2, -20), 1.9),  # internal carotid
    Tube("blood", (12, 2, -19), (36, 4, -16), 1.5),  # middle cerebral
    Tube("blood", (36, 4, -16), (44, -14, 2), 1.2),
    Tube("blood", (12, 3, -18), (1.5, 24, -10), 1.2),  # anterior cerebral
    Tube("blood", (1.5, 24, -10), (1.5, 42, 8), 1.1),
    Tube("blood", (1.5, 42, 8), (1.5, 26, 36), 1.0),
    Tube("blood", (1, -12, -18), (22, -28, -12), 1.2),  # posterior cerebral
    Tube("blood", (26, -8, -78), (26, 0, -130), 3.0),  # carotid in the neck
    Tube("blood", (1, -42, 12), (1, -70, 8), 1.5),  # straight sinus and great vein
)


def paint_vessels(
    rng: np.random.Generator, fractions: Field, section: Section, grid: Grid, from_inner_table: Field
) -> None:
    """Paint vessels over ``fractions`` (n_tissues, h, w); ``from_inner_table`` is in mm, negative inside."""
    inside = soft_step(-from_inner_table, 0.7)
    paint(fractions, "blood", _sinuses(section.points, from_inner_table, rng.uniform(2.6, 4.6)) * inside)
    for artery in ARTERIES:
        cover = cover_of(artery, section, rng.uniform(-0.4, 0.3))
        if cover is not None:
            paint(fractions, "blood", cover)
    cover = _threads(rng, grid, rng.uniform(0.35, 0.8), 0.5)
    paint(fractions, "blood", cover * fractions[INDEX["fluid"]] * inside)
    paint(fractions, "blood", _threads(rng, grid, 0.5, 1.1) * fractions[INDEX["fat"]])
    spaces = _threads(rng, grid, 0.3, 0.8) * np.float32(rng.uniform(0, 0.4))
    paint(fractions, "fluid", spaces * fractions[INDEX["white"]])


def _sinuses(points: Field, from_inner_table: Field, radius: float) -> Field:
    """Return the cover of the superior sagittal sinus and of both transverse ones, by the inner table."""
    x, y, z = points
    # They swell from nothing: from the forehead back, and from the ears.
    front, ears = np.clip(np.maximum(z, -(y + 62)) / 20, 0, 1), np.clip(-(y + 45) / 25, 0, 1)
    sagittal = radius * front - np.hypot(x * 0.8, from_inner_table + 0.4 * radius)
    transverse = radius * ears - np.hypot(z + 18 + 0.1 * np.abs(x), from_inner_table + 0.5 * radius)
    return soft_step(np.maximum(sagittal, transverse), 0.7)


def _threads(rng: np.random.Generator, grid: Grid, radius: float, rarity: float) -> Field:
    """Return thin curved lines with gaps: the zeros of a field, where another one is above ``rarity``."""
    course = smooth_field(rng, grid, 16)
    slope = np.hypot(*np.gradient(course, grid.spacing))
    away = np.abs(course) / (slope + np.float32(1e-3))
    return soft_step(np.float32(radius) - away, 0.5) * soft_step(smooth_field(rng, grid, 8) - rarity, 0.4)
