"""What lies below and before the brain: eyes, sinuses, airway, jaw, spine; coarse, but where it belongs."""

from __future__ import annotations

import numpy as np

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


def depths_of_face(section: Section) -> list[Field]:
    """Return how deep a section lies in face, skull's base, nose, ears and neck, each (h, w) in mm."""
    depths = [depth_within(solid, section) for solid in (FACE, BASE, NOSE, EAR, NECK)]
    return [depth for depth in depths if depth is not None]


def paint_face(
    rng: np.random.Generator, fractions: Field, section: Section, grid: Grid, below_skin: Field, room: Field
) -> None:
    """Paint the solids where there is ``room`` (h, w), from 0 to 1, for them, and not through the skin."""
    # Air spaces are as irregular as the bone around them. Drawn whether or not the slice meets them, so that
    # what is drawn later never hangs on the edge of a pixel.
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


def _paint(fractions: Field, section: Section, solid: Ellipsoid | Tube, room: Field) -> None:
    cover = cover_of(solid, section)
    if cover is not None:
        paint(fractions, solid.tissue, cover * room)
