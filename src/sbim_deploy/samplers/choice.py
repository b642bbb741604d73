"""From a sampler's name and a few numbers, or a preset, to its plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.plugins import check_new_name, load_plugins
from sbim_deploy.samplers import plan as plans
from sbim_deploy.samplers.plan import L1_WAVELET, STARTS, GuidedStep, Plan
from sbim_deploy.samplers.schedules import Sigmas, geometric, karras, starting_at, subsample

DEFAULT_SAMPLER = "dds"
NORM_MATCHED, LIKELIHOOD, CLEAN_LIKELIHOOD = "norm-matched", "likelihood", "clean-likelihood"
GUIDANCES = (NORM_MATCHED, LIKELIHOOD, CLEAN_LIKELIHOOD)
CORRECTOR_LEVELS = OWN_LEVEL, PREVIOUS_LEVEL = "own", "previous"
DENOISINGS = BY_PRIOR, GUIDED = "prior", "guided"
MAX_LANGEVIN_STEP = 2.0  # of sigma^2: above it a Langevin step grows what it should shrink
# The published Langevin dynamics take three steps a level up to level 1800 of 2311, and then four.
PUBLISHED_LEVELS, PUBLISHED_CHANGE, PUBLISHED_STEPS_EACH = 2311, 1800, (3, 4)
SCHEDULES = {"geometric": geometric, "karras": karras}

# Searched by benchmarks/search_presets.py with 32 calls: docs/results.md.
DDS_START_SIGMA, DDS_END_SIGMA = 0.3, 0.01
# From an L1-wavelet image: 0.1 with 8 steps, 0.15 with 16, 0.3 with 32 (docs/samplers.md).
DDS_WARM_SIGMA_OF_STEP, DDS_LEAST_WARM_SIGMA = 0.15 / 16, 0.1
DDS_GAMMA, DDS_NOISE_WEIGHT, DDS_N_CG, DDS_ETA = 0.0, 0.5, 10, 0.2
DAPS_START_SIGMA, DAPS_STEPS, MAX_STEPS = 1.0, 48, 100_000


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
    with ``start_sigma`` they begin there, with the image of the method ``start`` under noise of that level.
    ``prior_weight`` is w in the weight w (sigma_y / sigma)^2 of the denoised image in ``dds``.

    ``langevin_step`` is the step size of Langevin steps in units of sigma^2, where sigma is the corrector's
    level, or with ``corrector_step_from`` "previous" that of the predictor before it. ``denoising`` tells
    whether data guide the last step. ``published`` takes what the thesis's code did for what is left None:
    a guided last denoising, a last predictor to 0, corrector steps of the previous level, and three, then
    four Langevin steps a level.
    ``eta``, 0 to 1, is the share of noise that is fresh, of ``ddim`` and ``dds``.
    """

    name: str = DEFAULT_SAMPLER
    steps: int | None = None
    corrector_steps: int | None = None
    data_weight: float | None = None
    guidance: str | None = None
    schedule: str | None = None
    start_sigma: float | None = None
    start: str | None = None
    prior_weight: float | None = None
    langevin_step: float | None = None
    corrector_step_from: str | None = None
    denoising: str | None = None
    published: bool = False
    eta: float | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown name, numbers out of range, and numbers that the sampler would ignore."""
        if self.name not in SAMPLERS:
            load_plugins()
        if self.name not in SAMPLERS:
            raise InputError(f"unknown sampler {self.name!r}: expected one of {', '.join(SAMPLERS)}")
        self._check_ranges()
        for name, given, known in (
            ("guidance", self.guidance, GUIDANCES),
            ("schedule", self.schedule, tuple(SCHEDULES)),
            ("corrector step from", self.corrector_step_from, CORRECTOR_LEVELS),
            ("denoising", self.denoising, DENOISINGS),
            ("start", self.start, STARTS),
        ):
            if given is not None and given not in known:
                raise InputError(f"unknown {name} {given!r}: expected one of {', '.join(known)}")
        self._check_taken()

    def _check_ranges(self) -> None:
        for name, count in (("steps", self.steps), ("corrector steps", self.corrector_steps)):
            if count is not None and not 1 <= count <= MAX_STEPS:
                raise InputError(f"{name} is {count}: expected 1 to {MAX_STEPS}")
        for name, value in (("data weight", self.data_weight), ("prior weight", self.prior_weight)):
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} is {value:g}: expected a finite number, 0 or more")
        for name, value in (("start sigma", self.start_sigma), ("langevin step", self.langevin_step)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value:g}: expected a finite number above 0")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise InputError(f"eta is {self.eta:g}: expected 0 to 1")

    def _check_taken(self) -> None:
        sampler = SAMPLERS[self.name]
        if self.published and (self.schedule is not None or self.start_sigma is not None):
            raise InputError("the published form has its own levels: leave schedule and start sigma out")
        for given, what, takers in (
            (self.corrector_steps, "corrector steps", [n for n, s in SAMPLERS.items() if s.takes_corrector]),
            (self.langevin_step, "Langevin steps", [n for n, s in SAMPLERS.items() if s.takes_corrector]),
            (self.corrector_step_from, "corrector after a predictor", ["sbim-ld"]),
            (self.eta, "eta", ["ddim", "dds"]),
            (self.denoising, "last denoising", [n for n, s in SAMPLERS.items() if s.denoises]),
            (self.published or None, "published form", [n for n, s in SAMPLERS.items() if s.is_published]),
        ):
            if given is not None and self.name not in takers:
                raise InputError(f"{self.name} has no {what}: leave it out, or use {' or '.join(takers)}")
        for given, what in ((self.data_weight, "data weight"), (self.guidance, "guidance")):
            if given is not None and not sampler.is_guided:
                raise InputError(f"{self.name} has no {what}, it solves for the data: leave it out")
        if self.start is not None and sampler.is_guided and self.start_sigma is None:
            raise InputError(
                f"{self.name} starts from noise: leave start out, or give the start sigma at which it begins"
            )
        if self.prior_weight is not None and self.name != "dds":
            raise InputError(f"{self.name} has no prior weight: leave it out, or use dds")


@dataclass(frozen=True)
class Sampler:
    """How a sampler is planned, and which of a choice's numbers it takes.

    ``levels`` gives the sigmas of a number of steps. ``plan`` takes them with a weight (of the data, or of
    the prior in a sampler that solves for the data) and the Langevin steps. ``steps`` None is every level of
    the model, ``corrector_steps`` None its own number of Langevin steps at a level. ``denoises`` tells that
    the last step is one of the prior, ``is_published`` that the thesis's code has it.
    """

    levels: Callable[[Prior, int, bool], Sigmas]
    plan: Callable[[Sigmas, float, StochasticSteps], Plan]
    steps: int | None
    takes_corrector: bool = False
    corrector_steps: int | None = 2
    is_guided: bool = True
    denoises: bool = True
    is_published: bool = False


@dataclass(frozen=True)
class StochasticSteps:
    """The ``size`` of Langevin steps in units of sigma^2, of their level or ``of_previous``, the predictor's.

    ``n_each`` is their number at each level, ``eta`` the share of noise that is fresh.
    """

    size: float
    of_previous: bool
    n_each: list[int]
    eta: float


def make_plan(choice: SamplerChoice | Plan, prior: Prior) -> Plan:
    """Return the plan of a sampler for a model, or the plan that was given.

    Raises:
        InputError: more steps than the model has levels, or Langevin steps that would diverge. A published
            plan may have them; its result warns of them.
    """
    if isinstance(choice, Plan):
        return choice
    plan = _make_plan(choice, prior)
    largest = plans.largest_langevin_step(plan)
    if largest > MAX_LANGEVIN_STEP and not choice.published:
        raise InputError(f"{divergence(plan, largest)}; {_way_out(choice, prior)}")
    return plan


def divergence(plan: Plan, langevin_step: float) -> str:
    """Return what is wrong with Langevin steps that are too large."""
    return (
        f"the Langevin steps of {plan.sampler} are {langevin_step:.2g} sigma^2, and above "
        f"{MAX_LANGEVIN_STEP:g} sigma^2 they diverge"
    )


def _way_out(choice: SamplerChoice, prior: Prior) -> str:
    """Return the number of steps whose Langevin steps are small enough, or what else there is."""
    sampler = SAMPLERS[choice.name]
    if _corrector_step_from(choice) == PREVIOUS_LEVEL:
        for n_steps in range(choice.steps or sampler.steps or 1, prior.n_levels):
            plan = _make_plan(replace(choice, steps=n_steps), prior)
            if plans.largest_langevin_step(plan) <= MAX_LANGEVIN_STEP:
                return f"use {n_steps} steps or more, or a smaller Langevin step"
    return "use a smaller Langevin step"


def _make_plan(choice: SamplerChoice, prior: Prior) -> Plan:
    sampler = SAMPLERS[choice.name]
    sigmas = _levels(choice, sampler, prior)
    if not sampler.is_guided:
        weight = DDS_NOISE_WEIGHT if choice.prior_weight is None else choice.prior_weight
    else:
        own = prior.data_weight if choice.guidance in (None, NORM_MATCHED) else 1.0
        weight = own if choice.data_weight is None else choice.data_weight
    plan = sampler.plan(sigmas, weight, _stochastic_steps(choice, prior, sigmas))
    denoising = choice.denoising or (GUIDED if choice.published else BY_PRIOR)
    last = plan.steps[-1]
    if denoising == GUIDED and sampler.denoises and isinstance(last, GuidedStep):
        plan = replace(plan, steps=(*plan.steps[:-1], replace(last, data_weight=weight)))
    if choice.guidance in (LIKELIHOOD, CLEAN_LIKELIHOOD):
        plan = _guided_by_likelihood(plan, choice.guidance == LIKELIHOOD)
    if choice.start is not None:
        plan = replace(plan, start=choice.start)
    if choice.start_sigma is not None:
        plan = replace(plan, start_image=1.0, start_noise=float(sigmas[0]))
    elif prior.vp_sigmas and not plan.start_image:
        # z ~ N(0, I) is where the variance-preserving process ends: x_VP = x_VE / sqrt(1 + sigma^2).
        plan = replace(plan, start_noise=math.sqrt(1 + sigmas[0] ** 2))
    return plan


def _corrector_step_from(choice: SamplerChoice) -> str:
    return choice.corrector_step_from or (PREVIOUS_LEVEL if choice.published else OWN_LEVEL)


def _stochastic_steps(choice: SamplerChoice, prior: Prior, sigmas: Sigmas) -> StochasticSteps:
    levels = _model_levels(prior)
    size = prior.step_lr / float(levels[-1]) ** 2 if choice.langevin_step is None else choice.langevin_step
    of_previous = _corrector_step_from(choice) == PREVIOUS_LEVEL
    n_steps = choice.corrector_steps or SAMPLERS[choice.name].corrector_steps or prior.n_steps_each
    n_each = [n_steps] * sigmas.size
    if choice.published and choice.name == "langevin" and choice.corrector_steps is None:
        change = levels[PUBLISHED_CHANGE * levels.size // PUBLISHED_LEVELS]
        first, then = PUBLISHED_STEPS_EACH
        n_each = [then if sigma < change else first for sigma in sigmas]
    eta = (DDS_ETA if choice.name == "dds" else 0.0) if choice.eta is None else choice.eta
    return StochasticSteps(size, of_previous, n_each, eta)


def _levels(choice: SamplerChoice, sampler: Sampler, prior: Prior) -> Sigmas:
    steps = choice.steps or sampler.steps or prior.n_levels - prior.start_level - int(choice.published)
    own = sampler.levels(prior, steps, choice.published)
    start_sigma = choice.start_sigma
    if start_sigma is None and choice.start == L1_WAVELET:
        warm = max(steps * DDS_WARM_SIGMA_OF_STEP, DDS_LEAST_WARM_SIGMA)
        start_sigma = min(warm, float(own[0]))
    if choice.schedule is None and start_sigma is None:
        return own
    if prior.vp_sigmas and sampler.is_guided:
        raise InputError(
            f"{choice.name} takes a variance-preserving model's own levels: leave the schedule and the start "
            "sigma out, or use dds"
        )
    start, end = start_sigma or float(own[0]), float(own[-1])
    if not end < start <= prior.sigma_begin:
        raise InputError(
            f"start sigma is {start:g}: expected more than the last level {end:g}, and at most the model's "
            f"largest, {prior.sigma_begin:g}"
        )
    return SCHEDULES[choice.schedule or "geometric"](start, end, own.size)


def _guided_by_likelihood(plan: Plan, of_noised: bool) -> Plan:
    """Return a plan whose data weights are those of A^H (A x - y) / (sigma_y^2 + sigma^2).

    Jalal et al. 2021 (arXiv:2108.01368), algorithm 1, with sigma for their gamma_t; where not
    ``of_noised``, over sigma_y^2 alone, as if x were clean (Dimos 2022, p. 67).
    """
    steps = (
        replace(
            step,
            data_weight=0.0,
            likelihood_weight=step.data_weight,
            likelihood_sigma=step.sigma if of_noised else 0.0,
        )
        if isinstance(step, GuidedStep)
        else step
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))


def _model_levels(prior: Prior) -> Sigmas:
    if prior.vp_sigmas:
        return np.array(prior.vp_sigmas)
    return geometric(prior.sigma_begin, prior.sigma_end, prior.n_levels)


def _predictor_levels(prior: Prior, steps: int, published: bool) -> Sigmas:
    """N steps go down between N + 1 levels; in the published code, between N levels and 0."""
    if published:
        return np.append(subsample(_model_levels(prior), steps), 0.0)
    return subsample(_model_levels(prior), steps + 1)


def _langevin_levels(prior: Prior, steps: int, published: bool) -> Sigmas:
    """N levels from the model's first one on; in the published code, from the one after it."""
    return subsample(starting_at(_model_levels(prior), prior.start_level + int(published)), steps)


