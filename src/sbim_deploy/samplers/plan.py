"""A plan is the table of numbers that a sampler applies, one step in each row; samplers make plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from sbim_deploy.samplers.schedules import Sigmas

ZERO_FILLED, L1_WAVELET = STARTS = ("zero-filled", "l1-wavelet")


@dataclass(frozen=True)
class GuidedStep:
    """x <- x + step_size (s - w g) + noise_scale z, with s = s(x, sigma) and g = A^H (A x - y).

    w = data_weight |s| / |g| + likelihood_weight / (sigma_y^2 + likelihood_sigma^2). The first part is the
    thesis's and matches norms. The second is the gradient of a Gaussian likelihood; sigma_y is the noise of
    the slice's own k-space, likelihood_sigma the noise that x counts as having.
    z ~ N(0, I) in each channel; norms are per slice.
    """

    sigma: float
    step_size: float
    noise_scale: float
    data_weight: float
    likelihood_weight: float = 0.0
    likelihood_sigma: float = 0.0


@dataclass(frozen=True)
class ProximalStep:
    """x <- u + renoise (x - x0) / sigma + noise_scale z, with x0 = x + sigma^2 s(x, sigma).

    u = argmin |A u - y|^2 + g |u - x0|^2, by ``n_cg`` conjugate-gradient steps from x0, where
    g = gamma + noise_gamma sigma_y^2 and sigma_y is the noise of the slice's own k-space.

    With a ``spread`` r above 0, u solves the same with y + sigma_y e in place of y and x0 + r e' in place of
    x0, e and e' ~ N(0, I) in each part. Where g = sigma_y^2 / r^2 it is a sample of the Gaussian posterior
    whose likelihood is exact and whose prior is N(x0, r^2 I) (Papandreou and Yuille, Gaussian sampling by
    local perturbations, NIPS 2010).
    """

    sigma: float
    gamma: float
    noise_gamma: float
    n_cg: int
    renoise: float
    noise_scale: float
    spread: float = 0.0


Step = GuidedStep | ProximalStep


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they run; x starts at start_image m / scale + start_noise z.

    m is the image of the slice by the method ``start``: the MVUE, or by L1-wavelet.
    """

    sampler: str
    start_image: float
    start_noise: float
    steps: tuple[Step, ...]
    start: str = ZERO_FILLED


def has_spread(plan: Plan) -> bool:
    """Tell whether steps of a plan perturb the data that they solve for."""
    return any(isinstance(step, ProximalStep) and step.spread for step in plan.steps)


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan in JSON's types, as provenance and ``plan --json`` have it, its steps as ``rows``."""
    return {
        "sampler": plan.sampler,
        "start": {"of": plan.start, "image": plan.start_image, "noise": plan.start_noise},
        "rows": [asdict(step) for step in plan.steps],
    }


def sbim(sigmas: Sigmas, data_weight: float) -> Plan:
    """Guided SBIM (p. 66-67), then one denoising step (p. 68).

    ``sigmas`` are T + 1 levels, largest first; there are T predictor steps. The last level may be 0, as in
    the published code: what follows the last predictor is then at the smallest level above it.
    """
    steps = [_sbim_step(high, low, data_weight) for high, low in pairwise(sigmas)]
    return _from_noise("sbim", [*steps, _denoising(sigmas)])


def sbim_ld(
    sigmas: Sigmas,
    data_weight: float,
    langevin_step: float,
    corrector_steps: int,
    step_of_previous: bool = False,
) -> Plan:
    """Guided SBIM with a Langevin corrector (p. 69): after t -> t-1, M Langevin steps at sigma_{t-1}.

    Their step size is langevin_step sigma_{t-1}^2; it was published with sigma_t^2, the level before the
    predictor, which ``step_of_previous`` takes. ``sigmas`` are those of :func:`sbim`.
    """
    steps = []
    for high, low in pairwise(sigmas):
        steps.append(_sbim_step(high, low, data_weight))
        level = low if low > 0 else high
        corrector = _langevin_step(
            level, langevin_step * (high if step_of_previous else level) ** 2, data_weight
        )
        steps.extend([corrector] * corrector_steps)
    return _from_noise("sbim-ld", [*steps, _denoising(sigmas)])


def ddim(sigmas: Sigmas, data_weight: float, eta: float = 0.0) -> Plan:
    """DDIM in its exact variance-exploding form, sigma_t (sigma_t - sigma_{t-1}), then one denoising step.

    Song, Meng and Ermon 2020 (arXiv:2010.02502), equation 13: an Euler step in sigma. Pages
    63-65 derive it too, but for a slip that leaves a factor 1 / sqrt(1 + sigma_t^2).

    Of the noise that a step keeps, the variance c^2 is fresh: c = eta sigma_{t-1} sqrt(1 - sigma_{t-1}^2 /
    sigma_t^2), which is their equation 16 in units of x / sqrt(a). With ``eta`` 0 the steps are
    deterministic, with 1 they are those of :func:`reverse_diffusion`.
    """
    steps = []
    for high, low in pairwise(sigmas):
        share = eta * math.sqrt(1 - (low / high) ** 2)
        kept, fresh = low * math.sqrt(1 - share**2), low * share
        steps.append(GuidedStep(float(high), float(high * (high - kept)), float(fresh), data_weight))
    return _from_noise("ddim", [*steps, _denoising(sigmas)])


