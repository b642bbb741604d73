"""Draws random anatomy in a slice: how much of each tissue a pixel holds. The rest is air."""

from __future__ import annotations

import numpy as np

from sbim_deploy.training.contrast import INDEX, TISSUES
from sbim_deploy.training.fields import Field, Grid, smooth_field, soft_step
from sbim_deploy.training.placement import random_brain
from sbim_deploy.training.shapes import AIR, Ellipsoid, Section, depth_within, paint
from sbim_deploy.training.structures import BLEND_MM, depths_of_face, paint_face, paint_lesions, paint_vessels
from sbim_deploy.training.tissues import Tissues

DEEP = Ellipsoid("deep_gray", (0, -4, 3), (36, 34, 22))
CEREBELLUM = Ellipsoid("gray", (0, -64, -36), (56, 32, 27))
FOLIA_CENTRE = (-46.0, -30.0)
# It lies above the sella, where the closed brain leaves a cone of bone.
CISTERN = Ellipsoid("fluid", (0, 4, -20), (17, 19, 16))
TEMPLE = Ellipsoid("muscle", (66, 6, -18), (18, 34, 34))


def random_fractions(
    rng: np.random.Generator, tissues: Tissues, section: Section, grid: Grid, age: float
) -> Field:
    """Fill a section of the head: fractions (n_tissues, h, w) in the order of ``TISSUES``.

    Layers are painted from the outside in, each over what was there: scalp, face, skull, brain, lesions,
    vessels.
    """
    fractions = np.zeros((len(TISSUES), *grid.shape), np.float32)
    from_cavity = tissues.from_cavity.sample(section.points, np.ones(grid.shape, bool))
    gap = rng.uniform(0.8, 2.0) + 2.0 * age + 0.6 * smooth_field(rng, grid, 30)
    from_inner_table = from_cavity - gap
    cistern = depth_within(CISTERN, section)
    if cistern is not None:
        from_inner_table = np.minimum(from_inner_table, -cistern)
    thickness = np.maximum(rng.uniform(4.5, 8) + smooth_field(rng, grid, 35), 2.5)
    scalp = np.maximum(rng.uniform(3.5, 7.5) + 0.8 * smooth_field(rng, grid, 45), 2.5)
    temple = _share(TEMPLE, section, 14)
    from_hull = tissues.from_hull.sample(section.points, from_cavity > 0)
    depths = [gap + thickness + scalp + 9 * temple - from_hull, *depths_of_face(section)]
    below_skin = BLEND_MM * np.logaddexp.reduce([depth / np.float32(BLEND_MM) for depth in depths])
    _paint_scalp(rng, fractions, grid, below_skin, from_inner_table - thickness, temple)
    paint_face(rng, fractions, section, grid, below_skin, soft_step(from_inner_table - 1, 1.5))
    _paint_skull(rng, fractions, grid, from_inner_table, thickness)
    paint(fractions, "dura", soft_step(-from_inner_table, 0.4))
    inside = soft_step(-from_inner_table - 0.7, 0.4)
    _paint_brain(rng, fractions, tissues, section, grid, inside, age)
    paint_lesions(rng, fractions, grid, age)
    paint_vessels(rng, fractions, section, grid, from_inner_table)
    return fractions


def _paint_scalp(
    rng: np.random.Generator,
    fractions: Field,
    grid: Grid,
    below_skin: Field,
    from_skull: Field,
    temple: Field,
) -> None:
    skin, fat = rng.uniform(1.3, 2.2), rng.uniform(2.0, 6.0) + 0.7 * smooth_field(rng, grid, 25)
    paint(fractions, "skin", soft_step(below_skin, 0.6))
    paint(fractions, "fat", soft_step(below_skin - skin, 0.5))
    muscle = soft_step(below_skin - skin - fat, 0.6)
    # Fat lies between the muscles, in sheets, and in pads.
    sheets = soft_step(np.abs(smooth_field(rng, grid, 14)) - 0.13, 0.1)
    pads = soft_step(smooth_field(rng, grid, 20) + 1.1, 0.15)
    paint(fractions, "muscle", muscle * np.maximum(np.minimum(sheets, pads), soft_step(temple - 0.2, 0.2)))
    # The galea lies on the bone.
    paint(fractions, "dura", 0.6 * soft_step(0.9 - from_skull, 0.4) * soft_step(below_skin - 2, 0.5))


