"""Reconstructs slices with a model and a sampler, on any of its graphs and engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.errors import InputError
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import Model, sampling_prior
from sbim_deploy.mri.combine import combine_set_variances, combine_sets
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.mri.noncartesian import NonCartesianSense, Operator
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.fused import operator_inputs, plan_inputs, run_steps, run_whole
from sbim_deploy.recon.grid import (
    GridProblem,
    SliceBatch,
    draw_data_on_grid,
    normal_on_grid,
    put_on_grid,
    stack_slices,
    start_images,
)
from sbim_deploy.recon.left_out import LEFT_OUT_KEY, leave_out, model_error
from sbim_deploy.recon.orientations import OrientedScore, count_orientations
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruction import Reconstruction
from sbim_deploy.recon.self_check import doubts_of_model, doubts_of_plan, find_doubts
from sbim_deploy.recon.uncertainty import RunningMoments, conditional_variance
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from sbim_deploy.samplers.conjugate_gradient import per_slice
from sbim_deploy.samplers.loop import OnState, run_plan
from sbim_deploy.samplers.plan import Plan, ProximalStep, has_spread

DEFAULT_GRAPH = "step"
SCORE_GRAPH = "score"
GRAPHS = (DEFAULT_GRAPH, SCORE_GRAPH, "reconstruct")

OnResidual = Callable[[int, int, float], None]
"""(slice, steps done, |A x - y| / |y|), before the first step too."""


class Reconstructor:
    """A model and a sampler that are ready to reconstruct. Keep it, and call it with slices as they come.

    Threads may call it at once, where its engine takes that (:attr:`streams`). Along a trajectory the network
    sees the image in another orientation in each step (:mod:`sbim_deploy.recon.orientations`).

    Args:
        model: a checked model folder.
        choice: the sampler, or its steps themselves.
        seed: the seed of the noise. With a slice's index it decides the slice's image.
        backend: see :func:`sbim_deploy.models.backends.open_engine`.
        threads: the engine's threads; None is one for each core.
        graph: ``step`` runs one step of the plan in a call, ``reconstruct`` the whole plan, and ``score`` the
            network alone, with numpy for the rest: the reference that the others are tested against.
        samples: the number of images drawn for each slice, with independent noise.
        samples_at_once: how many of them run together. It changes the speed and the memory alone.
        deviations: whether several samples give a standard deviation. It takes a pass of its own.
        open_graph: opens a graph by its file's name without .onnx; None opens it in ``backend``.
        precision: ``fp32``, ``bf16`` or ``auto``, as there; None is the model's own.
        streams: the threads that will call this at once, as there.

    Raises:
        InputError: the model cannot reconstruct complex images, has too few levels for the steps, or has no
            such graph; or less than one sample is asked for.
        BackendMissingError: the backend is not installed.
    """

    def __init__(
        self,
        model: Model,
        choice: SamplerChoice | Plan | None = None,
        seed: int = 0,
        backend: str = "auto",
        threads: int | None = None,
        graph: str = DEFAULT_GRAPH,
        samples: int = 1,
        samples_at_once: int = 1,
        deviations: bool = True,
        open_graph: Callable[[str], Engine] | None = None,
        precision: str | None = None,
        streams: int = 1,
    ):
        if model.manifest.channels != 2:
            raise InputError(
                f"{model.folder}: the network has {model.manifest.channels} channels, expected 2 (real and "
                "imaginary) to reconstruct complex images"
            )
        if seed < 0:
            raise InputError(f"seed is {seed}: expected 0 or more")
        if min(samples, samples_at_once) < 1:
            raise InputError(f"samples is {samples}, {samples_at_once} at once: expected at least 1")
        self.model = model
        self.seed = seed
        self.samples, self._samples_at_once = samples, samples_at_once
        if graph not in GRAPHS:
            raise InputError(f"unknown graph {graph!r}: expected one of {', '.join(GRAPHS)}")
        if not isinstance(choice, Plan):
            choice = make_plan(choice or SamplerChoice(), sampling_prior(model.manifest))
        self.plan: Plan = choice
        self._has_deviations = deviations and samples > 1
        self._leaves_out = self._has_deviations and isinstance(self.plan.steps[-1], ProximalStep)
        manifest = model.manifest
        self._doubts = doubts_of_model(manifest.noise_left, manifest.better_image_scale)
        self._doubts += doubts_of_plan(self.plan)
        self.graph = graph
        self._open_graph = open_graph or (
            lambda name: open_engine(model, name, backend, threads, precision, streams)
        )
        self.engine: Engine = self._open_graph(self._file_stem(graph))
        self._both_directions_engine: Engine | None = None
        self._opening = threading.Lock()

    @property
    def streams(self) -> int:
        """The slices, or batches of them, that are reconstructed side by side where threads share this."""
        return int(self.engine.description.get("streams", "1"))

    @property
    def n_calls(self) -> int:
        """The network calls that a slice takes: the plan's steps for each sample, and for lines left out."""
        return len(self.plan.steps) * (self.samples + self._leaves_out)

    def __call__(
        self,
        problems: Sequence[SliceProblem],
        on_step: Callable[[int], None] | None = None,
        on_residual: OnResidual | None = None,
    ) -> list[Reconstruction]:
        """Reconstruct slices of one shape together.

        ``on_step`` gets the number of network calls done for each slice, out of :attr:`n_calls`.
        ``on_residual`` gets the residuals of the first sample on its way; they cost a forward operator in
        every step.

        Raises:
            SamplingError: the sampler diverged.
            ValueError: the slices' shapes differ.
        """
        batch = stack_slices(problems)
        moments = self._draw_samples(batch, on_step, on_residual)
        residuals = _relative_distance(batch.sense.forward(moments.mean), batch.kspace)
        errors = self._model_error(batch, on_step) if self._leaves_out else None
        deviations = self._standard_deviations(batch, moments, errors) if self._has_deviations else None
        images = combine_sets(moments.mean) if batch.sense.has_sets else moments.mean

        return [
            self.finished(
                problem,
                images[i],
                float(residuals[i]),
                None if deviations is None else deviations[i],
                None if errors is None else float(errors[i]),
            )
            for i, problem in enumerate(problems)
        ]

    def finished(
        self,
        problem: SliceProblem,
        image: ComplexArray,
        residual: float,
        standard_deviation: FloatArray | None = None,
        model_error: float | None = None,
    ) -> Reconstruction:
        """Return a slice's image, (rows, columns) in units of k-space, cropped and with its doubts."""

        def cropped(array: Any) -> Any:
            return np.ascontiguousarray(centre_crop(array, problem.image_shape))

        orientations = None
        if problem.trajectory is not None:
            orientations = count_orientations(problem.image_shape, self.model.manifest.size_multiple)
        return Reconstruction(
            problem.index,
            cropped(image),
            cropped(problem.zero_filled),
            residual,
            problem,
            None if standard_deviation is None else cropped(standard_deviation),
            model_error,
            find_doubts(problem, residual) + self._doubts,
            orientations,
        )

    def graph_inputs(self, problems: Sequence[SliceProblem]) -> tuple[str, dict[str, FloatArray]]:
        """Return the file name of the ``reconstruct`` graph and its inputs, for a host without Python.

        The graph's output is in units of each slice's scale.

        Raises:
            InputError: the plan draws noise of the data anew in each step, which the graph has no input for.
        """
        if has_spread(self.plan):
            raise InputError(
                f"{self.plan.sampler} perturbs the data in each step, and the reconstruct graph takes them "
                "once: use another sampler"
            )
        batch = stack_slices(problems)
        _check_on_grid(batch.sense, "reconstruct")
        on_grid = self._put_on_grid(batch, start_images(batch, self.plan))
        inputs = {**operator_inputs(on_grid), **plan_inputs(self.plan, on_grid)}
        both_directions = on_grid.sense.mask.shape[-2] > 1
        return f"{self._file_stem('reconstruct', both_directions)}.onnx", inputs

    def _draw_samples(
        self, batch: SliceBatch, on_step: Callable[[int], None] | None, on_residual: OnResidual | None
    ) -> RunningMoments:
        """Return the moments of the samples' images, in units of k-space, of each set of maps."""
        moments = RunningMoments(batch.shape)
        check = (lambda: None) if on_step is None else (lambda: on_step(0))
        support, starts = _support(batch), start_images(batch, self.plan, check)
        for first in range(0, self.samples, self._samples_at_once):
            samples = range(first, min(first + self._samples_at_once, self.samples))
            on_grid = self._put_on_grid(batch, starts, samples)
            on_state = _residual_hook(batch, on_residual) if on_residual and first == 0 else None
            drawn = self._run_plan(on_grid, count_calls(on_step, samples, len(self.plan.steps)), on_state)
            for images in np.split(centre_crop(drawn, batch.sense.image_shape), len(samples)):
                seen: ComplexArray = _in_kspace_units(images, batch) * support
                moments.add(seen)
        return moments

    def _model_error(self, batch: SliceBatch, on_step: Callable[[int], None] | None) -> FloatArray:
        """Return what :func:`model_error` does, of one image without the lines that are left out."""
        kept = stack_slices([leave_out(problem, self.seed) for problem in batch.problems])
        count = count_calls(on_step, range(self.samples, self.samples + 1), len(self.plan.steps))
        on_grid = self._put_on_grid(kept, start_images(kept, self.plan), (LEFT_OUT_KEY,))
        drawn = self._run_plan(on_grid, count, None)
        images = _in_kspace_units(centre_crop(drawn, batch.sense.image_shape), batch)
        return model_error(batch, kept, images * _support(batch), self.seed)

    def _standard_deviations(
        self, batch: SliceBatch, moments: RunningMoments, errors: FloatArray | None
    ) -> FloatArray:
        variance = moments.variance() + conditional_variance(batch, self.plan, self.seed, errors)
        variance *= _support(batch)
        if batch.sense.has_sets:
            variance = combine_set_variances(variance, moments.mean)
        deviations: FloatArray = np.sqrt(variance)
        return deviations

    def _put_on_grid(
        self, batch: SliceBatch, starts: ComplexArray, samples: Sequence[int] = (0,)
    ) -> GridProblem:
        multiple = self.model.manifest.size_multiple
        return put_on_grid(batch, self.plan, self.seed, multiple, starts, samples)

    def _run_plan(
        self, problem: GridProblem, on_step: Callable[[int], None] | None, on_state: OnState | None
    ) -> ComplexArray:
        engine = self._engine_for(problem.sense)
        if self.graph != SCORE_GRAPH:
            run = run_steps if self.graph == "step" else run_whole
            return run(engine, self.plan, problem, on_step, on_state)
        # The step graphs see the image as it is, and the score on a grid gives the image that they do.
        kind = OrientedScore if isinstance(problem.sense, NonCartesianSense) else EngineScore
        return run_plan(
            self.plan,
            kind(engine, problem.start.shape),
            normal_on_grid(problem),
            problem.backprojection,
            problem.start,
            problem.noise,
            problem.noise_level,
            on_step,
            on_state,
            draw_data_on_grid(problem),
        )

    def _engine_for(self, sense: Operator) -> Engine:
        if self.graph == SCORE_GRAPH:
            return self.engine
        _check_on_grid(sense, self.graph)
        if sense.mask.shape[-2] == 1:
            return self.engine
        with self._opening:
            if self._both_directions_engine is None:
                name = self._file_stem(self.graph, both_directions=True)
                self._both_directions_engine = self._open_graph(name)
            return self._both_directions_engine

    def _file_stem(self, graph: str, both_directions: bool = False) -> str:
        """Return the name of the file that runs the plan, such as step-proximal-2d."""
        if graph == SCORE_GRAPH:
            return graph
        first, n_cg = self.plan.steps[0], self.model.manifest.n_cg
        if isinstance(first, ProximalStep) and first.n_cg != n_cg:
            raise InputError(
                f"{self.model.folder}: its {graph} graph takes {n_cg} conjugate-gradient steps, "
                f"the plan {first.n_cg}: use --graph score"
            )
        kind = "proximal" if isinstance(first, ProximalStep) else "guided"
        return f"{graph}-{kind}{'-2d' if both_directions else ''}"


