"""Draws the anatomy of a slice from a label map: how much of each tissue a pixel holds. The rest is air."""

from __future__ import annotations

from itertools import product
from math import ceil
from pathlib import Path

import numpy as np
from scipy import ndimage

from sbim_deploy.training.anatomy import folia
from sbim_deploy.training.contrast import INDEX, TISSUES
from sbim_deploy.training.fields import Field, Grid, smooth_field, soft_step
from sbim_deploy.training.label_maps import BRAIN_CENTRE, BRAIN_EXTENT, ZONE, ZONES, Head, read_lesion_box
from sbim_deploy.training.shapes import paint, section_at
from sbim_deploy.training.structures import paint_lesions, paint_vessels

THICKNESS_MM = (1.0, 5.0)
SUBSLICE_MM = 1.25
LESION_SHARE = 0.2
# The middle of the masks' standard space, in voxels of 1 mm.
LESION_CENTRE = np.array([78.0, 96.0, 55.0])
BRAIN_TISSUES = [INDEX[name] for name in ("gray", "deep_gray", "white")]


def random_head_fractions(
    rng: np.random.Generator,
    head: Head,
    lesions: tuple[Path, ...],
    plane: tuple[Field, Field],
    grid: Grid,
    age: float,
) -> Field:
    """Fill a slice of a head: fractions (n_tissues, h, w) in the order of ``TISSUES``.

    Args:
        rng: what is drawn from it: the slice's thickness, soft tissues, lesions, vessels.
        head: the label map.
        lesions: masks of lesions, one of which is laid over some slices' brain.
        plane: points of MNI space (3, h, w) in mm, and the plane's normal (3,).
        grid: the slice's pixels.
        age: from 0 to 1; lesions are likelier with it.
    """
    points, normal = plane
    zones = _thick_zones(head, points, normal, rng.uniform(*THICKNESS_MM))
    fractions = np.zeros((len(TISSUES), *grid.shape), np.float32)
    for zone, fraction in zip(ZONES, zones, strict=True):
        for tissue, share in zone.shares:
            fractions[INDEX[tissue]] += np.float32(share) * fraction
    everywhere = np.ones(grid.shape, bool)
    below_skin = head.below_skin.sample(points, everywhere)
    # No vessels run through the ventricles.
    from_inner_table = head.from_inner_table.sample(points, everywhere) + 50 * zones[ZONE["ventricle"]]
    _add_soft_tissue(rng, fractions, zones, grid, below_skin)
    _add_marrow(rng, fractions, grid)
    _add_rims(fractions, zones)
    fissures, core = folia(rng, points, grid, zones[ZONE["cerebellar_cortex"]])
    paint(fractions, "fluid", 0.8 * fissures)
    paint(fractions, "white", 0.5 * np.clip(core, 0, 1))
    if lesions and rng.random() < LESION_SHARE:
        _paint_lesion(rng, fractions, points, head, lesions)
    paint_lesions(rng, fractions, grid, age)
    paint_vessels(rng, fractions, section_at(points), grid, from_inner_table)
    return fractions


def _thick_zones(head: Head, points: Field, normal: Field, thickness: float) -> Field:
    """Return the fractions of zones (n_zones, h, w), means over the slice's thickness."""
    n = ceil(thickness / SUBSLICE_MM)
    total = np.zeros((len(ZONES), *points.shape[1:]), np.float32)
    for offset in (np.arange(n) - (n - 1) / 2) * (thickness / n):
        total += _zones_at(head, points + np.float32(offset) * normal[:, None, None])
    return np.asarray(total / n, np.float32)


