"""Runs plans on the fused graphs, which hold network, data consistency and update in one call.

The call covers one step (``step``) or many of them (``reconstruct``). The images of a slice with several sets
of maps are entries of the graphs' batch one after the other; ``map_set`` says which set an entry is of.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.models.backends import LINES_MULTIPLE
from sbim_deploy.mri.fourier import centre_pad
from sbim_deploy.mri.sense import encoding_matrices
from sbim_deploy.recon.channels import from_channels, to_channels
from sbim_deploy.recon.grid import GridProblem, draw_data_on_grid, normal_on_grid
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray
from sbim_deploy.samplers.loop import OnState, check_finite, likelihood_gain, perturb
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import GuidedStep, Plan, ProximalStep, Step, has_spread

GUIDED_NUMBERS = ("sigma", "step_size", "noise_scale", "data_weight", "likelihood_gain")
PROXIMAL_NUMBERS = ("sigma", "gamma", "renoise", "noise_scale")
STEPS_BETWEEN_CHECKS = 16
MAX_NOISE_BYTES = 256 * 1024**2


def plan_numbers(plan: Plan, noise_level: FloatArray) -> dict[str, FloatArray]:
    """Return the graph's numbers by name, each float32 (step, entry); ``noise_level`` (entry,) is sigma_y."""
    guided = isinstance(plan.steps[0], GuidedStep)
    names = GUIDED_NUMBERS if guided else PROXIMAL_NUMBERS
    numbers = {name: np.empty((len(plan.steps), noise_level.size), np.float32) for name in names}
    for index, step in enumerate(plan.steps):
        for name in names:
            numbers[name][index] = _number(step, name, noise_level)
    return numbers


def operator_inputs(problem: GridProblem) -> dict[str, FloatArray]:
    """Return the graph's maps and matrices, A^H y and the number of each entry's set of maps, by name."""
    sense, (grid_rows, grid_columns) = problem.sense, problem.grid
    n_slices, n_sets = len(problem.start), problem.n_sets
    maps = sense.maps.reshape(n_slices * n_sets, *sense.maps.shape[-3:])
    inputs = {
        "maps": to_channels(centre_pad(maps, problem.grid)),
        "backprojection": _entries(problem.backprojection),
        "map_set": np.tile(np.arange(n_sets, dtype=np.float32), n_slices),
    }
    mask_of_entries = np.repeat(sense.mask, n_sets, axis=0)
    if mask_of_entries.shape[-2] == 1:
        return {**inputs, "encoding": _encoding(mask_of_entries[:, 0], grid_columns)}
    mask = np.broadcast_to(mask_of_entries, (len(maps), *sense.image_shape))
    sampled_rows: BoolArray = np.any(mask, axis=2)
    sampled_columns: BoolArray = np.any(mask, axis=1)
    row_encoding, encoding = _encoding(sampled_rows, grid_rows), _encoding(sampled_columns, grid_columns)
    crossings = np.zeros((len(mask), row_encoding.shape[-1], encoding.shape[-1]), np.float32)
    for crossing, samples, r, c in zip(crossings, mask, sampled_rows, sampled_columns, strict=True):
        crossing[: r.sum(), : c.sum()] = samples[r][:, c]
    return {**inputs, "encoding": encoding, "row_encoding": row_encoding, "mask": crossings}


def run_steps(
    engine: Engine,
    plan: Plan,
    problem: GridProblem,
    on_step: Callable[[int], None] | None = None,
    on_state: OnState | None = None,
) -> ComplexArray:
    """Return the images, as ``problem.start``, after a plan, one step after the other.

    The state x stays where the engine runs. Only with ``on_state`` every step waits for the device and copies
    x from it.

    Raises:
        SamplingError: a value is not finite. This is checked every few steps, since a check waits for the
            device.
    """
    x = _entries(problem.start)
    z = np.zeros_like(x)
    numbers = plan_numbers(plan, np.repeat(problem.noise_level, problem.n_sets))
    first = {name: array[0] for name, array in numbers.items()}
    recurrence = engine.recur("x", "x_next", {**operator_inputs(problem), **first, "x": x, "z": z})
    last = len(plan.steps) - 1
    if on_state is not None:
        on_state(0, problem.start)
    # Who looks at the states may use the operator, whose workspace the draws of a step with a spread use too.
    with closing(_draw_steps(plan, problem, x.shape, ahead=on_state is None)) as drawn_of_steps:
        for index, drawn in enumerate(drawn_of_steps):
            changed = {name: array[index] for name, array in numbers.items()}
            recurrence.advance({**changed, **drawn})
            if on_state is not None or index % STEPS_BETWEEN_CHECKS == 0 or index == last:
                x = recurrence.read()
                _check(x, plan, index, problem.noise)
            if on_state is not None:
                on_state(index + 1, _images(x, problem))
            if on_step is not None:
                on_step(index + 1)
    return _images(x, problem)


def _draw_steps(
    plan: Plan, problem: GridProblem, shape: tuple[int, ...], ahead: bool
) -> Generator[dict[str, FloatArray], None, None]:
    """Yield what each step takes that changes with noise, overwritten after the next one.

    ``ahead`` draws for a step in a thread while the one before it runs, in the same order and so to the bit.
    """
    draw = _NoiseOfSteps(plan, problem)
    buffers = [np.zeros(shape, np.float32) for _ in range(2)]
    if not ahead:
        for step in plan.steps:
            yield draw(step, buffers[0])
        return
    with ThreadPoolExecutor(1, thread_name_prefix="noise-ahead") as thread:
        following = thread.submit(draw, plan.steps[0], buffers[0])
        for index in range(len(plan.steps)):
            drawn = following.result()
            if index + 1 < len(plan.steps):
                following = thread.submit(draw, plan.steps[index + 1], buffers[(index + 1) % 2])
            yield drawn


