"""A model's own images, without data: what a prior knows shows in what it makes of noise alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.errors import InputError
from sbim_deploy.io.overwriting import HDF5, check_name
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import DEMO, Model, load_model, sampling_prior
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.reconstruct import count_calls
from sbim_deploy.records import NOTICE, ComplexArray
from sbim_deploy.results.provenance import ModelIdentity, PlanRecord, SamplesProvenance
from sbim_deploy.results.sample_file import writing_samples
from sbim_deploy.runs.scan import model_record, software_versions
from sbim_deploy.samplers.choice import Prior, SamplerChoice, make_plan
from sbim_deploy.samplers.loop import run_plan, starting_point
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import GuidedStep, Plan, plan_as_dict

GRAPH = "score"
MAX_SAMPLES, MAX_SIZE = 100_000, 1024
MAX_PIXELS = 4 * MAX_SIZE**2  # in a call: the network's memory grows with them
DEFAULT_SAMPLER = "reverse-diffusion"
FROM_UNIT_NOISE = ("sbim", "sbim-ld")
# Steps and corrector steps of about 256 network calls each, so that samplers can be compared as they are.
DEFAULT_STEPS = {
    "reverse-diffusion": (256, None),
    "ddim": (256, None),
    "sbim": (256, None),
    "sbim-ld": (64, 3),
    "langevin": (256, 1),
}

OnStarted = Callable[[int, Mapping[str, str]], None]
"""(network calls of a sample, description of what runs the network)"""


@dataclass(frozen=True)
class SampleSettings:
    """What to draw: ``n_samples`` images of ``size`` rows and columns, ``batch`` of them together.

    What the ``choice`` leaves None is that of ``DEFAULT_STEPS``.
    """

    model: str | Path = DEMO
    n_samples: int = 16
    size: int = 128
    choice: SamplerChoice = field(default_factory=lambda: SamplerChoice(DEFAULT_SAMPLER))
    seed: int = 0
    batch: int = 4
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges, and that the sampler is one that needs no data."""
        ranges = {
            "samples": (self.n_samples, 1, MAX_SAMPLES),
            "size": (self.size, 1, MAX_SIZE),
            "batch": (self.batch, 1, MAX_PIXELS // max(self.size, 1) ** 2),
            "seed": (self.seed, 0, 2**63),
            "threads": (1 if self.threads is None else self.threads, 1, 1024),
        }
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise InputError(f"{name} is {value}: expected {low} to {high}")
        if self.choice.name not in DEFAULT_STEPS:
            raise InputError(
                f"{self.choice.name} solves for data, and there are none: use one of "
                f"{', '.join(DEFAULT_STEPS)}; ddim with an eta of 1 is the nearest"
            )


def sample_file(
    path: Path,
    settings: SampleSettings,
    on_started: OnStarted | None = None,
    on_calls: Callable[[int], None] | None = None,
    force: bool = False,
) -> SamplesProvenance:
    """Write a model's samples, and return how they came about; with ``force`` over a file that is there.

    A sample is a function of the seed and of its number: the same in any batch. ``on_calls`` gets the network
    calls that are done, over all samples.

    Raises:
        InputError: the model or a setting is not what it must be, or the file cannot be written.
        SamplingError: the sampler diverged.
        ChecksumError, BackendMissingError: see :func:`sbim_deploy.models.folder.load_model` and
            :func:`sbim_deploy.models.backends.open_engine`.
    """
    started = time.perf_counter()
    check_name(path, HDF5)
    model = load_model(settings.model)
    _check_network(model, settings.size)
    plan = plan_without_data(settings.choice, sampling_prior(model.manifest))
    shape = (settings.size, settings.size)
    with writing_samples(path, settings.n_samples, shape, force) as writer:
        engine = open_engine(model, GRAPH, settings.backend, settings.threads, settings.precision)
        n_calls = len(plan.steps)
        if on_started is not None:
            on_started(n_calls, engine.description)
        for first in range(0, settings.n_samples, settings.batch):
            numbers = range(first, min(first + settings.batch, settings.n_samples))
            on_step = count_calls(on_calls, numbers, n_calls)
            nothing = np.zeros((len(numbers), *shape), np.complex64)
            writer.write(first, draw_samples(engine, plan, nothing, numbers, settings.seed, on_step))
        provenance = _provenance(model, settings, plan, engine, time.perf_counter() - started)
        writer.finish(provenance.as_dict())
    return provenance


def plan_without_data(choice: SamplerChoice, prior: Prior) -> Plan:
    """Return a sampler's plan from noise alone, over all levels of the model and with a denoising at the end.

    A guided run may start at N(0, I) and below the largest level, because its data lead it to the image.
    Without data the start must be noise of the largest level: steps that keep to the variance-exploding
    process would shrink anything less to the mean of the images. SBIM's do not keep to it, and start at
    N(0, I) as published.

    Raises:
        InputError: more steps than the model has levels.
    """
    steps, corrector_steps = DEFAULT_STEPS[choice.name]
    choice = replace(
        choice,
        data_weight=0.0,
        steps=choice.steps or min(steps, prior.n_levels - 1),
        corrector_steps=choice.corrector_steps or corrector_steps,
    )
    plan = make_plan(choice, replace(prior, start_level=0))
    last = plan.steps[-1]
    if last.noise_scale:
        plan = replace(plan, steps=(*plan.steps, GuidedStep(last.sigma, last.sigma**2, 0.0, 0.0)))
    if prior.vp_sigmas or choice.name in FROM_UNIT_NOISE:
        return plan
    return replace(plan, start_noise=plan.steps[0].sigma)


def draw_samples(
    engine: Engine,
    plan: Plan,
    images: ComplexArray,
    numbers: Sequence[int],
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> ComplexArray:
    """Return the samples of these numbers, complex64 (sample, rows, columns), in the units of the network.

    ``images`` are what a plan with a start sigma noises to begin with; they are zero for samples from noise.

    Raises:
        SamplingError: the sampler diverged.
    """
    noise = NoiseStream(seed, numbers, images.shape[1:])
    return run_plan(
        plan,
        EngineScore(engine, images.shape),
        _normal_without_data,
        np.zeros_like(images),
        starting_point(plan, images, noise),
        noise,
        np.zeros(len(images), np.float32),
        on_step,
    )


def _normal_without_data(x: ComplexArray, out: ComplexArray) -> ComplexArray:
    """Return A^H A x where nothing was measured, A = 0."""
    out.fill(0)
    return out


def _check_network(model: Model, size: int) -> None:
    manifest = model.manifest
    if manifest.channels != 2:
        raise InputError(
            f"{model.folder}: the network has {manifest.channels} channels, expected 2 (real and imaginary) "
            "to make complex images"
        )
    if size % manifest.size_multiple:
        below = size // manifest.size_multiple * manifest.size_multiple
        sizes = [each for each in (below, below + manifest.size_multiple) if 0 < each <= MAX_SIZE]
        raise InputError(
            f"size is {size}: the network of {model.folder} takes multiples of {manifest.size_multiple}, "
            f"such as {' or '.join(map(str, sizes))}"
        )


def _provenance(
    model: Model, settings: SampleSettings, plan: Plan, engine: Engine, seconds: float
) -> SamplesProvenance:
    manifest = model.manifest
    return SamplesProvenance(
        software=software_versions(),
        model=model_record(ModelIdentity(manifest.name, model.digest, manifest.ema), manifest),
        backend=engine.description["backend"],
        graph=GRAPH,
        seed=settings.seed,
        plan=PlanRecord(**plan_as_dict(plan)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        engine=dict(engine.description),
        batch=settings.batch,
        seconds=round(seconds, 3),
        notice=NOTICE,
    )
