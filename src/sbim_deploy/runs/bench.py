"""How fast an engine runs a model, alone in a process: calls, a whole reconstruction, memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sbim_deploy import __version__
from sbim_deploy.engines.engine import Arrays, Engine, Recurrence
from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import Model, load_model, sampling_prior
from sbim_deploy.recon.fused import GUIDED_NUMBERS, STEPS_BETWEEN_CHECKS
from sbim_deploy.recon.grid import put_on_grid, stack_slices
from sbim_deploy.recon.parity import phantom_problem, step_tensors
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, Reconstructor
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from sbim_deploy.samplers.plan import GuidedStep, Plan


def machine() -> dict[str, Any]:
    """Return the processor's name, its cores, and the versions that every backend shares."""
    return {
        "cpu": _line_of(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "sbim-deploy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def peak_memory_mb() -> float | None:
    """Return the most memory that this process has held, or None where the system does not tell."""
    # Not getrusage, whose maximum is the parent's where the parent held more.
    peak = _line_of(Path("/proc/self/status"), "VmHWM")
    return None if peak is None else int(peak.split()[0]) / 1024


def gpu_memory_mb() -> float | None:
    """Return the GPU memory that this process holds, by nvidia-smi, or None where it does not tell."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split(",") for line in answer.splitlines()]
    mine = [row[1].strip() for row in rows if len(row) == 2 and row[0].strip() == str(os.getpid())]
    return sum(map(float, mine)) if mine and all(each.isdecimal() for each in mine) else None


def _line_of(path: Path, name: str) -> str | None:
    """Return what stands after ``name`` and a colon in a file, if the system has it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    parts = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in parts if key.strip() == name), None)


ACCELERATION = 4.0
# Calls are repeated for so many seconds, but at least and at most so often.
REPEAT_S, MIN_REPEATS, MAX_REPEATS = 3.0, 3, 30
# Steps between two looks at the state: no more than a reconstruction takes, and no more seconds than these.
MAX_STEPS, STEPS_S = STEPS_BETWEEN_CHECKS, 0.5

Result = TypeVar("Result")


@dataclass(frozen=True)
class Case:
    """What is measured: a slice's rows and columns, its coils, and the sampler of the reconstruction."""

    size: tuple[int, int] = (128, 128)
    coils: int = 8
    choice: SamplerChoice | Plan = field(default_factory=SamplerChoice)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not all(16 <= n <= 1024 for n in self.size):
            raise InputError(f"size is {self.size[0]}x{self.size[1]}: expected 16 to 1024")
        if not 1 <= self.coils <= 256:
            raise InputError(f"coils is {self.coils}: expected 1 to 256")


@dataclass(frozen=True)
class Measurement:
    """Times and memory of one engine. ``chosen`` says why it is that one.

    ``load_s`` opens the score engine, ``first_call_ms`` compiles where the engine does; ``score_ms`` and
    ``step_ms`` are medians of later calls; a step is one of a recurrence, as a reconstruction runs it, with
    new noise uploaded. A reconstruction is ``network_calls`` steps of a plan for a slice
    whose maps are given: ``recon_s`` is ``recon_engine_s`` in the engine and ``outside_ms``, which is
    ``outside_percent`` of it. ``peak_mb`` is of a process that opens the score engine and calls it,
    ``growth_mb`` what of it came after Python and numpy, ``gpu_mb`` the memory of the GPU that the process
    holds when all is measured; None where the system does not tell.
    """

    backend: str
    version: str
    device: str
    chosen: str
    load_s: float
    first_call_ms: float
    score_ms: float
    step_ms: float | None
    network_calls: int
    recon_s: float
    recon_engine_s: float
    outside_ms: float
    outside_percent: float
    peak_mb: float | None
    growth_mb: float | None
    gpu_mb: float | None = None


def measure_backend(folder: Path, backend: str, case: Case, precision: str | None = None) -> Measurement:
    """Measure one backend; see :func:`measure`."""
    model = load_model(folder)
    return measure(
        model, case, lambda graph: open_engine(model, graph, backend, precision=precision), DEFAULT_GRAPH
    )


def measure(model: Model, case: Case, open_graph: Callable[[str], Engine], graph: str) -> Measurement:
    """Measure an engine in this process; ``graph`` is what a reconstruction runs on, such as ``step``.

    Raises:
        InputError: the model does not take images of this size.
        BackendMissingError, EngineIncompatibleError: the engine cannot be opened.
    """
    check_case(model, case)
    before_mb = peak_memory_mb()
    problem = phantom_problem(case.size, case.coils, ACCELERATION, seed=0)
    x = np.random.default_rng(0).standard_normal((1, model.manifest.channels, *case.size), dtype=np.float32)
    inputs = {"x": x, "sigma": np.ones(1, dtype=np.float32)}
    load_s, engine = _timed(lambda: open_graph("score"))
    first_s, _ = _timed(partial(engine.run, inputs))
    score_s = _median_s(partial(engine.run, inputs))
    peak_mb, description = peak_memory_mb(), engine.description
    # One engine at a time: the threads of an idle ONNX Runtime spin, and slow the next one down.
    del engine
    step_s = None if graph == "score" else _measure_step(model, open_graph("step-guided"), problem)
    recon_s, engine_s, n_calls, gpu_mb = _measure_reconstruction(model, case, open_graph, graph, problem)
    return Measurement(
        backend=description["backend"],
        version=description["version"],
        device=description.get("device", ""),
        chosen=description.get("chosen", ""),
        load_s=load_s,
        first_call_ms=1000 * first_s,
        score_ms=1000 * score_s,
        step_ms=None if step_s is None else 1000 * step_s,
        network_calls=n_calls,
        recon_s=recon_s,
        recon_engine_s=engine_s,
        outside_ms=1000 * (recon_s - engine_s),
        outside_percent=100 * (recon_s - engine_s) / recon_s,
        peak_mb=peak_mb,
        growth_mb=None if peak_mb is None or before_mb is None else peak_mb - before_mb,
        gpu_mb=gpu_mb,
    )


