"""Slices on the network's grid and in its units: what a plan runs on, whichever graph runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbim_deploy.mri.fourier import centre_crop, centre_pad
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.loop import starting_point
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import Plan


@dataclass(frozen=True)
class GridProblem:
    """A batch of slices: the plan's first x and A^H y / scale are (slice, rows, columns) of the grid.

    ``sense`` has the shape of k-space, which the grid may be larger than; ``noise`` has given what the start
    took; ``noise_level`` (slice,) is sigma_y / scale.
    """

    sense: Sense
    start: ComplexArray
    backprojection: ComplexArray
    noise: NoiseStream
    noise_level: FloatArray

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.start.shape[1], self.start.shape[2]


def put_on_grid(problems: Sequence[SliceProblem], plan: Plan, seed: int, size_multiple: int) -> GridProblem:
    """Return slices of one shape on the smallest grid of multiples that holds them.

    Raises:
        ValueError: the slices' shapes differ.
    """
    sense = Sense(
        np.stack([problem.maps for problem in problems]), np.stack([problem.mask for problem in problems])
    )
    rows, columns = (-(-n // size_multiple) * size_multiple for n in sense.image_shape)
    scales = np.array([problem.scale for problem in problems], dtype=np.float32)[:, None, None]
    kspace, mvues = (
        np.stack([getattr(problem, name) for problem in problems]) for name in ("kspace", "mvue")
    )
    noise = NoiseStream(seed, [problem.index for problem in problems], (rows, columns))
    return GridProblem(
        sense,
        starting_point(plan, centre_pad(mvues / scales, (rows, columns)), noise),
        centre_pad(sense.adjoint(kspace) / scales, (rows, columns)),
        noise,
        np.array([problem.noise / problem.scale for problem in problems], dtype=np.float32),
    )


def normal_on_grid(problem: GridProblem) -> Callable[[ComplexArray, ComplexArray], ComplexArray]:
    """Return A^H A on the grid: zero maps outside the image, so that k-space is not resampled."""
    sense = problem.sense
    if problem.grid == sense.image_shape:
        return sense.normal
    inner = np.empty((len(problem.start), *sense.image_shape), dtype=np.complex64)

    def normal(x: ComplexArray, out: ComplexArray) -> ComplexArray:
        out.fill(0)
        inner[...] = centre_crop(x, sense.image_shape)
        sense.normal(inner, centre_crop(out, sense.image_shape))
        return out

    return normal