def _zones_at(head: Head, points: Field) -> Field:
    """Return the fractions of zones at ``points`` (3, h, w), with borders as smooth as a surface's.

    Labels are weighed by quadratic B-splines, which rounds the corners of voxels, and squared, which makes
    the borders as sharp as before.
    """
    places = (points - head.origin[:, None, None]) / head.spacing[:, None, None]
    # Below the map the neck goes on, mirrored.
    np.abs(places[2], out=places[2])
    nearest = np.round(places)
    away = places - nearest
    weights = (0.5 * (0.5 - away) ** 2, 0.75 - away**2, 0.5 * (0.5 + away) ** 2)
    size = np.array(head.zones.shape)[:, None, None]
    inside = np.all((nearest >= -1) & (nearest <= size), axis=0)
    rows, columns = np.nonzero(inside)
    base = nearest[:, rows, columns].astype(np.int32)
    parts = [weight[:, rows, columns] for weight in weights]
    n_pixels = rows.size
    fractions = np.zeros((len(ZONES), *points.shape[1:]), np.float32)
    fractions[0] = 1
    if n_pixels == 0:
        return fractions
    flat, strides = head.zones.reshape(-1), np.array(head.zones.strides)
    steps = [
        [np.clip(base[axis] + shift, 0, head.zones.shape[axis] - 1) * strides[axis] for shift in (-1, 0, 1)]
        for axis in range(3)
    ]
    sums = np.zeros(len(ZONES) * n_pixels)
    pixel = np.arange(n_pixels)
    for i, j in product(range(3), repeat=2):
        across = parts[i][0] * parts[j][1]
        start = steps[0][i] + steps[1][j]
        keys = [flat[start + steps[2][k]].astype(np.int64) * n_pixels + pixel for k in range(3)]
        sums += np.bincount(
            np.concatenate(keys),
            np.concatenate([across * parts[k][2] for k in range(3)]),
            minlength=sums.size,
        )
    squares = np.square(sums.reshape(len(ZONES), n_pixels))
    fractions[:, rows, columns] = squares / squares.sum(axis=0)
    return fractions


def _add_soft_tissue(
    rng: np.random.Generator, fractions: Field, zones: Field, grid: Grid, below_skin: Field
) -> None:
    """Part what the maps do not: skin from the fat below it, and muscle from the fat between."""
    skin = soft_step(rng.uniform(1.2, 2.2) - below_skin, 0.6)
    fractions[INDEX["skin"]] += zones[ZONE["skin"]] * skin
    fractions[INDEX["fat"]] += zones[ZONE["skin"]] * (1 - skin)
    sheets = soft_step(np.abs(smooth_field(rng, grid, 12)) - rng.uniform(0.04, 0.16), 0.08)
    pads = soft_step(smooth_field(rng, grid, 22) + rng.uniform(0.2, 1.2), 0.2)
    muscle = sheets * pads
    fractions[INDEX["muscle"]] += zones[ZONE["soft"]] * muscle
    fractions[INDEX["fat"]] += zones[ZONE["soft"]] * (1 - muscle)


def _add_marrow(rng: np.random.Generator, fractions: Field, grid: Grid) -> None:
    """Turn some of the bone's inside into marrow, which the maps have in a few places only."""
    bone = fractions[INDEX["bone"]]
    patches = soft_step(smooth_field(rng, grid, 12) - rng.uniform(-0.5, 1.2), 0.7)
    paint(fractions, "marrow", patches * soft_step(bone - 0.9, 0.1) * rng.uniform(0.3, 0.9))


def _add_rims(fractions: Field, zones: Field) -> None:
    """Lay dura between fluid and bone, and the sclera around the eye, where the two are blurred alike."""
    eye, bone, fluid = zones[ZONE["eye"]], zones[ZONE["bone"]], zones[ZONE["fluid"]]
    paint(fractions, "dura", np.clip(2.0 * bone * fluid, 0, 0.8))
    paint(fractions, "dura", np.clip(2.5 * eye * (1 - eye), 0, 0.8))


def _paint_lesion(
    rng: np.random.Generator, fractions: Field, points: Field, head: Head, lesions: tuple[Path, ...]
) -> None:
    """Lay a real lesion over the brain: at its place, or mirrored, a little moved and of another size."""
    mask, corner = read_lesion_box(lesions[rng.integers(len(lesions))])
    scale = (BRAIN_EXTENT / head.brain_extent) * rng.uniform(0.8, 1.3)
    scale[0] *= rng.choice((-1, 1))
    shift = rng.normal(0, 4, 3)
    arm = points - BRAIN_CENTRE.astype(np.float32)[:, None, None]
    places = (LESION_CENTRE + shift - corner)[:, None, None] + scale[:, None, None] * arm
    cover = ndimage.map_coordinates(mask, places, output=np.float32, order=1, mode="constant")
    brain = fractions[BRAIN_TISSUES].sum(axis=0)
    paint(fractions, "lesion", np.float32(rng.uniform(0.6, 1)) * soft_step(cover - 0.5, 0.4) * brain)
