"""Trajectories through k-space, and the density of their samples.

A trajectory is (readout, sample, 2): the place of each sample along the rows and the columns of the image, in
cycles per field of view. The centre of k-space is 0, and an image of n pixels is resolved up to n / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.mri.nonuniform import to_grid, to_samples
from sbim_deploy.records import BoolArray, FloatArray

RADIAL, GOLDEN, SPIRAL = TRAJECTORIES = ("radial", "golden", "spiral")
GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2  # 111.25 degrees
OVERSAMPLING = 2  # along a readout
FULL_INTERLEAVES = 16  # so many spirals leave no gap
FULL_CENTRE = 8  # cycles per field of view: so far any number of them leaves none
DENSITY_ROUNDS = 30


def make_trajectory(kind: str, size: int, n_readouts: int) -> FloatArray:
    """Return a trajectory (readout, sample, 2) that resolves ``size`` pixels along both axes.

    ``radial`` are spokes through the centre, evenly over 180 degrees, ``golden`` those that each lie 111.25
    degrees from the one before (Winkelmann et al. 2007, doi:10.1109/TMI.2006.885337), ``spiral`` evenly
    turned spirals from the centre outwards, without gaps up to 8 cycles per field of view. Readouts are
    twice oversampled.

    Raises:
        ValueError: an unknown kind, or less than one readout.
    """
    if kind not in TRAJECTORIES:
        raise ValueError(f"unknown trajectory {kind!r}: expected one of {', '.join(TRAJECTORIES)}")
    if n_readouts < 1:
        raise ValueError(f"{n_readouts} readouts: expected at least 1")
    number = np.arange(n_readouts)[:, None]
    if kind == SPIRAL:
        radii, turned = _spiral(size, n_readouts)
        angles: NDArray[np.float64] = turned + number * 2 * np.pi / n_readouts
    else:
        n_samples = OVERSAMPLING * size
        radii = (np.arange(n_samples) - n_samples // 2) / OVERSAMPLING
        angles = number * np.float64(np.pi / n_readouts if kind == RADIAL else GOLDEN_ANGLE)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1).astype(np.float32)


def full_readouts(kind: str, size: int) -> int:
    """Return how many readouts of a kind leave no gap: pi / 2 spokes a pixel, or the spirals' number."""
    return FULL_INTERLEAVES if kind == SPIRAL else math.ceil(np.pi / 2 * size)


def _spiral(size: int, n_readouts: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the radii and the angles of samples that lie evenly along a spiral.

    A turn moves it outwards by as many cycles as there are spirals, within the full centre, and farther out
    by as many as there would be without gaps.
    """
    radii = np.linspace(0, size / 2, 64 * size)
    inner = min(n_readouts, FULL_INTERLEAVES)
    pitch = np.interp(radii, [FULL_CENTRE, 2 * FULL_CENTRE], [inner, FULL_INTERLEAVES])
    step = radii[1]
    angles = np.concatenate([[0], np.cumsum(2 * np.pi / pitch[1:]) * step])
    length = np.concatenate([[0], np.cumsum(np.hypot(step, radii[1:] * np.diff(angles)))])
    wanted = np.arange(0, length[-1], 1 / OVERSAMPLING)
    return np.interp(wanted, length, radii), np.interp(wanted, length, angles)


def sample_areas(
    trajectory: FloatArray,
    mask: BoolArray,
    shape: tuple[int, int],
    check: Callable[[], None] = lambda: None,
    n_rounds: int = DENSITY_ROUNDS,
) -> FloatArray:
    """Return the area of k-space (readout, sample) that each sample of an image's k-space counts for.

    In squares of one cycle per field of view: a sample of a grid has 1, those that lie closer share the area
    between them, and one that has no neighbour so near has 1 too, since a sample tells no more of an image
    than that. It is 0 where the mask is. ``check`` is called in each of the rounds; what it raises ends them.
    One round gives areas that are rough where the density changes. The iteration of Pipe and Menon 1999
    (doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V), equation 9, with the square of a sinc
    for their kernel: the transform of the overlap of a field of view with itself.
    """
    areas = np.broadcast_to(mask, trajectory.shape[:-1]).astype(np.float64)
    for _ in range(n_rounds):
        check()
        density = _density(areas, trajectory, trajectory, shape)
        areas = np.divide(areas, density, out=np.zeros_like(areas), where=areas > 0)
    return areas.astype(np.float32)


def grid_coverage(places: FloatArray, areas: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Return how far samples cover each sample (rows, columns) of the grid: about 1 in full, and 0 not.

    It is their density by the kernel of :func:`sample_areas`.
    """
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), axis=-1)
    coverage: FloatArray = _density(areas, places, grid.astype(np.float32), shape).astype(np.float32)
    return coverage


def _density(
    areas: NDArray[Any], places: FloatArray, wanted: FloatArray, shape: tuple[int, int]
) -> NDArray[Any]:
    """Return the areas around each place that is wanted, weighted by the kernel."""
    doubled = (2 * shape[0], 2 * shape[1])
    ratio = np.float32(2)  # of the grids: cycles per doubled field of view
    rows, columns = (1 - np.abs(np.arange(many) - n) / n for many, n in zip(doubled, shape, strict=True))
    overlap = np.outer(rows, columns) * (math.prod(doubled) / math.prod(shape))
    density: NDArray[Any] = to_samples(overlap * to_grid(areas, places * ratio, doubled), wanted * ratio).real
    return density
