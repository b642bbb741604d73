"""From a sampler's name and a few numbers to its plan, with the model's own numbers for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.samplers import plans
from sbim_deploy.samplers.plan import Plan
from sbim_deploy.samplers.schedules import Sigmas, geometric, starting_at, subsample

DEFAULT_SAMPLER = "dds"

# Searched with the demo model on tuning slices by benchmarks/search_dds.py: docs/results.md.
DDS_START_SIGMA, DDS_END_SIGMA = 0.15, 0.01
DDS_GAMMA, DDS_NOISE_WEIGHT, DDS_N_CG, DDS_ETA = 0.0, 0.5, 6, 1.0


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
    """A sampler by name; a number left None is the sampler's default or the model's."""

    name: str = DEFAULT_SAMPLER
    steps: int | None = None
    corrector_steps: int | None = None
    data_weight: float | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown name, numbers out of range, and numbers that the sampler would ignore."""
        if self.name not in SAMPLERS:
            raise InputError(f"unknown sampler {self.name!r}: expected one of {', '.join(SAMPLERS)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps is {self.steps}: expected at least 1")
        if self.corrector_steps is not None and self.corrector_steps < 1:
            raise InputError(f"corrector steps is {self.corrector_steps}: expected at least 1")
        if self.data_weight is not None and not 0 <= self.data_weight < float("inf"):
            raise InputError(f"data weight is {self.data_weight:g}: expected a finite number, 0 or more")
        sampler = SAMPLERS[self.name]
        if self.corrector_steps is not None and not sampler.takes_corrector:
            names = " or ".join(name for name, other in SAMPLERS.items() if other.takes_corrector)
            raise InputError(f"{self.name} has no corrector steps: leave them out, or use {names}")
        if self.data_weight is not None and not sampler.takes_data_weight:
            raise InputError(f"{self.name} has no data weight, it solves for the data: leave it out")


@dataclass(frozen=True)
class Sampler:
    """How a sampler is planned, and which of a choice's numbers it takes.

    ``levels`` gives the sigmas of a number of steps, ``plan`` takes them with the data weight, the step_lr
    and the corrector steps. ``steps`` None is every level of the model, ``corrector_steps`` None its own
    number of Langevin steps at a level.
    """

    levels: Callable[[Prior, int], Sigmas]
    plan: Callable[[Sigmas, float, float, int], Plan]
    steps: int | None
    takes_corrector: bool = False
    corrector_steps: int | None = 2
    takes_data_weight: bool = True


def make_plan(choice: SamplerChoice, prior: Prior) -> Plan:
    """Return the plan of a sampler for a model.

    Raises:
        InputError: more steps than the model has levels.
    """
    sampler = SAMPLERS[choice.name]
    steps = choice.steps or sampler.steps or prior.n_levels - prior.start_level
    sigmas = sampler.levels(prior, steps)
    plan = sampler.plan(
        sigmas,
        prior.data_weight if choice.data_weight is None else choice.data_weight,
        prior.step_lr,
        choice.corrector_steps or sampler.corrector_steps or prior.n_steps_each,
    )
    if prior.vp_sigmas and not plan.start_image:
        # z ~ N(0, I) is where the variance-preserving process ends: x_VP = x_VE / sqrt(1 + sigma^2).
        plan = replace(plan, start_noise=math.sqrt(1 + sigmas[0] ** 2))
    return plan


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
        lambda sigmas, weight, eps, corrector: plans.dds(
            sigmas, DDS_GAMMA, DDS_NOISE_WEIGHT, DDS_N_CG, DDS_ETA
        ),
        steps=32,
        takes_data_weight=False,
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
