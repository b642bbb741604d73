"""The one loop that runs the plan of any sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sbim_deploy.errors import SamplingError
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray
from sbim_deploy.samplers.conjugate_gradient import Normal, inner, per_slice, solve_proximal
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import GuidedStep, Plan, ProximalStep, Step

Score = Callable[[ComplexArray, float], ComplexArray]
"""(x, sigma) -> s(x, sigma), complex64 (slice, rows, columns). The loop may overwrite the returned array."""

DrawData = Callable[[], ComplexArray]
"""() -> A^H e, complex64 (slice, ..., rows, columns), for fresh noise e ~ N(0, I) in each part of k-space."""

OnState = Callable[[int, ComplexArray], None]
"""(steps done, x), before the first step too. x is complex64 (slice, rows, columns) and must not be kept."""


def starting_point(plan: Plan, image: ComplexArray, noise: NoiseStream) -> ComplexArray:
    """Return the x (slice, rows, columns) that a plan starts from, for m / scale."""
    x: ComplexArray = np.float32(plan.start_image) * image + np.float32(plan.start_noise) * noise.draw()
    return x


def run_plan(
    plan: Plan,
    score: Score,
    normal: Normal,
    backprojection: ComplexArray,
    start: ComplexArray,
    noise: NoiseStream,
    noise_level: FloatArray,
    on_step: Callable[[int], None] | None = None,
    on_state: OnState | None = None,
    draw_data: DrawData | None = None,
) -> ComplexArray:
    """Return the images (slice, rows, columns) that a plan ends with.

    A slice may have several images, (slice, set, rows, columns), that explain its data together: norms and
    the steps of conjugate gradients are those of a slice.

    ``normal`` applies A^H A and ``backprojection`` is A^H y, in units of the network: y / scale;
    ``start`` is the plan's :func:`starting_point`, which is overwritten, and ``noise_level`` (slice,) is
    sigma_y / scale. ``on_step`` is called with the number of steps done, ``on_state`` with x too.
    ``draw_data`` draws from ``noise`` too; plans with a spread need it.

    Raises:
        SamplingError: a non-finite value, with the step and the slices that have it.
    """
    x = start
    work = np.empty_like(x)
    if on_state is not None:
        on_state(0, x)
    for index, step in enumerate(plan.steps):
        s = score(x, step.sigma)
        x = take_step(plan, index, x, s, normal, backprojection, noise, noise_level, draw_data, work)
        if on_state is not None:
            on_state(index + 1, x)
        if on_step is not None:
            on_step(index + 1)
    check_images(x, plan, noise.slices)
    return x


def take_step(
    plan: Plan,
    index: int,
    x: ComplexArray,
    s: ComplexArray,
    normal: Normal,
    backprojection: ComplexArray,
    noise: NoiseStream,
    noise_level: FloatArray,
    draw_data: DrawData | None,
    work: ComplexArray,
) -> ComplexArray:
    """Return x after a step of a plan, from its score ``s``; x, s and ``work`` are overwritten.

    The others are those of :func:`run_plan`.

    Raises:
        SamplingError: the score is not finite.
    """
    step = plan.steps[index]
    # The check of every step finds what overflows, and names it.
    with np.errstate(over="ignore", invalid="ignore"):
        energy = inner(s, s)
        check_finite(np.isfinite(energy), plan, index, noise.slices)
        if isinstance(step, GuidedStep):
            _guided_update(x, s, np.sqrt(energy), step, normal, backprojection, noise_level, work)
        else:
            perturbation = perturb(step, normal, noise, noise_level, draw_data)
            if perturbation is None:
                x = _proximal_update(x, s, step, normal, backprojection, noise_level)
            else:
                data = backprojection + perturbation.data
                x = _proximal_update(x, s, step, normal, data, noise_level)
                x += perturbation.image
        if step.noise_scale:
            x += np.multiply(noise.draw(), np.float32(step.noise_scale), out=work)
    return x


def check_images(x: ComplexArray, plan: Plan, slices: tuple[int, ...]) -> None:
    """Raise SamplingError where an image that a plan ends with is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        check_finite(np.isfinite(inner(x, x)), plan, len(plan.steps) - 1, slices)