def _daps_levels(prior: Prior, steps: int, published: bool) -> Sigmas:
    return geometric(min(DAPS_START_SIGMA, prior.sigma_begin), max(DDS_END_SIGMA, prior.sigma_end), steps)


def _dds_levels(prior: Prior, steps: int, published: bool) -> Sigmas:
    return geometric(min(DDS_START_SIGMA, prior.sigma_begin), max(DDS_END_SIGMA, prior.sigma_end), steps)


SAMPLERS = {
    "dds": Sampler(
        _dds_levels,
        lambda sigmas, weight, steps: plans.dds(sigmas, DDS_GAMMA, weight, DDS_N_CG, steps.eta),
        steps=32,
        is_guided=False,
        denoises=False,
    ),
    "daps": Sampler(
        _daps_levels,
        lambda sigmas, weight, steps: plans.daps(sigmas, DDS_N_CG),
        steps=DAPS_STEPS,
        is_guided=False,
        denoises=False,
    ),
    "sbim": Sampler(
        _predictor_levels,
        lambda sigmas, weight, steps: plans.sbim(sigmas, weight),
        steps=32,
        is_published=True,
    ),
    "sbim-ld": Sampler(
        _predictor_levels,
        lambda sigmas, weight, s: plans.sbim_ld(sigmas, weight, s.size, s.n_each[0], s.of_previous),
        steps=32,
        takes_corrector=True,
        is_published=True,
    ),
    "ddim": Sampler(
        _predictor_levels, lambda sigmas, weight, steps: plans.ddim(sigmas, weight, steps.eta), steps=32
    ),
    "reverse-diffusion": Sampler(
        _predictor_levels,
        lambda sigmas, weight, steps: plans.reverse_diffusion(sigmas, weight),
        steps=256,
    ),
    "langevin": Sampler(
        _langevin_levels,
        lambda sigmas, weight, steps: plans.langevin(sigmas, weight, steps.size, steps.n_each),
        steps=None,
        takes_corrector=True,
        corrector_steps=None,
        denoises=False,
        is_published=True,
    ),
}


def register_sampler(name: str, sampler: Sampler) -> None:
    """Add a sampler of one's own, which every command and :class:`SamplerChoice` then know by its name.

    Raises:
        InputError: the name is taken, or is no name.
    """
    check_new_name(name, SAMPLERS, "sampler")
    SAMPLERS[name] = sampler