def check_case(model: Model, case: Case) -> None:
    """Raise InputError where the model cannot reconstruct complex images, of this size, by this sampler."""
    make_plan(case.choice, sampling_prior(model.manifest))
    if model.manifest.channels != 2:
        raise InputError(f"{model.folder}: the network has {model.manifest.channels} channels, expected 2")
    multiple = model.manifest.size_multiple
    if any(n % multiple for n in case.size):
        raise InputError(
            f"size is {case.size[0]}x{case.size[1]}: {model.folder} takes multiples of {multiple}"
        )


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return what a function returns in a process of its own, whose memory holds nothing else.

    Raises:
        SbimDeployError: the process ended without an answer; and whatever the function raises.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise SbimDeployError(
                "a measurement's process was ended, for its memory perhaps: take a smaller --size"
            ) from error


class TimedEngine:
    """An engine that adds up the seconds spent inside another."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.description = engine.description
        self.seconds = 0.0

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the other engine's outputs."""
        return self.timed(lambda: self._engine.run(inputs))

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Begin the other engine's recurrence."""
        return _TimedRecurrence(self, self.timed(lambda: self._engine.recur(state, output, inputs)))

    def timed(self, function: Callable[[], Result]) -> Result:
        """Return what the function returns, its seconds added."""
        seconds, result = _timed(function)
        self.seconds += seconds
        return result


class _TimedRecurrence:
    """A recurrence whose seconds count as its engine's; what runs on after advance ends in read."""

    def __init__(self, engine: TimedEngine, recurrence: Recurrence):
        self._engine, self._recurrence = engine, recurrence

    def advance(self, changed: Arrays) -> None:
        """Run the graph once."""
        self._engine.timed(lambda: self._recurrence.advance(changed))

    def read(self) -> NDArray[Any]:
        """Return a copy of the state."""
        return self._engine.timed(self._recurrence.read)


def _measure_reconstruction(
    model: Model, case: Case, open_graph: Callable[[str], Engine], graph: str, problem: SliceProblem
) -> tuple[float, float, int, float | None]:
    """Return the seconds of a reconstruction, those inside the engine, its network calls and GPU memory."""
    timed: list[TimedEngine] = []

    def open_timed(name: str) -> Engine:
        timed.append(TimedEngine(open_graph(name)))
        return timed[-1]

    reconstructor = Reconstructor(model, case.choice, graph=graph, open_graph=open_timed)
    reconstructor([problem])  # compiles where the engine does
    runs: list[tuple[float, float]] = []
    while not runs or (len(runs) < MIN_REPEATS and sum(total for total, _ in runs) < REPEAT_S):
        timed[0].seconds = 0.0
        total, _ = _timed(lambda: reconstructor([problem]))
        runs.append((total, timed[0].seconds))
    total, inside = sorted(runs)[len(runs) // 2]
    return total, inside, len(reconstructor.plan.steps), gpu_memory_mb()


def _measure_step(model: Model, engine: Engine, problem: SliceProblem) -> float:
    step = GuidedStep(sigma=1.0, step_size=0.1, noise_scale=0.1, data_weight=5.0)
    plan = Plan("bench", start_image=1.0, start_noise=1.0, steps=(step,))
    inputs = step_tensors(step, put_on_grid(stack_slices([problem]), plan, 0, model.manifest.size_multiple))
    recurrence = engine.recur("x", "x_next", inputs)
    changed = {name: inputs[name] for name in (*GUIDED_NUMBERS, "z")}

    def run_steps(n_steps: int) -> None:
        for _ in range(n_steps):
            recurrence.advance(changed)
        recurrence.read()

    run_steps(3)  # compiles, and captures where the engine does
    one_s, _ = _timed(lambda: run_steps(1))
    n_steps = min(MAX_STEPS, max(1, int(STEPS_S / one_s)))
    return _median_s(lambda: run_steps(n_steps)) / n_steps


def _median_s(function: Callable[[], Any]) -> float:
    seconds: list[float] = []
    while len(seconds) < MIN_REPEATS or (sum(seconds) < REPEAT_S and len(seconds) < MAX_REPEATS):
        seconds.append(_timed(function)[0])
    return statistics.median(seconds)


def _timed(function: Callable[[], Result]) -> tuple[float, Result]:
    before = time.perf_counter()
    result = function()
    return time.perf_counter() - before, result