def run_whole(
    engine: Engine,
    plan: Plan,
    problem: GridProblem,
    on_step: Callable[[int], None] | None = None,
    on_state: OnState | None = None,
) -> ComplexArray:
    """As :func:`run_steps`, with as many steps in a call as have noise that fits into 256 MiB, mostly all.

    The hooks are called after each call, not for the steps within it.

    Raises:
        SamplingError: a value is not finite after a call.
    """
    operator, x = operator_inputs(problem), _entries(problem.start)
    n_steps = len(plan.steps)
    # A call has one A^H y, and a step with a spread its own.
    steps_a_call = 1 if has_spread(plan) else min(n_steps, max(1, MAX_NOISE_BYTES // x.nbytes))
    draw = _NoiseOfSteps(plan, problem)
    if on_state is not None:
        on_state(0, problem.start)
    for begin in range(0, n_steps, steps_a_call):
        part = replace(plan, steps=plan.steps[begin : begin + steps_a_call])
        done = begin + len(part.steps)
        x = engine.run({**operator, **_inputs_of_steps(part, draw), "x": x})["image"]
        _check(x, plan, done - 1, problem.noise)
        if on_state is not None:
            on_state(done, _images(x, problem))
        if on_step is not None:
            on_step(done)
    return _images(x, problem)


def plan_inputs(plan: Plan, problem: GridProblem) -> dict[str, FloatArray]:
    """Return the ``reconstruct`` graph's inputs beside the operator: x, and the steps' numbers and noise."""
    return {"x": _entries(problem.start), **_inputs_of_steps(plan, _NoiseOfSteps(plan, problem))}


def _inputs_of_steps(plan: Plan, draw: _NoiseOfSteps) -> dict[str, FloatArray]:
    """Return the numbers and the noise of steps; with a spread they are one step, which has its own A^H y."""
    problem = draw.problem
    inputs: dict[str, FloatArray] = {}
    z = np.zeros((len(plan.steps), *_entries(problem.start).shape), np.float32)
    for step, buffer in zip(plan.steps, z, strict=True):
        inputs |= draw(step, buffer)
    inputs.pop("z", None)
    numbers = plan_numbers(plan, np.repeat(problem.noise_level, problem.n_sets))
    return {**inputs, "z_of_rows": z, **{f"{name}_of_rows": array for name, array in numbers.items()}}


class _NoiseOfSteps:
    """Draws the noise that the steps of a plan take, in their order.

    The graphs add noise_scale z to the u of the data that they are given. What a perturbation adds to u goes
    into z too, whose noise_scale is then 1 (:func:`_number`).
    """

    def __init__(self, plan: Plan, problem: GridProblem):
        self.problem = problem
        self._normal, self._draw_data = normal_on_grid(problem), draw_data_on_grid(problem)
        self._as_measured = {"backprojection": _entries(problem.backprojection)} if has_spread(plan) else {}

    def __call__(self, step: Step, z: FloatArray) -> dict[str, FloatArray]:
        """Return the inputs of the step that change with noise; ``z`` becomes the one of that name."""
        problem = self.problem
        perturbation = perturb(step, self._normal, problem.noise, problem.noise_level, self._draw_data)
        if perturbation is None:
            fresh = {"z": _entries(problem.noise.draw(), z)} if step.noise_scale else {}
            return {**self._as_measured, **fresh}
        added = perturbation.image
        if step.noise_scale:
            added += np.float32(step.noise_scale) * problem.noise.draw()
        return {
            "z": _entries(added, z),
            "backprojection": _entries(problem.backprojection + perturbation.data),
        }


def _entries(images: ComplexArray, out: FloatArray | None = None) -> FloatArray:
    """Return images (slice, ..., rows, columns) as the graphs' batch, (entry, 2, rows, columns)."""
    return to_channels(images.reshape(-1, *images.shape[-2:]), out)


def _images(entries: FloatArray, problem: GridProblem) -> ComplexArray:
    """Return the graphs' batch as the problem's images."""
    return from_channels(entries).reshape(problem.start.shape)


def _number(step: Step, name: str, noise_level: FloatArray) -> float | FloatArray:
    if name == "likelihood_gain" and isinstance(step, GuidedStep):
        return likelihood_gain(step, noise_level)
    if name == "gamma" and isinstance(step, ProximalStep):
        return step.gamma + step.noise_gamma * noise_level**2
    if name == "noise_scale" and isinstance(step, ProximalStep) and step.spread:
        return 1.0
    number: float = getattr(step, name)
    return number


def _encoding(lines: BoolArray, size: int) -> FloatArray:
    matrices = encoding_matrices(lines)
    n_lines = matrices.shape[-1]
    matrices = np.pad(matrices, [(0, 0), (0, 0), (0, -n_lines % LINES_MULTIPLE)])
    return to_channels(centre_pad(matrices, (size, matrices.shape[-1])))


def _check(x: FloatArray, plan: Plan, index: int, noise: NoiseStream) -> None:
    finite: BoolArray = np.all(np.isfinite(x).reshape(len(noise.slices), -1), axis=1)
    check_finite(finite, plan, index, noise.slices)