def reverse_diffusion(sigmas: Sigmas, data_weight: float) -> Plan:
    """Ancestral sampling of the variance-exploding process, then one denoising step.

    Song et al. 2020 (arXiv:2011.13456), appendix F, equation 47.
    """
    steps = []
    for high, low in pairwise(sigmas):
        step_size = high**2 - low**2
        noise_scale = math.sqrt(low**2 * step_size / high**2)
        steps.append(GuidedStep(float(high), float(step_size), noise_scale, data_weight))
    return _from_noise("reverse-diffusion", [*steps, _denoising(sigmas)])


def langevin(sigmas: Sigmas, data_weight: float, langevin_step: float, steps_each: Sequence[int]) -> Plan:
    """Guided annealed Langevin dynamics (p. 19; Jalal et al. 2021, arXiv:2108.01368, algorithm 1).

    The step size at level i is langevin_step sigma_i^2, and ``steps_each`` the number of steps at each
    level. As published, there is no denoising at the end.
    """
    steps = []
    for sigma, n_steps in zip(sigmas, steps_each, strict=True):
        steps.extend([_langevin_step(sigma, langevin_step * sigma**2, data_weight)] * n_steps)
    return _from_noise("langevin", steps)


def largest_langevin_step(plan: Plan) -> float:
    """Return the largest step size of the plan's Langevin steps, in units of their level's sigma^2.

    Under the score of noise alone, -x / sigma^2, a step multiplies x by 1 - a / sigma^2: above 2 it grows.
    """
    guided = (step for step in plan.steps if isinstance(step, GuidedStep) and step.noise_scale)
    return max((step.step_size / step.sigma**2 for step in guided), default=0.0)


def dds(sigmas: Sigmas, gamma: float, noise_weight: float, n_cg: int, eta: float) -> Plan:
    """Decomposed diffusion sampling from the noised zero-filled image.

    Chung, Lee and Ye 2024 (arXiv:2303.05754), algorithm 2 in its variance-exploding form: denoise, solve
    for the data by conjugate gradients, add fresh noise of eta times the next level. 1 samples; 0 adds none,
    which is half-quadratic splitting with a denoiser as the prior (Zhang et al. 2022, arXiv:2008.13751). The
    noise of before, of which DDIM keeps the rest, is dropped: it holds what the data have just corrected. The
    prior weighs gamma + noise_weight (sigma_y / sigma)^2, the second as in Zhu et al. 2023
    (arXiv:2305.08995), eq. 13.
    """
    steps = [
        ProximalStep(
            sigma=float(sigma),
            gamma=gamma,
            noise_gamma=float(noise_weight / sigma**2),
            n_cg=n_cg,
            renoise=0.0,
            noise_scale=float(following * eta),
        )
        for sigma, following in pairwise([*sigmas, 0.0])
    ]
    return Plan("dds", start_image=1.0, start_noise=float(sigmas[0]), steps=tuple(steps))


def daps(sigmas: Sigmas, n_cg: int) -> Plan:
    """Decoupled annealing posterior sampling from the noised zero-filled image.

    Zhang et al. 2024 (arXiv:2407.01521), algorithm 1: sample x0 given the noised image and the data, with
    N(x0(x), sigma^2 I) for the image given the noised one, and noise it to the next level, freshly. x0 is one
    denoising here, and the sample of the Gaussian is exact where they take Langevin steps. The last step
    returns the mean of what it would have sampled from.
    """
    steps = [
        ProximalStep(
            sigma=float(sigma),
            gamma=0.0,
            noise_gamma=float(1 / sigma**2),
            n_cg=n_cg,
            renoise=0.0,
            noise_scale=float(following),
            spread=float(sigma) if following else 0.0,
        )
        for sigma, following in pairwise([*sigmas, 0.0])
    ]
    return Plan("daps", start_image=1.0, start_noise=float(sigmas[0]), steps=tuple(steps))


def _sbim_step(high: float, low: float, data_weight: float) -> GuidedStep:
    return GuidedStep(float(high), float(high * (high - low) / math.sqrt(1 + high**2)), 0.0, data_weight)


def _langevin_step(sigma: float, step_size: float, data_weight: float) -> GuidedStep:
    return GuidedStep(float(sigma), float(step_size), math.sqrt(2 * step_size), data_weight)


def _denoising(sigmas: Sigmas) -> GuidedStep:
    """Tweedie's estimate at the smallest level above 0, by the prior alone (p. 69, line 8)."""
    smallest = float(sigmas[-1] or sigmas[-2])
    return GuidedStep(smallest, smallest**2, 0.0, 0.0)


def _from_noise(sampler: str, steps: list[GuidedStep]) -> Plan:
    return Plan(sampler, start_image=0.0, start_noise=1.0, steps=tuple(steps))