class ClassicalReconstructor:
    """A method without the network, to be called as a :class:`Reconstructor` is.

    Slices that are reconstructed together count as one call.
    """

    n_calls = 1
    streams = 1

    def __init__(self, method: Classical):
        self.method = method
        self.description = {
            "backend": "numpy",
            "version": np.__version__,
            "chosen": f"{method} takes no network",
        }

    def __call__(
        self,
        problems: Sequence[SliceProblem],
        on_step: Callable[[int], None] | None = None,
        _on_residual: OnResidual | None = None,
    ) -> list[Reconstruction]:
        """Reconstruct slices; ``on_step`` hears of it when they are done."""
        results = []
        for problem in problems:
            image, residual = classical_image(problem, self.method)
            zero_filled = np.ascontiguousarray(centre_crop(problem.zero_filled, problem.image_shape))
            doubts = find_doubts(problem, residual)
            results.append(
                Reconstruction(problem.index, image, zero_filled, residual, problem, doubts=doubts)
            )
        if on_step is not None:
            on_step(self.n_calls)
        return results


def _check_on_grid(sense: Operator, graph: str) -> None:
    if isinstance(sense, NonCartesianSense):
        raise InputError(f"the {graph} graph takes samples on a grid: a trajectory takes --graph score")


def count_calls(
    on_step: Callable[[int], None] | None, samples: range, n_steps: int
) -> Callable[[int], None] | None:
    """Return the hook of a pass, which adds the steps of the samples before it to its own."""
    if on_step is None:
        return None
    return lambda steps_done: on_step(samples.start * n_steps + len(samples) * steps_done)


