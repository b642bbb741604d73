"""Puts slices on the network's grid and into its units, where every graph runs its plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbim_deploy.mri.fourier import centre_crop, centre_pad
from sbim_deploy.mri.noncartesian import NonCartesianSense, Operator
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.classical import Classical, solve_classically
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.conjugate_gradient import per_slice
from sbim_deploy.samplers.loop import DrawData, starting_point
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import Plan


@dataclass(frozen=True)
class GridProblem:
    """A batch of slices on the grid.

    ``start``, the plan's first x, and ``backprojection``, A^H y / scale, are (slice, rows, columns) of the
    grid, or (slice, set, rows, columns) where the maps are sets. A slice may be there more than once, for
    samples with noise of their own. ``sense`` has the shape of k-space; the grid may be larger. ``noise`` has
    already given what the start took. ``noise_level`` (slice,) is sigma_y / scale.
    """

    sense: Operator
    start: ComplexArray
    backprojection: ComplexArray
    noise: NoiseStream
    noise_level: FloatArray

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.start.shape[-2], self.start.shape[-1]

    @property
    def n_sets(self) -> int:
        """The images of a slice: one for each set of maps."""
        return self.start.shape[1] if self.sense.has_sets else 1


@dataclass(frozen=True)
class SliceBatch:
    """Slices of one shape, with their operator, k-space (slice, coil, rows, columns) and scales (slice,)."""

    problems: tuple[SliceProblem, ...]
    sense: Operator
    kspace: ComplexArray
    scales: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        """The images' shape, (slice, rows, columns), or (slice, set, rows, columns) for sets of maps."""
        return (*self.sense.maps.shape[:-3], *self.sense.image_shape)


def stack_slices(problems: Sequence[SliceProblem]) -> SliceBatch:
    """Return slices side by side.

    Raises:
        ValueError: the slices' shapes differ.
    """
    maps, masks, kspace = (
        np.stack([getattr(problem, name) for problem in problems]) for name in ("maps", "mask", "kspace")
    )
    scales = np.array([problem.scale for problem in problems], dtype=np.float32)
    trajectories = [problem.trajectory for problem in problems if problem.trajectory is not None]
    sense: Operator
    if trajectories:
        areas, places = (
            np.stack([getattr(each, name) for each in trajectories]) for name in ("areas", "places")
        )
        sense = NonCartesianSense(maps, areas, places)
    else:
        sense = Sense(maps, masks)
    return SliceBatch(tuple(problems), sense, kspace, scales)


def start_images(batch: SliceBatch, plan: Plan, check: Callable[[], None] = lambda: None) -> ComplexArray:
    """Return the image that a plan starts from of each slice, over its scale, in the batch's shape.

    ``check`` is called in every step; what it raises ends the work.
    """
    method = Classical(plan.start) if plan.start_image else Classical.ZERO_FILLED
    images = np.stack([solve_classically(problem, method, check) for problem in batch.problems])
    scaled: ComplexArray = images / per_slice(batch.scales, images)
    return scaled


def network_grid(image_shape: tuple[int, int], size_multiple: int) -> tuple[int, int]:
    """Return rows and columns of the smallest grid of multiples of ``size_multiple`` that holds an image."""
    rows, columns = (-(-size // size_multiple) * size_multiple for size in image_shape)
    return rows, columns


def put_on_grid(
    batch: SliceBatch,
    plan: Plan,
    seed: int,
    size_multiple: int,
    starts: ComplexArray | None = None,
    samples: Sequence[int] = (0,),
) -> GridProblem:
    """Return slices on their :func:`network_grid`.

    The batch has all slices of the first sample, then all of the second, and so on. ``starts`` are their
    :func:`start_images`, where somebody has them already.
    """
    starts = start_images(batch, plan) if starts is None else starts
    sense, problems, n = batch.sense, batch.problems, len(samples)
    grid = network_grid(sense.image_shape, size_multiple)
    starts = centre_pad(starts, grid)
    backprojection = centre_pad(sense.adjoint(batch.kspace) / per_slice(batch.scales, starts), grid)
    indices = [problem.index for problem in problems]
    noise = NoiseStream(seed, indices * n, starts.shape[1:], np.repeat(samples, len(problems)).tolist())
    return GridProblem(
        sense if n == 1 else sense.repeated(n),
        starting_point(plan, np.concatenate([starts] * n), noise),
        np.concatenate([backprojection] * n),
        noise,
        np.array([problem.noise_on_grid / problem.scale for problem in problems] * n, dtype=np.float32),
    )


def draw_data_on_grid(problem: GridProblem) -> DrawData:
    """Return what draws A^H e on the grid from the problem's noise, e ~ N(0, I) in each part of k-space."""
    sense = problem.sense
    kspace = np.empty((len(problem.start), *sense.kspace_shape[-3:]), dtype=np.complex64)

    def draw() -> ComplexArray:
        return centre_pad(sense.adjoint(problem.noise.fill(kspace)), problem.grid)

    return draw


def normal_on_grid(problem: GridProblem) -> Callable[[ComplexArray, ComplexArray], ComplexArray]:
    """Return A^H A on the grid. The maps are zero outside the image, so that k-space is not resampled."""
    sense = problem.sense
    if problem.grid == sense.image_shape:
        return sense.normal
    inner = np.empty((*problem.start.shape[:-2], *sense.image_shape), dtype=np.complex64)

    def normal(x: ComplexArray, out: ComplexArray) -> ComplexArray:
        out.fill(0)
        inner[...] = centre_crop(x, sense.image_shape)
        sense.normal(inner, centre_crop(out, sense.image_shape))
        return out

    return normal