@dataclass(frozen=True)
class Perturbation:
    """What a proximal step with a spread r adds to A^H y, and what to the u that it finds.

    With u = v + r e', |A u - (y + sigma_y e)|^2 + g |u - (x0 + r e')|^2 is
    |A v - (y + sigma_y e - r A e')|^2 + g |v - x0|^2. So ``data`` is A^H (sigma_y e - r A e'), and ``image``
    is r e'. Conjugate gradients then start from x0 + r e', and need not find what the data leave open.
    """

    data: ComplexArray
    image: ComplexArray


def perturb(
    step: Step, normal: Normal, noise: NoiseStream, noise_level: FloatArray, draw_data: DrawData | None
) -> Perturbation | None:
    """Return the perturbation of a step, drawn from ``noise``; None for steps without a spread.

    Raises:
        ValueError: there is no ``draw_data`` for a step that has one.
    """
    if isinstance(step, GuidedStep) or not step.spread:
        return None
    if draw_data is None:
        raise ValueError("perturb: the step has a spread, which needs draw_data")
    image: ComplexArray = np.float32(step.spread) * noise.draw()
    data = draw_data()
    data *= per_slice(noise_level, data)
    data -= normal(image, np.empty_like(image))
    return Perturbation(data, image)


def likelihood_gain(step: GuidedStep, noise_level: FloatArray) -> FloatArray:
    """Return likelihood_weight / (sigma_y^2 + likelihood_sigma^2) of each slice, for sigma_y (slice,)."""
    if not step.likelihood_weight:
        return np.zeros_like(noise_level, dtype=np.float32)
    variance = noise_level**2 + step.likelihood_sigma**2
    with np.errstate(divide="ignore"):  # the loop's check names a gain that is not finite
        gain: FloatArray = (step.likelihood_weight / variance).astype(np.float32)
    return gain


def check_finite(finite: BoolArray, plan: Plan, index: int, slices: tuple[int, ...]) -> None:
    """Raise SamplingError where a slice, one flag of ``finite`` for each of ``slices``, is not finite."""
    if finite.all():
        return
    # A slice with several samples in the batch is named once.
    bad = ", ".join(dict.fromkeys(str(name) for name, good in zip(slices, finite, strict=True) if not good))
    raise SamplingError(
        f"{plan.sampler} diverged: slice {bad} is not finite in step {index + 1} of {len(plan.steps)} (sigma "
        f"{plan.steps[index].sigma:g}); use more steps, a smaller data weight or another sampler"
    )


def _guided_update(
    x: ComplexArray,
    s: ComplexArray,
    score_norms: FloatArray,
    step: GuidedStep,
    normal: Normal,
    backprojection: ComplexArray,
    noise_level: FloatArray,
    work: ComplexArray,
) -> None:
    if step.data_weight or step.likelihood_weight:
        gradient = normal(x, work)
        gradient -= backprojection
        norms = np.sqrt(inner(gradient, gradient))
        # Where the data are met exactly, they do not pull.
        pull = np.divide(score_norms, norms, out=np.zeros_like(norms), where=norms > 0)
        weight = np.float32(step.data_weight) * pull + likelihood_gain(step, noise_level)
        gradient *= per_slice(weight, gradient)
        s -= gradient
    s *= np.float32(step.step_size)
    x += s


def _proximal_update(
    x: ComplexArray,
    s: ComplexArray,
    step: ProximalStep,
    normal: Normal,
    backprojection: ComplexArray,
    noise_level: FloatArray,
) -> ComplexArray:
    s *= np.float32(step.sigma**2)
    x += s
    gamma = (step.gamma + step.noise_gamma * noise_level**2).astype(np.float32)
    u = solve_proximal(normal, backprojection, x, gamma, step.n_cg)
    # (x - x0) / sigma is -sigma s.
    s *= np.float32(-step.renoise / step.sigma)
    u += s
    return u
