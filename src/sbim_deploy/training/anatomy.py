"""Random anatomy in a slice: a plane through a deformed head, and how much of each tissue a pixel holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sbim_deploy.training.fields import smooth_field, soft_step
from sbim_deploy.training.tissues import Tissues

Field = NDArray[np.float64]

# In MNI space x points to the right, y to the front, z to the top.
VENTRICLES = np.array([0.0, -12.0, 14.0])
NECK = np.array([0.0, -38.0])
FACE = np.array([0.0, 38.0, -62.0])
FACE_RADII = np.array([58.0, 52.0, 62.0])


@dataclass(frozen=True)
class Orientation:
    """A family of parallel planes: the axes of columns and rows, and where the centre may lie, in mm."""

    columns: tuple[float, float, float]
    rows: tuple[float, float, float]
    nearest: tuple[float, float, float]
    farthest: tuple[float, float, float]
    share: float


ORIENTATIONS = (
    Orientation((1, 0, 0), (0, -1, 0), (-4, -22, -42), (4, -12, 62), 0.6),  # axial
    Orientation((1, 0, 0), (0, 0, -1), (-4, -75, -8), (4, 45, 8), 0.2),  # coronal
    Orientation((0, 1, 0), (0, 0, -1), (-45, -20, -8), (45, -8, 8), 0.2),  # sagittal
)


@dataclass(frozen=True)
class Fractions:
    """What each pixel holds, each (n, n); air is what is left."""

    gray: Field
    white: Field
    fluid: Field
    lesion: Field
    marrow: Field
    bone: Field
    muscle: Field
    fat: Field


def random_points(rng: np.random.Generator, positions: Field) -> Field:
    """Place a slice in a randomly shaped head: the points of MNI space (3, n, n) that its pixels show.

    ``positions`` (n,) are those of the pixels along either axis, in mm from the slice's centre.
    """
    shares = [orientation.share for orientation in ORIENTATIONS]
    orientation = ORIENTATIONS[rng.choice(len(ORIENTATIONS), p=shares)]
    centre = rng.uniform(orientation.nearest, orientation.farthest)
    tilt = Rotation.from_euler("xyz", rng.normal(0, (5, 5, 5)), degrees=True)
    columns, rows = tilt.apply([orientation.columns, orientation.rows])
    points = (
        centre[:, None, None]
        + rows[:, None, None] * positions[:, None]
        + columns[:, None, None] * positions[None, :]
    )
    points = points * rng.normal(1, 0.04, 3)[:, None, None]
    for scale, amplitude in ((70.0, 3.5), (28.0, 1.6), (12.0, 1.0)):
        points += amplitude * np.stack([smooth_field(rng, positions, scale) for _ in range(3)])
    return _with_ventricles(points, rng.uniform(-0.25, 0.45))


def _with_ventricles(points: Field, enlargement: float) -> Field:
    arm = points - VENTRICLES[:, None, None]
    near = np.exp(-0.5 * np.sum((arm / 24.0) ** 2, axis=0))
    return np.asarray(points - enlargement * near * arm)


def random_fractions(
    rng: np.random.Generator, tissues: Tissues, points: Field, positions: Field
) -> Fractions:
    """Fill the slice's ``points`` (3, n, n): the brain with lesions, and the head's layers around it."""
    distance = tissues.from_cavity.sample(points, mode="nearest").astype(np.float64)
    gap = rng.uniform(0.5, 3.0) + 0.7 * smooth_field(rng, positions, 30)
    cavity = soft_step(gap - distance, 0.35)
    gray, white, fluid = _brain(rng, tissues, points, positions)
    lesion = (0.4 * gray + white) * _lesions(rng, positions)
    inside = cavity * (1 - lesion)

    # The skull, and between its two tables the marrow.
    thickness = np.maximum(rng.uniform(4, 8) + 1.2 * smooth_field(rng, positions, 35), 2.5)
    across = (distance - gap) / thickness
    skull = (1 - cavity) * soft_step(1 - across, 0.08)
    marrow = skull * soft_step(0.28 - np.abs(across - 0.5), 0.05)

    scalp = np.maximum(rng.uniform(3.5, 8) + 0.8 * smooth_field(rng, positions, 45), 2)
    below_vault = gap + thickness + scalp - tissues.from_hull.sample(points, mode="nearest")
    below_skin = _smooth_maximum(below_vault, *_below_skin_of_face(points))
    soft = (1 - cavity - skull) * soft_step(below_skin, 0.35)
    meat, air = _soft_tissue(rng, positions, below_skin)
    return Fractions(
        gray=gray * inside,
        white=white * inside,
        fluid=fluid * cavity,
        lesion=lesion * cavity,
        marrow=marrow,
        bone=skull - marrow,
        muscle=soft * meat * (1 - air),
        fat=soft * (1 - meat) * (1 - air),
    )


def _brain(
    rng: np.random.Generator, tissues: Tissues, points: Field, positions: Field
) -> tuple[Field, Field, Field]:
    gray = tissues.gray.sample(points).astype(np.float64)
    white = tissues.white.sample(points).astype(np.float64)
    fluid = np.clip(1 - gray - white, 0, 1)
    # The template is a mean over people: a power makes its borders as sharp as one person's, and fields
    # move them, so that the folds are of no one in particular.
    sharpness = rng.uniform(1.5, 3.0)
    folds = 0.8 * smooth_field(rng, positions, 9) + 0.5 * smooth_field(rng, positions, 4)
    sulci = rng.uniform(-0.4, 1.0) + 0.6 * smooth_field(rng, positions, 14)
    gray_weight = gray**sharpness
    white_weight = white**sharpness * np.exp(folds)
    fluid_weight = fluid**sharpness * np.exp(sulci)
    total = gray_weight + white_weight + fluid_weight
    return gray_weight / total, white_weight / total, fluid_weight / total


def _lesions(rng: np.random.Generator, positions: Field) -> Field:
    lesions = np.zeros((positions.size, positions.size))
    n_lesions = rng.integers(1, 8) if rng.random() < 0.35 else 0
    for _ in range(n_lesions):
        row, column = rng.uniform(-60, 60, 2)
        height, width = rng.gamma(3.0, 1.3, 2) + 1.2
        profile = np.outer(
            np.exp(-0.5 * ((positions - row) / height) ** 2),
            np.exp(-0.5 * ((positions - column) / width) ** 2),
        )
        lesions = np.maximum(lesions, soft_step(profile - 0.5, 0.06))
    return lesions


def _below_skin_of_face(points: Field) -> tuple[Field, Field]:
    """How deep, in mm, ``points`` lie in an ellipsoid for the face and in a cylinder for the neck."""
    radius = np.sqrt(np.sum(((points - FACE[:, None, None]) / FACE_RADII[:, None, None]) ** 2, axis=0))
    face = (1 - radius) * FACE_RADII.min()
    neck = 56 - np.hypot(points[0] - NECK[0], points[1] - NECK[1])
    return face, np.minimum(neck, -45 - points[2])


def _smooth_maximum(*depths: Field, blend: float = 5.0) -> Field:
    return np.asarray(blend * np.logaddexp.reduce([depth / blend for depth in depths]))


def _soft_tissue(rng: np.random.Generator, positions: Field, below_skin: Field) -> tuple[Field, Field]:
    """Return the share of muscle in soft tissue, the rest being fat, and the share of air in the face."""
    texture = 0.8 * smooth_field(rng, positions, 9) + 0.6 * smooth_field(rng, positions, 22)
    fat_thickness = rng.uniform(3, 7)
    meat = soft_step(below_skin - fat_thickness, 0.6) * soft_step(texture + 0.6, 0.15)
    hollow = smooth_field(rng, positions, 13) - 0.9
    air = soft_step(hollow, 0.08) * soft_step(below_skin - 16, 1.5)
    return meat, air
