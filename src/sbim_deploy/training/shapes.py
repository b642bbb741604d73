"""Paints simple solids of a tissue into a slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbim_deploy.training.contrast import INDEX
from sbim_deploy.training.fields import Field, soft_step

EDGE_MM = 0.7
# A solid of air removes tissue.
AIR = "air"


@dataclass(frozen=True)
class Ellipsoid:
    """A tissue's ellipsoid with ``radii`` about ``centre``, and its mirror image in x, in mm of MNI space."""

    tissue: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


@dataclass(frozen=True)
class Tube:
    """A tissue's rod from ``start`` to ``end``, and its mirror image in x, in mm of MNI space."""

    tissue: str
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Section:
    """A slice's points of MNI space (3, h, w) in mm, the same with x folded to the right, and its bounds."""

    points: Field
    folded: Field
    low: Field
    high: Field


def section_at(points: Field) -> Section:
    """Return the section at ``points`` (3, h, w)."""
    folded = np.stack([np.abs(points[0]), points[1], points[2]])
    return Section(points, folded, folded.min(axis=(1, 2)), folded.max(axis=(1, 2)))


def paint(fractions: Field, tissue: str, cover: Field) -> None:
    """Lay a tissue over the ``fractions`` (n_tissues, h, w) by its ``cover`` (h, w) from 0 to 1, in place."""
    rows = np.flatnonzero(cover.any(axis=1))
    if rows.size == 0:
        return
    columns = np.flatnonzero(cover.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    fractions[:, *window] *= 1 - cover[window]
    if tissue != AIR:
        fractions[INDEX[tissue]][window] += cover[window]


def depth_within(solid: Ellipsoid | Tube, section: Section, growth: float = 0.0) -> Field | None:
    """Return how deep a section's points lie in a solid that is ``growth`` mm larger, (h, w) in mm.

    The result is None where no point is near it, so that a solid that the slice does not meet costs nothing.
    """
    ends = (solid.centre, solid.centre) if isinstance(solid, Ellipsoid) else (solid.start, solid.end)
    reach = np.add(solid.radii if isinstance(solid, Ellipsoid) else solid.radius, growth + EDGE_MM)
    if np.any(np.min(ends, axis=0) - reach > section.high) or np.any(
        np.max(ends, axis=0) + reach < section.low
    ):
        return None
    if isinstance(solid, Tube):
        return _depth_in_tube(solid, section.folded) + np.float32(growth)
    radii = np.asarray(solid.radii, np.float32) + np.float32(growth)
    arm = (section.folded - np.asarray(solid.centre, np.float32)[:, None, None]) / radii[:, None, None]
    return np.asarray((1 - np.sqrt(np.einsum("ihw,ihw->hw", arm, arm))) * radii.min())


def cover_of(solid: Ellipsoid | Tube, section: Section, growth: float = 0.0) -> Field | None:
    """Return how much of each pixel a solid covers, from 0 to 1, or None where it is nowhere near."""
    depth = depth_within(solid, section, growth)
    return None if depth is None else soft_step(depth, EDGE_MM)


def _depth_in_tube(tube: Tube, points: Field) -> Field:
    start, end = np.asarray(tube.start, np.float32), np.asarray(tube.end, np.float32)
    axis = end - start
    arm = points - start[:, None, None]
    along = np.clip(np.tensordot(axis / (axis @ axis), arm, 1), 0, 1)
    away = arm - axis[:, None, None] * along
    return np.asarray(tube.radius - np.sqrt(np.einsum("ihw,ihw->hw", away, away)))