def _residual_hook(batch: SliceBatch, on_residual: OnResidual) -> OnState:
    """Return a hook that tells the residuals of a pass's first sample."""

    def on_state(steps_done: int, x: ComplexArray) -> None:
        first_samples = centre_crop(x[: len(batch.problems)], batch.sense.image_shape)
        images = _in_kspace_units(first_samples, batch)
        residuals = _relative_distance(batch.sense.forward(images), batch.kspace)
        for problem, residual in zip(batch.problems, residuals, strict=True):
            on_residual(problem.index, steps_done, float(residual))

    return on_state


def _support(batch: SliceBatch) -> FloatArray:
    """Return 1 where a coil sees something, and 0 where the data say nothing of the image."""
    support: FloatArray = np.any(batch.sense.maps != 0, axis=-3).astype(np.float32)
    return support


def _in_kspace_units(images: ComplexArray, batch: SliceBatch) -> ComplexArray:
    scaled: ComplexArray = images * per_slice(batch.scales, images)
    return scaled


def _relative_distance(got: ComplexArray, expected: ComplexArray) -> FloatArray:
    n = len(expected)
    distance = np.linalg.norm((got - expected).reshape(n, -1), axis=1)
    relative: FloatArray = distance / np.linalg.norm(expected.reshape(n, -1), axis=1)
    return relative
