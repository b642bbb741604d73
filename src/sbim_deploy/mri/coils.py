"""Simulated receive coils."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from sbim_deploy.mri.combine import normalise_maps
from sbim_deploy.records import ComplexArray, FloatArray

LOOP_RADIUS, LOOP_DISTANCE, RING_HEIGHT = 0.6, 1.6, 0.45  # in units of half the field of view
LOOP_SEGMENTS = 24
LOOP_GRID = 40  # voxels along each axis on which the fields are computed


def birdcage_maps(n_coils: int, shape: tuple[int, int], radius: float = 1.5) -> ComplexArray:
    """Return the maps (coil, rows, columns) of a ring of coils, of unit root-sum-of-squares.

    Each coil is a long wire along the bore, whose field falls off as 1 / r and turns with the direction to
    the wire (Biot-Savart). ``radius`` is in units of half the field of view.
    """
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    wires = radius * np.exp(2j * np.pi * np.arange(n_coils) / n_coils)
    offsets = (x[None, :] + 1j * y[:, None]) - wires[:, None, None]
    maps: ComplexArray = (1 / offsets).astype(np.complex64)
    return normalise_maps(maps)


def loop_maps(n_coils: int, shape: tuple[int, int, int]) -> ComplexArray:
    """Return the maps (coil, *shape) of loops in two rings around the first axis, of unit norm.

    Each loop faces the axis; what it receives is the part of its field across the axis, by Biot and Savart
    for straight segments taken as points.
    """
    grid = tuple(min(n, LOOP_GRID) for n in shape)
    points = np.stack(np.meshgrid(*(2 * (np.arange(n) - n // 2) / n for n in grid), indexing="ij"), axis=-1)
    coarse = np.empty((n_coils, *grid), np.complex64)
    for coil in range(n_coils):
        angle = 2 * np.pi * coil / n_coils
        height = 0.0 if n_coils == 1 else RING_HEIGHT * (-1) ** coil
        coarse[coil] = _received(points.astype(np.float32), angle, height)
    if grid == shape:
        maps = coarse
    else:
        steps = [old / new for old, new in zip(grid, shape, strict=True)]
        offset = [old // 2 - step * (new // 2) for old, new, step in zip(grid, shape, steps, strict=True)]
        maps = np.empty((n_coils, *shape), np.complex64)
        for coil in range(n_coils):
            for part in ("real", "imag"):
                values = getattr(coarse[coil], part)
                fine = scipy.ndimage.affine_transform(values, steps, offset, shape, order=3, mode="nearest")
                setattr(maps[coil], part, fine)
    norm = np.sqrt((maps.real**2 + maps.imag**2).sum(axis=0))
    unit: ComplexArray = maps / norm
    return unit


def _received(points: FloatArray, angle: float, height: float) -> ComplexArray:
    """Return the field of one loop across the first axis, as a complex number, at points (..., 3)."""
    outward = np.array([0.0, np.cos(angle), np.sin(angle)])
    along, across = np.array([1.0, 0.0, 0.0]), np.array([0.0, -np.sin(angle), np.cos(angle)])
    centre = LOOP_DISTANCE * outward + height * along
    field = np.zeros(points.shape, np.float32)
    for segment in range(LOOP_SEGMENTS):
        turn = 2 * np.pi * segment / LOOP_SEGMENTS
        place = centre + LOOP_RADIUS * (np.cos(turn) * along + np.sin(turn) * across)
        current = -np.sin(turn) * along + np.cos(turn) * across
        offset = points - place.astype(np.float32)
        distance = np.linalg.norm(offset, axis=-1, keepdims=True)
        field += np.cross(current.astype(np.float32), offset) / distance**3
    received: ComplexArray = (field[..., 1] - 1j * field[..., 2]).astype(np.complex64)
    return received
