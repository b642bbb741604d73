"""Draws random synthetic slices of the brain, as a scanner would have acquired them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft
from sbim_deploy.records import ComplexArray
from sbim_deploy.training.anatomy import random_fractions
from sbim_deploy.training.contrast import random_magnitude, random_protocol
from sbim_deploy.training.fields import Field, Grid, smooth_field, soft_step
from sbim_deploy.training.heads import random_head_fractions
from sbim_deploy.training.label_maps import read_head
from sbim_deploy.training.placement import Orientation, random_orientation, random_plane
from sbim_deploy.training.shapes import section_at
from sbim_deploy.training.tissues import Tissues, load_tissues

# Places where air beside tissue bends the field: above the sphenoid and frontal sinuses, and by the ears. In
# MNI space, mm.
AIR_SPACES = np.array([(0, 22, -32), (0, 62, -18), (48, -30, -34), (-48, -30, -34)], np.float32)
STEEP_PHASE_SHARE = 0.4
FULL_MATRIX_SHARE, UNFILTERED_SHARE, ELLIPTIC_SHARE = 0.5, 0.4, 0.35
MIN_RESOLUTION = 0.75

TRAINING_STREAM = 0
HELD_OUT_STREAM = 1

MIN_SIZE = 16
# The anatomy is drawn on a grid that is finer than the image, and at least this fine.
OVERSAMPLING = 1.5
FINE_SPACING_MM = 1.3

Size = int | tuple[int, int]

# From the index of a slice and its size to the slice.
DrawSlice = Callable[[int, Size], ComplexArray]

# Each process loads its own maps, which takes longer than drawing fewer slices than this.
MIN_SLICES_A_WORKER = 128

# Label maps are of a few people. The template, which is deformed at will, keeps a share of the slices.
TEMPLATE_SHARE = 0.25
FIELD_OF_VIEW_MM = (180.0, 260.0)
# What of a head's extent the field of view holds at least.
MIN_HEAD_SHARE = 0.88
HEAD_STREAM = 2


@dataclass(frozen=True)
class Anatomies:
    """Label maps of heads, and masks of lesions to lay over them; without heads there is the template alone.

    ``template_share`` of the slices are drawn from the template.
    """

    heads: tuple[Path, ...] = ()
    lesions: tuple[Path, ...] = ()
    template_share: float = TEMPLATE_SHARE


TEMPLATE = Anatomies()


def training_slice(tissues: Tissues, index: int, size: Size) -> ComplexArray:
    """Return the training slice ``index``, of ``size`` pixels along both axes or (rows, columns)."""
    return brain_slice(tissues, np.random.default_rng([TRAINING_STREAM, index]), size)


def held_out_slice(tissues: Tissues, index: int, size: Size) -> ComplexArray:
    """Return the slice ``index`` that training never sees, of ``size`` as in ``training_slice``."""
    return brain_slice(tissues, np.random.default_rng([HELD_OUT_STREAM, index]), size)


def anatomy_slice(anatomies: Anatomies, stream: int, index: int, size: Size) -> ComplexArray:
    """Return the slice ``index`` of a stream: of one of the heads, or of the template."""
    rng = np.random.default_rng([HEAD_STREAM, stream, index])
    if not anatomies.heads or rng.random() < anatomies.template_share:
        return brain_slice(load_tissues(), np.random.default_rng([stream, index]), size)
    return head_slice(anatomies, rng, size)


def training_pool(n_slices: int, size: int, anatomies: Anatomies = TEMPLATE) -> ComplexArray:
    """Return the first training slices (n_slices, size, size)."""
    return _draw(partial(anatomy_slice, anatomies, TRAINING_STREAM), n_slices, size)


def held_out_pool(n_slices: int, size: int, anatomies: Anatomies = TEMPLATE) -> ComplexArray:
    """Return the first held-out slices (n_slices, size, size)."""
    return _draw(partial(anatomy_slice, anatomies, HELD_OUT_STREAM), n_slices, size)


def brain_slice(tissues: Tissues, rng: np.random.Generator, size: Size) -> ComplexArray:
    """Draw a complex slice (rows, columns), the 99th percentile of whose magnitude is 1.

    A random plane through a randomly deformed head, as a random pulse sequence shows it, with the coils'
    shading and a phase, and with no more of k-space than a scanner would acquire. Pixels are square and the
    head fits the field of view. The same ``rng`` gives the same anatomy at any even size of one aspect.

    Raises:
        InputError: ``size`` is too small for a brain.
    """
    shape = _shape_of(size)
    orientation = random_orientation(rng)
    spacing = _spacing_for(orientation, shape) * rng.uniform(0.97, 1.14)
    grid = _fine_grid(shape, spacing)
    age = float(rng.beta(1.2, 2.0))
    points, _normal = random_plane(rng, orientation, grid)
    fractions = random_fractions(rng, tissues, section_at(points), grid, age)
    return _scanned(rng, fractions, points, grid, shape)


def head_slice(anatomies: Anatomies, rng: np.random.Generator, size: Size) -> ComplexArray:
    """Draw a complex slice (rows, columns) of one of the heads, as ``brain_slice`` does of the template.

    The slice is 1 to 5 mm thick and the field of view 180 to 260 mm, beyond which the head may go.

    Raises:
        InputError: ``size`` is too small for a brain, or a label map cannot be used.
    """
    shape = _shape_of(size)
    head = read_head(anatomies.heads[rng.integers(len(anatomies.heads))])
    orientation = random_orientation(rng)
    fitting = MIN_HEAD_SHARE * _spacing_for(orientation, shape)
    grid = _fine_grid(shape, max(rng.uniform(*FIELD_OF_VIEW_MM) / max(shape), fitting))
    age = float(rng.beta(1.2, 2.0))
    plane = random_plane(rng, orientation, grid)
    fractions = random_head_fractions(rng, head, anatomies.lesions, plane, grid, age)
    return _scanned(rng, fractions, plane[0], grid, shape)


def _shape_of(size: Size) -> tuple[int, int]:
    shape = (size, size) if isinstance(size, int) else size
    if min(shape) < MIN_SIZE:
        raise InputError(f"size is {size}: a slice needs at least {MIN_SIZE} x {MIN_SIZE} pixels")
    return shape


def _spacing_for(orientation: Orientation, shape: tuple[int, int]) -> float:
    return max(length / n for length, n in zip(orientation.extent, shape, strict=True))


def _fine_grid(shape: tuple[int, int], spacing: float) -> Grid:
    fineness = max(OVERSAMPLING, spacing / FINE_SPACING_MM)
    fine_shape = (2 * ceil(shape[0] * fineness / 2), 2 * ceil(shape[1] * fineness / 2))
    return Grid(fine_shape, spacing * shape[0] / fine_shape[0])


def _scanned(
    rng: np.random.Generator, fractions: Field, points: Field, grid: Grid, shape: tuple[int, int]
) -> ComplexArray:
    """Return the image of an anatomy by a random scan."""
    magnitude = random_magnitude(rng, random_protocol(rng), fractions, grid)
    magnitude *= random_shading(rng, grid)
    image = magnitude * np.exp(1j * random_phase(rng, points, grid))
    acquired = acquire(rng, image, shape)
    return np.asarray(acquired / np.percentile(np.abs(acquired), 99), np.complex64)


def random_shading(rng: np.random.Generator, grid: Grid) -> Field:
    """Return the coils' slow change of brightness (h, w), which ends with the field of view."""
    rim = rng.uniform(-0.25, 0.45) * (np.hypot(grid.rows[:, None], grid.columns) / 100) ** 2
    bias = rng.uniform(0.05, 0.25) * smooth_field(rng, grid, 90) + rim
    reach = [
        soft_step(np.float32(0.95) * np.abs(axis).max() - np.abs(axis), 5)
        for axis in (grid.rows, grid.columns)
    ]
    return np.asarray(reach[0][:, None] * reach[1] * np.exp(bias), np.float32)