def _paint_skull(
    rng: np.random.Generator, fractions: Field, grid: Grid, from_inner_table: Field, thickness: Field
) -> None:
    paint(fractions, "bone", soft_step(thickness - from_inner_table, 0.5))
    inner, outer = rng.uniform((0.9, 1.1), (1.6, 2.0))
    depth = np.minimum(from_inner_table - inner, thickness - outer - from_inner_table)
    # The marrow is patchy, and missing where the bone is thin.
    patches = soft_step(smooth_field(rng, grid, 12) + rng.uniform(0.3, 1.6), 0.7)
    grain = 1 - 0.25 * soft_step(smooth_field(rng, grid, 2.5), 1.0)
    paint(fractions, "marrow", soft_step(depth, 0.5) * patches * grain)


def _paint_brain(
    rng: np.random.Generator,
    fractions: Field,
    tissues: Tissues,
    section: Section,
    grid: Grid,
    inside: Field,
    age: float,
) -> None:
    brain = random_brain(rng, section.points, grid, age)
    maps = [each.sample(brain, inside > 0) for each in (tissues.gray, tissues.white, tissues.sulci)]
    cerebellum, deep = (_share(solid, section, 3) for solid in (CEREBELLUM, DEEP))
    # The template is a mean over people. A power makes its borders as sharp as those of one person.
    sharpness = rng.uniform(2.5, 4.0)
    maps[2] *= (1 - deep) * (1 - cerebellum)
    gray, white, fluid = (each**sharpness for each in _opened(rng, maps, brain, grid, cerebellum, age))
    # The borders are moved, so that the folds are those of no one in particular.
    folds = 0.7 * smooth_field(rng, grid, 9) + 0.4 * smooth_field(rng, grid, 4)
    clefts = rng.uniform(-0.6, 0.2) + 0.9 * age + 0.5 * smooth_field(rng, grid, 14)
    white, fluid = white * np.exp(folds), fluid * np.exp(clefts)
    scale = inside / (gray + white + fluid + np.float32(1e-6))
    paint(fractions, AIR, inside)
    fractions[INDEX["gray"]] += gray * scale * (1 - deep)
    fractions[INDEX["deep_gray"]] += gray * scale * deep
    fractions[INDEX["white"]] += white * scale
    fractions[INDEX["fluid"]] += fluid * scale
    falx = soft_step(0.6 - np.abs(section.points[0]), 0.6) * soft_step(section.points[2] - 12, 6)
    paint(fractions, "dura", 0.8 * falx * fractions[INDEX["fluid"]])


def _opened(
    rng: np.random.Generator, maps: list[Field], brain: Field, grid: Grid, cerebellum: Field, age: float
) -> tuple[Field, Field, Field]:
    """Return gray, white and fluid, with fluid in the sulci and fissures, which the template has closed."""
    gray, white, sulci = maps
    opening = (rng.uniform(0.25, 0.65) + 0.5 * age) * np.exp(0.35 * smooth_field(rng, grid, 14))
    fissures, core = folia(rng, brain, grid, cerebellum)
    fluid = np.clip(1 - gray - white, 0, 1) + opening * sulci + fissures
    return gray, white * (1 + core), fluid


def folia(rng: np.random.Generator, points: Field, grid: Grid, cerebellum: Field) -> tuple[Field, Field]:
    """Return the fissures of the cerebellum, and its white core: sheets that fan out from the front."""
    y, z = points[1] - FOLIA_CENTRE[0], points[2] - FOLIA_CENTRE[1]
    away = np.hypot(y, z)
    bends = 0.25 * smooth_field(rng, grid, 12)
    angle = np.arctan2(z, -y) + np.float32(0.004) * np.abs(points[0]) + bends / (1 + away / 8)
    sheets = np.cos(angle * 22) * soft_step(away - 10, 6)
    fissures = np.clip(sheets - 0.35, 0, 1) * cerebellum * soft_step(away - 12, 10)
    return 0.9 * fissures, 0.6 * np.clip(-sheets, 0, 1) * cerebellum


def _share(solid: Ellipsoid, section: Section, edge: float) -> Field:
    depth = depth_within(solid, section)
    return np.zeros(section.points.shape[1:], np.float32) if depth is None else soft_step(depth, edge)
