"""Random planes through a randomly shaped head, in the coordinates of MNI space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from sbim_deploy.training.fields import Field, Grid, smooth_field

# In MNI space x points to the right, y to the front, z to the top.
VENTRICLES = np.array([0.0, -12.0, 14.0], np.float32)
# Each warp has a scale and an amplitude. Skulls are smooth, and brains fold within them.
HEAD_WARPS_MM = ((80.0, 4.0), (40.0, 1.0))
BRAIN_WARPS_MM = ((28.0, 1.8), (12.0, 1.2), (6.0, 0.4))
TILT_DEGREES = 5.0
OBLIQUE_SHARE, OBLIQUE_DEGREES = 0.15, 18.0


@dataclass(frozen=True)
class Orientation:
    """A family of parallel planes.

    ``columns`` and ``rows`` are their axes; the centre lies between ``nearest`` and ``farthest``, in mm.
    ``extent`` is what a head needs along (rows, columns), in mm.
    """

    name: str
    columns: tuple[float, float, float]
    rows: tuple[float, float, float]
    nearest: tuple[float, float, float]
    farthest: tuple[float, float, float]
    extent: tuple[float, float]
    share: float


ORIENTATIONS = (
    Orientation("axial", (1, 0, 0), (0, -1, 0), (-4, -22, -46), (4, -12, 64), (222, 186), 0.6),
    Orientation("coronal", (1, 0, 0), (0, 0, -1), (-4, -75, -10), (4, 50, 6), (225, 190), 0.2),
    Orientation("sagittal", (0, 1, 0), (0, 0, -1), (-48, -18, -10), (48, -8, 6), (225, 225), 0.2),
)


def random_orientation(rng: np.random.Generator) -> Orientation:
    """Draw an orientation by its share."""
    shares = [orientation.share for orientation in ORIENTATIONS]
    return ORIENTATIONS[rng.choice(len(ORIENTATIONS), p=shares)]


def random_plane(rng: np.random.Generator, orientation: Orientation, grid: Grid) -> tuple[Field, Field]:
    """Place a slice in a randomly shaped head.

    Some slices are oblique, most of them a little tilted.

    Returns:
        The points of MNI space (3, h, w) of its pixels, and the plane's normal (3,).
    """
    centre = rng.uniform(orientation.nearest, orientation.farthest)
    oblique = rng.random() < OBLIQUE_SHARE
    tilt = rng.normal(0, TILT_DEGREES, 3) + oblique * rng.uniform(-OBLIQUE_DEGREES, OBLIQUE_DEGREES, 3)
    turned = Rotation.from_euler("xyz", tilt, degrees=True).apply([orientation.columns, orientation.rows])
    columns, rows = turned.astype(np.float32)[:, :, None, None]
    points = centre.astype(np.float32)[:, None, None] + rows * grid.rows[:, None] + columns * grid.columns
    points *= rng.normal(1, 0.04, 3).astype(np.float32)[:, None, None]
    normal = np.cross(*turned).astype(np.float32)
    return np.asarray(points + _warp(rng, grid, HEAD_WARPS_MM)), normal


def random_brain(rng: np.random.Generator, points: Field, grid: Grid, age: float) -> Field:
    """Fold a random brain into a head, and return the points of the template's brain at its ``points``.

    ``age`` from 0 to 1 widens the ventricles.
    """
    folded = points + _warp(rng, grid, BRAIN_WARPS_MM)
    return _with_ventricles(folded, rng.uniform(-0.15, 0.1) + 0.45 * age)


def _warp(rng: np.random.Generator, grid: Grid, warps: tuple[tuple[float, float], ...]) -> Field:
    shift = np.zeros((3, *grid.shape), np.float32)
    for scale, amplitude in warps:
        shift += np.float32(amplitude) * np.stack([smooth_field(rng, grid, scale) for _ in range(3)])
    return shift


def _with_ventricles(points: Field, enlargement: float) -> Field:
    arm = points - VENTRICLES[:, None, None]
    near = np.exp(np.sum((arm / 24) ** 2, axis=0) * np.float32(-0.5))
    return np.asarray(points - np.float32(enlargement) * near * arm)
