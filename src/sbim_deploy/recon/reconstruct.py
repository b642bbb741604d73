"""Slices in, images out: what a scanner's pipeline embeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.errors import InputError
from sbim_deploy.mri.fourier import centre_crop, centre_pad
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.model import Model, open_engine, sampling_prior
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from sbim_deploy.samplers.loop import run_plan
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import Plan


@dataclass(frozen=True)
class Reconstruction:
    """One slice's images, complex64 (rows, columns) in the units of its k-space.

    ``residual`` is |A x - y| / |y| over what was measured, before cropping.
    """

    index: int
    image: ComplexArray
    zero_filled: ComplexArray
    residual: float


class Reconstructor:
    """A model and a sampler, ready to reconstruct; keep one and call it with slices as they come.

    Args:
        model: a checked model folder.
        choice: the sampler.
        seed: of the noise; with a slice's index it decides the slice's image.
        backend: see :func:`sbim_deploy.recon.model.open_engine`.
        threads: of the engine; None is one for each core.

    Raises:
        InputError: the model cannot reconstruct complex images, or has too few levels for the steps.
        BackendMissingError: the backend is not installed.
    """

    def __init__(
        self,
        model: Model,
        choice: SamplerChoice | None = None,
        seed: int = 0,
        backend: str = "auto",
        threads: int | None = None,
    ):
        if model.manifest.channels != 2:
            raise InputError(
                f"{model.folder}: the network has {model.manifest.channels} channels, expected 2 (real and "
                "imaginary) to reconstruct complex images"
            )
        if seed < 0:
            raise InputError(f"seed is {seed}: expected 0 or more")
        self.model = model
        self.seed = seed
        self.plan: Plan = make_plan(choice or SamplerChoice(), sampling_prior(model.manifest))
        self.engine: Engine = open_engine(model, "score", backend, threads)

    def __call__(
        self, problems: Sequence[SliceProblem], on_row: Callable[[int], None] | None = None
    ) -> list[Reconstruction]:
        """Reconstruct slices of one shape together; ``on_row`` gets the number of rows done.

        Raises:
            SamplingError: the sampler diverged.
            ValueError: the slices' shapes differ.
        """
        sense = Sense(
            np.stack([problem.maps for problem in problems]), np.stack([problem.mask for problem in problems])
        )
        scales = np.array([problem.scale for problem in problems], dtype=np.float32)[:, None, None]
        kspace = np.stack([problem.kspace for problem in problems])
        mvues = np.stack([problem.mvue for problem in problems])
        grid = _network_grid(sense.image_shape, self.model.manifest.size_multiple)
        images = run_plan(
            self.plan,
            EngineScore(self.engine, len(problems), grid),
            _on_grid(sense, len(problems), grid),
            centre_pad(sense.adjoint(kspace) / scales, grid),
            centre_pad(mvues / scales, grid),
            NoiseStream(self.seed, [problem.index for problem in problems], grid),
            np.array([problem.noise / problem.scale for problem in problems], dtype=np.float32),
            on_row,
        )
        images = scales * centre_crop(images, sense.image_shape)
        residuals = _relative_distance(sense.forward(images), kspace)
        return [
            Reconstruction(
                problem.index,
                np.ascontiguousarray(centre_crop(image, problem.image_shape)),
                np.ascontiguousarray(centre_crop(problem.mvue, problem.image_shape)),
                float(residual),
            )
            for problem, image, residual in zip(problems, images, residuals, strict=True)
        ]


def _network_grid(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the smallest grid that holds the image and that the network can halve."""
    rows, columns = (-(-n // multiple) * multiple for n in shape)
    return rows, columns


def _on_grid(
    sense: Sense, n_slices: int, grid: tuple[int, int]
) -> Callable[[ComplexArray, ComplexArray], ComplexArray]:
    """Return A^H A on the network's grid: zero maps outside the image, so that k-space is not resampled."""
    if grid == sense.image_shape:
        return sense.normal
    inner = np.empty((n_slices, *sense.image_shape), dtype=np.complex64)

    def normal(x: ComplexArray, out: ComplexArray) -> ComplexArray:
        out.fill(0)
        inner[...] = centre_crop(x, sense.image_shape)
        sense.normal(inner, centre_crop(out, sense.image_shape))
        return out

    return normal


def _relative_distance(got: ComplexArray, expected: ComplexArray) -> FloatArray:
    n = len(expected)
    distance = np.linalg.norm((got - expected).reshape(n, -1), axis=1)
    relative: FloatArray = distance / np.linalg.norm(expected.reshape(n, -1), axis=1)
    return relative
