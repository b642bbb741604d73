"""Random lesions: hyperintensities of white matter, tumours with their oedema, cysts."""

from __future__ import annotations

import numpy as np

from sbim_deploy.training.fields import Field, Grid, smooth_field, soft_step
from sbim_deploy.training.relaxation import INDEX
from sbim_deploy.training.shapes import paint

TUMOUR_SHARE = 0.05
CYST_SHARE = 0.03
REACH_MM = 55.0


def paint_lesions(rng: np.random.Generator, fractions: Field, grid: Grid, age: float) -> None:
    """Paint lesions over the brain in ``fractions`` (n_tissues, h, w); the older, the likelier."""
    kinds = [INDEX[name] for name in ("gray", "deep_gray", "white")]
    brain = np.sum(fractions[kinds], axis=0)
    if rng.random() < 0.12 + 0.6 * age:
        paint(fractions, "lesion", _hyperintensities(rng, grid, age) * fractions[INDEX["white"]])
    if rng.random() < TUMOUR_SHARE:
        radius = rng.uniform(7, 20)
        depth = _blob(rng, grid, radius)
        core = depth - rng.uniform(0.2, 1.0) * radius + 0.3 * radius * smooth_field(rng, grid, 0.6 * radius)
        paint(fractions, "lesion", brain * 0.8 * soft_step(depth + rng.uniform(0, 12), 3))
        paint(fractions, "tumour", brain * soft_step(depth, 1.2))
        paint(fractions, "fluid", brain * soft_step(core, 1.5))
    if rng.random() < CYST_SHARE:
        paint(fractions, "fluid", brain * soft_step(_blob(rng, grid, rng.uniform(3, 14)), 0.8))


def _hyperintensities(rng: np.random.Generator, grid: Grid, age: float) -> Field:
    cover = np.zeros(grid.shape, np.float32)
    for _ in range(1 + rng.poisson(2 + 6 * age)):
        radius = rng.gamma(3.0, 0.9) + 0.8
        cover = np.maximum(cover, soft_step(_blob(rng, grid, radius), 0.5 + 0.3 * radius))
    return np.float32(rng.uniform(0.6, 1.0)) * cover


def _blob(rng: np.random.Generator, grid: Grid, radius: float) -> Field:
    """Return how deep the pixels lie in an irregular patch of ``radius`` somewhere in the slice, in mm."""
    row, column = rng.uniform(-REACH_MM, REACH_MM, 2).astype(np.float32)
    stretch = np.float32(np.exp(rng.normal(0, 0.25)))
    away = np.hypot((grid.rows[:, None] - row) * stretch, (grid.columns - column) / stretch)
    rough = 0.25 * smooth_field(rng, grid, 4 + radius) + 0.12 * smooth_field(rng, grid, 2 + 0.4 * radius)
    return np.asarray(radius * (1 + rough) - away)
