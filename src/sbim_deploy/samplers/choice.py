"""From a sampler's name and a few numbers, or a preset, to its plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.samplers import plan as plans
from sbim_deploy.samplers.plan import GuidedStep, Plan
from sbim_deploy.samplers.schedules import Sigmas, geometric, karras, starting_at, subsample

DEFAULT_SAMPLER = "dds"
NORM_MATCHED, LIKELIHOOD = "norm-matched", "likelihood"
GUIDANCES = (NORM_MATCHED, LIKELIHOOD)
SCHEDULES = {"geometric": geometric, "karras": karras}

# Searched by benchmarks/search_presets.py with 32 calls: docs/results.md.
DDS_START_SIGMA, DDS_END_SIGMA = 0.3, 0.01
DDS_GAMMA, DDS_NOISE_WEIGHT, DDS_N_CG, DDS_ETA = 0.0, 0.5, 10, 1.0


@dataclass(frozen=True)
class Prior:
    """What a model says of its own sampling: its noise levels and its published settings.

    ``vp_sigmas`` are the levels, largest first, of a model that was trained on a variance-preserving
    schedule; others have geometric ones.
    """

    sigma_begin: float
    sigma_end: float
    n_levels: int
    step_lr: float
    n_steps_each: int
    data_weight: float
    start_level: int
    vp_sigmas: tuple[float, ...] = ()


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler by name; what is left None is the sampler's default or the model's.

    ``data_weight`` is that of the ``guidance``. ``schedule`` lays the levels between the first and the last;
    with ``start_sigma`` they begin there, with the image of the measured data under noise of that level.
    ``prior_weight`` is w in the weight w (sigma_y / sigma)^2 of the denoised image in ``dds``.
    ``eta``, 0 to 1, is how fresh the noise of ``ddim`` is: from none to that of ``reverse-diffusion``.
    """

    name: str = DEFAULT_SAMPLER
    steps: int | None = None
    corrector_steps: int | None = None
    data_weight: float | None = None
    guidance: str | None = None
    schedule: str | None = None
    start_sigma: float | None = None
    prior_weight: float | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown name, numbers out of range, and numbers that the sampler would ignore."""
        if self.name not in SAMPLERS:
            raise InputError(f"unknown sampler {self.name!r}: expected one of {', '.join(SAMPLERS)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps is {self.steps}: expected at least 1")
        if self.corrector_steps is not None and self.corrector_steps < 1:
            raise InputError(f"corrector steps is {self.corrector_steps}: expected at least 1")
        for name, value in (("data weight", self.data_weight), ("prior weight", self.prior_weight)):
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} is {value:g}: expected a finite number, 0 or more")
        if self.start_sigma is not None and not 0 < self.start_sigma < math.inf:
            raise InputError(f"start sigma is {self.start_sigma:g}: expected a finite number above 0")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise InputError(f"eta is {self.eta:g}: expected 0 to 1")
        for name, given, known in (
            ("guidance", self.guidance, GUIDANCES),
            ("schedule", self.schedule, tuple(SCHEDULES)),
        ):
            if given is not None and given not in known:
                raise InputError(f"unknown {name} {given!r}: expected one of {', '.join(known)}")
        self._check_taken()

    def _check_taken(self) -> None:
        sampler = SAMPLERS[self.name]
        if self.corrector_steps is not None and not sampler.takes_corrector:
            names = " or ".join(name for name, other in SAMPLERS.items() if other.takes_corrector)
            raise InputError(f"{self.name} has no corrector steps: leave them out, or use {names}")
        for given, what in ((self.data_weight, "data weight"), (self.guidance, "guidance")):
            if given is not None and not sampler.is_guided:
                raise InputError(f"{self.name} has no {what}, it solves for the data: leave it out")
        if self.prior_weight is not None and sampler.is_guided:
            raise InputError(f"{self.name} has no prior weight: leave it out, or use dds")
        if self.eta is not None and self.name != "ddim":
            raise InputError(f"{self.name} has no eta: leave it out, or use ddim")


@dataclass(frozen=True)
class Sampler:
    """How a sampler is planned, and which of a choice's numbers it takes.

    ``levels`` gives the sigmas of a number of steps. ``plan`` takes them with a weight (of the data, or of
    the prior in a sampler that solves for the data), the step_lr and the corrector steps. ``steps`` None is
    every level of the model, ``corrector_steps`` None its own number of Langevin steps at a level.
    """

    levels: Callable[[Prior, int], Sigmas]
    plan: Callable[[Sigmas, float, float, int], Plan]
    steps: int | None
    takes_corrector: bool = False
    corrector_steps: int | None = 2
    is_guided: bool = True


def make_plan(choice: SamplerChoice, prior: Prior) -> Plan:
    """Return the plan of a sampler for a model.

    Raises:
        InputError: more steps than the model has levels.
    """
    sampler = SAMPLERS[choice.name]
    sigmas = _levels(choice, sampler, prior)
    if not sampler.is_guided:
        weight = DDS_NOISE_WEIGHT if choice.prior_weight is None else choice.prior_weight
    else:
        own = 1.0 if choice.guidance == LIKELIHOOD else prior.data_weight
        weight = own if choice.data_weight is None else choice.data_weight
    corrector_steps = choice.corrector_steps or sampler.corrector_steps or prior.n_steps_each
    if choice.eta is not None:
        plan = plans.ddim(sigmas, weight, choice.eta)
    else:
        plan = sampler.plan(sigmas, weight, prior.step_lr, corrector_steps)
    if choice.guidance == LIKELIHOOD:
        plan = _guided_by_likelihood(plan)
    if choice.start_sigma is not None:
        plan = replace(plan, start_image=1.0, start_noise=float(sigmas[0]))
    elif prior.vp_sigmas and not plan.start_image:
        # z ~ N(0, I) is where the variance-preserving process ends: x_VP = x_VE / sqrt(1 + sigma^2).
        plan = replace(plan, start_noise=math.sqrt(1 + sigmas[0] ** 2))
    return plan


def _levels(choice: SamplerChoice, sampler: Sampler, prior: Prior) -> Sigmas:
    steps = choice.steps or sampler.steps or prior.n_levels - prior.start_level
    own = sampler.levels(prior, steps)
    if choice.schedule is None and choice.start_sigma is None:
        return own
    if prior.vp_sigmas and sampler.is_guided:
        raise InputError(
            f"{choice.name} takes a variance-preserving model's own levels: leave the schedule and the start "
            "sigma out, or use dds"
        )
    start, end = choice.start_sigma or float(own[0]), float(own[-1])
    if not end < start <= prior.sigma_begin:
        raise InputError(
            f"start sigma is {start:g}: expected more than the last level {end:g}, and at most the model's "
            f"largest, {prior.sigma_begin:g}"
        )
    return SCHEDULES[choice.schedule or "geometric"](start, end, own.size)


def _guided_by_likelihood(plan: Plan) -> Plan:
    """Return a plan whose data weights are those of A^H (A x - y) / (sigma_y^2 + sigma^2).

    Jalal et al. 2021 (arXiv:2108.01368), algorithm 1, with sigma for their gamma_t.
    """
    steps = (
        replace(step, data_weight=0.0, likelihood_weight=step.data_weight)
        if isinstance(step, GuidedStep)
        else step
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))


def _model_levels(prior: Prior) -> Sigmas:
    if prior.vp_sigmas:
        return np.array(prior.vp_sigmas)
    return geometric(prior.sigma_begin, prior.sigma_end, prior.n_levels)


def _predictor_levels(prior: Prior, steps: int) -> Sigmas:
    """N steps go down between N + 1 levels."""
    return subsample(_model_levels(prior), steps + 1)


def _langevin_levels(prior: Prior, steps: int) -> Sigmas:
    return subsample(starting_at(_model_levels(prior), prior.start_level), steps)


def _dds_levels(prior: Prior, steps: int) -> Sigmas:
    return geometric(min(DDS_START_SIGMA, prior.sigma_begin), max(DDS_END_SIGMA, prior.sigma_end), steps)


SAMPLERS = {
    "dds": Sampler(
        _dds_levels,
        lambda sigmas, weight, eps, corrector: plans.dds(sigmas, DDS_GAMMA, weight, DDS_N_CG, DDS_ETA),
        steps=32,
        is_guided=False,
    ),
    "sbim": Sampler(
        _predictor_levels, lambda sigmas, weight, eps, corrector: plans.sbim(sigmas, weight), steps=32
    ),
    "sbim-ld": Sampler(_predictor_levels, plans.sbim_ld, steps=32, takes_corrector=True),
    "ddim": Sampler(
        _predictor_levels, lambda sigmas, weight, eps, corrector: plans.ddim(sigmas, weight), steps=32
    ),
    "reverse-diffusion": Sampler(
        _predictor_levels,
        lambda sigmas, weight, eps, corrector: plans.reverse_diffusion(sigmas, weight),
        steps=256,
    ),
    "langevin": Sampler(
        _langevin_levels, plans.langevin, steps=None, takes_corrector=True, corrector_steps=None
    ),
}


@dataclass(frozen=True)
class Preset:
    """A sampler, how many of its images are averaged for each slice, and what it is, for people."""

    description: str
    choice: SamplerChoice
    samples: int = 1


# By benchmarks/search_presets.py with the demo model: docs/results.md. `thesis` is its sampler with the
# corrector, as published (p. 75).
PRESETS = {
    "fast": Preset(
        "decomposed diffusion sampling, 8 network calls", SamplerChoice("dds", steps=8, prior_weight=1.0)
    ),
    "balanced": Preset("decomposed diffusion sampling, 32 network calls", SamplerChoice("dds", steps=32)),
    "thesis": Preset(
        "SBIM with a Langevin corrector, 97 network calls",
        SamplerChoice("sbim-ld", steps=32, corrector_steps=2),
    ),
    "best": Preset(
        "decomposed diffusion sampling, the mean of two samples of 48 network calls",
        SamplerChoice("dds", steps=48, start_sigma=0.2, prior_weight=0.7),
        samples=2,
    ),
}
DEFAULT_PRESET = "balanced"


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
