"""Paints what lies in and around the brain: face, eyes, sinuses, jaw and spine, lesions, blood vessels."""

from __future__ import annotations

import numpy as np

from sbim_deploy.training.contrast import INDEX
from sbim_deploy.training.fields import Field, Grid, smooth_field, soft_step
from sbim_deploy.training.shapes import AIR, EDGE_MM, Ellipsoid, Section, Tube, cover_of, depth_within, paint

FACE = Ellipsoid("skin", (0, 38, -62), (58, 52, 62))
BASE = Ellipsoid("skin", (0, -15, -38), (78, 92, 48))
NOSE = Ellipsoid("skin", (0, 90, -56), (13, 17, 20))
EAR = Ellipsoid("skin", (80, -22, -36), (5, 13, 26))
NECK = Tube("skin", (0, -34, -60), (0, -40, -260), 56)
BLEND_MM = 5.0

# Painted in this order, each over those before; all have mirror images.
SPINE = tuple(
    Tube(tissue, (0, -26, -76), (0, -29, -200), radius) for tissue, radius in (("bone", 9.7), ("marrow", 8.5))
)
DISCS = tuple(Ellipsoid("dura", (0, -27, -90 - 17 * level), (12, 10, 2.2)) for level in range(4))
SOLIDS: tuple[Ellipsoid | Tube, ...] = (
    *SPINE,
    *DISCS,
    Ellipsoid("fat", (29, 45, -36), (15, 25, 15)),
    Tube("muscle", (19, 58, -37), (14, 30, -34), 1.8),
    Tube("muscle", (41, 58, -37), (26, 30, -34), 1.8),
    Tube("white", (31, 50, -37), (12, 22, -30), 2.0),
    Ellipsoid("dura", (31.5, 61, -37), (12.4, 12.4, 12.4)),
    Ellipsoid("fluid", (31.5, 61, -37), (11.2, 11.2, 11.2)),
    Ellipsoid("muscle", (31.5, 69.5, -37), (4.8, 2.2, 4.8)),
    Ellipsoid("muscle", (40, 18, -88), (7, 16, 18)),
    Ellipsoid("bone", (46, 26, -92), (6, 26, 9)),
    Ellipsoid("marrow", (46, 26, -92), (4, 24, 7)),
    Ellipsoid("muscle", (0, 40, -98), (24, 34, 19)),
    Ellipsoid("bone", (0, 62, -78), (22, 10, 4)),
    Ellipsoid("dura", (0, -48, -112), (10.5, 10, 46)),
    Ellipsoid("fluid", (0, -48, -112), (9.5, 9, 45)),
    Ellipsoid("white", (0, -48, -112), (6, 4.5, 44)),
    Ellipsoid("marrow", (0, -20, -50), (11, 7, 12)),
    Ellipsoid("gray", (0, 2, -40), (6, 5, 3.5)),
)
HOLLOWS = (
    Ellipsoid(AIR, (9, 71, -10), (10, 4.5, 9)),
    Ellipsoid(AIR, (7, 44, -38), (6, 22, 9)),
    Ellipsoid(AIR, (7, 14, -49), (8, 9, 7)),
    Ellipsoid(AIR, (29, 48, -63), (12, 16, 14)),
    Ellipsoid(AIR, (6, 50, -60), (5, 30, 15)),
    Ellipsoid(AIR, (0, 2, -86), (11, 5, 30)),
)
TURBINATES: tuple[Ellipsoid | Tube, ...] = (
    Ellipsoid("muscle", (8, 50, -64), (2.2, 22, 5)),
    Ellipsoid("muscle", (7, 46, -53), (1.8, 18, 4)),
    Tube("bone", (0, 24, -58), (0, 78, -58), 1.0),
)
MASTOID = Ellipsoid(AIR, (51, -36, -44), (8, 11, 13))

TUMOUR_SHARE = 0.05
CYST_SHARE = 0.03
REACH_MM = 55.0

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


def depths_of_face(section: Section) -> list[Field]:
    """Return how deep a section lies in face, skull's base, nose, ears and neck, each (h, w) in mm."""
    depths = [depth_within(solid, section) for solid in (FACE, BASE, NOSE, EAR, NECK)]
    return [depth for depth in depths if depth is not None]


def paint_face(
    rng: np.random.Generator, fractions: Field, section: Section, grid: Grid, below_skin: Field, room: Field
) -> None:
    """Paint the solids where there is ``room`` (h, w), from 0 to 1, for them, and not through the skin."""
    # Air spaces are as irregular as the bone around them. These fields are drawn even where the slice misses
    # them, so that later draws never depend on the edge of a pixel.
    rough = 1.5 * smooth_field(rng, grid, 7) + smooth_field(rng, grid, 3.5)
    cells = soft_step(smooth_field(rng, grid, 3), 0.5)
    if section.low[2] > 0:
        return
    room = room * soft_step(below_skin - 2.5, 1.0)
    for solid in SOLIDS:
        _paint(fractions, section, solid, room)
    for solid in HOLLOWS:
        depth = depth_within(solid, section, growth=1.0)
        if depth is not None:
            paint(fractions, "bone", soft_step(depth + rough + 1.2, EDGE_MM) * room)
            paint(fractions, AIR, soft_step(depth + rough, EDGE_MM) * room)
    for solid in TURBINATES:
        _paint(fractions, section, solid, room)
    cover = cover_of(MASTOID, section)
    if cover is not None:
        paint(fractions, "bone", cover * room)
        paint(fractions, AIR, cover * room * cells)


def paint_lesions(rng: np.random.Generator, fractions: Field, grid: Grid, age: float) -> None:
    """Paint lesions over the brain in ``fractions`` (n_tissues, h, w). They are likelier with ``age``."""
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


def _paint(fractions: Field, section: Section, solid: Ellipsoid | Tube, room: Field) -> None:
    cover = cover_of(solid, section)
    if cover is not None:
        paint(fractions, solid.tissue, cover * room)


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


def _sinuses(points: Field, from_inner_table: Field, radius: float) -> Field:
    """Return the cover of the superior sagittal sinus and of both transverse ones, by the inner table."""
    x, y, z = points
    # They begin thin and become wider: from the forehead back, and from the ears back.
    front, ears = np.clip(np.maximum(z, -(y + 62)) / 20, 0, 1), np.clip(-(y + 45) / 25, 0, 1)
    sagittal = radius * front - np.hypot(x * 0.8, from_inner_table + 0.4 * radius)
    transverse = radius * ears - np.hypot(z + 18 + 0.1 * np.abs(x), from_inner_table + 0.5 * radius)
    return soft_step(np.maximum(sagittal, transverse), 0.7)


def _threads(rng: np.random.Generator, grid: Grid, radius: float, rarity: float) -> Field:
    """Return thin curved lines with gaps: the zeros of a field where another field is above ``rarity``."""
    course = smooth_field(rng, grid, 16)
    slope = np.hypot(*np.gradient(course, grid.spacing))
    away = np.abs(course) / (slope + np.float32(1e-3))
    return soft_step(np.float32(radius) - away, 0.5) * soft_step(smooth_field(rng, grid, 8) - rarity, 0.4)
