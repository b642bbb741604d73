"""Slices in, images out: what a scanner's pipeline embeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.errors import InputError
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.backends import open_engine
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.fused import operator_inputs, rows_inputs, run_steps, run_whole
from sbim_deploy.recon.grid import GridProblem, normal_on_grid, put_on_grid
from sbim_deploy.recon.model import Model, sampling_prior
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from sbim_deploy.samplers.loop import run_plan
from sbim_deploy.samplers.plan import Plan, ProximalRow

DEFAULT_GRAPH = "step"
GRAPHS = (DEFAULT_GRAPH, "score", "reconstruct")


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
        backend: see :func:`sbim_deploy.recon.backends.open_engine`.
        threads: of the engine; None is one for each core.
        graph: ``step`` runs a row of the plan in one call, ``reconstruct`` the whole plan, and ``score`` the
            network alone, with numpy for the rest: the reference that the others are tested against.
        open_graph: opens a graph by its file's name without .onnx; None opens it in ``backend``.

    Raises:
        InputError: the model cannot reconstruct complex images, has too few levels for the steps, or no such
            graph.
        BackendMissingError: the backend is not installed.
    """

    def __init__(
        self,
        model: Model,
        choice: SamplerChoice | None = None,
        seed: int = 0,
        backend: str = "auto",
        threads: int | None = None,
        graph: str = DEFAULT_GRAPH,
        open_graph: Callable[[str], Engine] | None = None,
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
        if graph not in GRAPHS:
            raise InputError(f"unknown graph {graph!r}: expected one of {', '.join(GRAPHS)}")
        self.plan: Plan = make_plan(choice or SamplerChoice(), sampling_prior(model.manifest))
        self.graph = graph
        self._open_graph = open_graph or (lambda name: open_engine(model, name, backend, threads))
        self.engine: Engine = self._open_graph(self._file_stem(graph))
        self._both_directions_engine: Engine | None = None

    def __call__(
        self, problems: Sequence[SliceProblem], on_row: Callable[[int], None] | None = None
    ) -> list[Reconstruction]:
        """Reconstruct slices of one shape together; ``on_row`` gets the number of rows done.

        Raises:
            SamplingError: the sampler diverged.
            ValueError: the slices' shapes differ.
        """
        on_grid = self._put_on_grid(problems)
        sense, scales = on_grid.sense, np.array([problem.scale for problem in problems], dtype=np.float32)
        images = centre_crop(self._sample(on_grid, on_row), sense.image_shape)
        images *= scales[:, None, None]
        kspace = np.stack([problem.kspace for problem in problems])
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

    def graph_inputs(self, problems: Sequence[SliceProblem]) -> tuple[str, dict[str, FloatArray]]:
        """Return what a host without Python needs: the ``reconstruct`` graph's file name and its inputs.

        The graph's output is in units of each slice's scale.
        """
        on_grid = self._put_on_grid(problems)
        inputs = {**operator_inputs(on_grid), **rows_inputs(self.plan, on_grid)}
        both_directions = on_grid.sense.mask.shape[-2] > 1
        return f"{self._file_stem('reconstruct', both_directions)}.onnx", inputs

    def _put_on_grid(self, problems: Sequence[SliceProblem]) -> GridProblem:
        return put_on_grid(problems, self.plan, self.seed, self.model.manifest.size_multiple)

    def _sample(self, problem: GridProblem, on_row: Callable[[int], None] | None) -> ComplexArray:
        engine = self._engine_for(problem.sense)
        if self.graph != "score":
            run = run_steps if self.graph == "step" else run_whole
            return run(engine, self.plan, problem, on_row)
        return run_plan(
            self.plan,
            EngineScore(engine, len(problem.start), problem.grid),
            normal_on_grid(problem),
            problem.backprojection,
            problem.start,
            problem.noise,
            problem.noise_level,
            on_row,
        )

    def _engine_for(self, sense: Sense) -> Engine:
        if self.graph == "score" or sense.mask.shape[-2] == 1:
            return self.engine
        if self._both_directions_engine is None:
            name = self._file_stem(self.graph, both_directions=True)
            self._both_directions_engine = self._open_graph(name)
        return self._both_directions_engine

    def _file_stem(self, graph: str, both_directions: bool = False) -> str:
        """Return the name of the file that runs the plan, such as step-proximal-2d."""
        if graph == "score":
            return graph
        first, n_cg = self.plan.rows[0], self.model.manifest.n_cg
        if isinstance(first, ProximalRow) and first.n_cg != n_cg:
            raise InputError(
                f"{self.model.folder}: its {graph} graph takes {n_cg} conjugate-gradient steps, "
                f"the plan {first.n_cg}: use --graph score"
            )
        kind = "proximal" if isinstance(first, ProximalRow) else "guided"
        return f"{graph}-{kind}{'-2d' if both_directions else ''}"


def _relative_distance(got: ComplexArray, expected: ComplexArray) -> FloatArray:
    n = len(expected)
    distance = np.linalg.norm((got - expected).reshape(n, -1), axis=1)
    relative: FloatArray = distance / np.linalg.norm(expected.reshape(n, -1), axis=1)
    return relative