def random_phase(rng: np.random.Generator, points: Field, grid: Grid) -> Field:
    """Return a phase (h, w) in radian: an offset, a ramp, slow waves, and at times steep parts beside air."""
    ramp = rng.normal(0, 0.01, 2)
    phase = rng.uniform(0, 2 * np.pi) + ramp[0] * grid.rows[:, None] + ramp[1] * grid.columns
    phase = phase + rng.uniform(0.1, 0.7) * smooth_field(rng, grid, 80)
    if rng.random() < STEEP_PHASE_SHARE:
        strengths = rng.uniform(1.0, 5.0) * rng.uniform(0.4, 1.0, len(AIR_SPACES))
        for centre, strength in zip(AIR_SPACES, strengths, strict=True):
            away = np.sum((points - centre[:, None, None]) ** 2, axis=0)
            phase = phase + np.float32(strength) * np.exp(away / np.float32(-2 * 17.0**2))
    return np.asarray(phase, np.float32)


def acquire(rng: np.random.Generator, image: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Keep the centre of the image's k-space and return the image (h, w) = ``shape`` that it makes.

    As on scanners, the acquired matrix may be smaller than the image's along either axis, its corners may be
    missing, and it may be filtered by a Hamming window of random depth. What was not acquired is zero.
    Without the filter, edges ring.
    """
    kspace = centre_crop(centred_fft(image), shape)
    full = rng.random() < FULL_MATRIX_SHARE
    resolution = np.ones(2) if full else rng.uniform(MIN_RESOLUTION, 1, 2)
    elliptic = rng.random() < ELLIPTIC_SHARE
    pedestal = 1.0 if rng.random() < UNFILTERED_SHARE else rng.uniform(0.54, 0.95)
    rows, columns = (
        np.abs((np.arange(n) - n // 2) / (n / 2 * part)) for n, part in zip(shape, resolution, strict=True)
    )
    if elliptic:
        window = _hamming(np.hypot(rows[:, None], columns), pedestal)
    else:
        window = _hamming(rows, pedestal)[:, None] * _hamming(columns, pedestal)
    return centred_ifft(kspace * window)


def _hamming(radius: NDArray[np.float64], pedestal: float) -> NDArray[np.float64]:
    return np.where(radius <= 1, pedestal + (1 - pedestal) * np.cos(np.pi * radius), 0)


def _draw(draw_slice: DrawSlice, n_slices: int, size: int) -> ComplexArray:
    n_workers = min(os.cpu_count() or 1, n_slices // MIN_SLICES_A_WORKER)
    pool = np.empty((n_slices, size, size), np.complex64)
    # The maps are loaded in each worker, once, rather than sent to it.
    draw = partial(_slice, draw_slice, size)
    if n_workers < 2:
        for index in range(n_slices):
            pool[index] = draw(index)
        return pool
    with multiprocessing.get_context("spawn").Pool(n_workers, _use_one_thread) as workers:
        for index, image in enumerate(workers.imap(draw, range(n_slices), chunksize=16)):
            pool[index] = image
    return pool


def _slice(draw_slice: DrawSlice, size: int, index: int) -> ComplexArray:
    return draw_slice(index, size)


def _use_one_thread() -> None:
    # Many processes with many BLAS threads each are ten times slower. The package comes with nilearn.
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
