"""Whether an image can be believed, judged from its data alone: no reference, no second reconstruction.

An image that explains its data leaves a residual |A x - y| that the noise explains, sqrt(2 M) sd over M
measured samples. What is left beyond it is the error of the model: coil maps that do not fit, motion, a prior
that draws something else. A small share of it is no alarm, since maps are never exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from sbim_deploy.errors import SamplingError
from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.samplers.choice import MAX_LANGEVIN_STEP, divergence
from sbim_deploy.samplers.plan import Plan, largest_langevin_step

# An image is judged by both: residual over what the noise explains, and model error over the data's norm. On
# quiet data the first alone would call every image wrong, and on noisy data the second says nothing.
MAX_RESIDUAL_RATIO = 1.25
MAX_MODEL_ERROR = 0.03
DIVERGED_RESIDUAL = 1.0  # the zero image has it
# A network that leaves more of the noise than that removes nothing that counts.
MAX_NOISE_LEFT = 0.95


def find_doubts(problem: SliceProblem, residual: float) -> tuple[Fault, ...]:
    """Return what makes a slice's image doubtful, its k-space's faults first; nothing where all is well.

    ``residual`` is |A x - y| / |y| over what was measured. An image that has nothing to do with its data is a
    fatal fault.
    """
    explained = explained_residual(problem)
    ratio = residual / explained
    model_error = math.sqrt(max(residual**2 - explained**2, 0.0))
    if ratio <= MAX_RESIDUAL_RATIO or model_error <= MAX_MODEL_ERROR:
        return problem.faults
    if not residual <= DIVERGED_RESIDUAL:
        message = (
            f"the image does not explain its data at all, its residual is {residual:.2g} times the data: the "
            "sampler diverged, or the model is no prior for images; take more steps or another sampler, or "
            "try the model demo"
        )
        return (*problem.faults, Fault("diverged", message, True))
    return (
        *problem.faults,
        Fault(
            "residual",
            f"the image does not explain the measured data: its residual is {residual:.1%}, where the noise "
            f"explains {explained:.1%}; motion, coil maps that do not fit (--maps, --map-method), or too few "
            "steps",
            False,
        ),
    )


def doubts_of_model(
    noise_left: Mapping[str, float], better_image_scale: float | None = None
) -> tuple[Fault, ...]:
    """Return why every image of a model is doubtful: the noise that it leaves, by level, or its scale."""
    faults: tuple[Fault, ...] = ()
    if better_image_scale is not None:
        faults = (Fault("image scale", f"the model {wrong_scale(better_image_scale)}", False),)
    if not (found := levels_without_gain(noise_left)):
        return faults
    message = (
        f"the model leaves the noise in brain slices ({'; '.join(found)}), so that it is no prior for "
        "images: check the checkpoint that it was exported from"
    )
    return (*faults, Fault("no prior", message, False))


def wrong_scale(better: float) -> str:
    """Return what is wrong with the scale of the images that a model is given, and the way out."""
    return (
        "removes clearly more noise from brain slices of another scale than that which it was exported with: "
        f"export it again with --image-scale {better:g}, or with the scale of its training"
    )


def doubts_of_plan(plan: Plan) -> tuple[Fault, ...]:
    """Return why every image of a plan is doubtful: a published one may have steps that diverge."""
    largest = largest_langevin_step(plan)
    if largest <= MAX_LANGEVIN_STEP:
        return ()
    message = f"{divergence(plan, largest)}: leave --published out, or take more steps"
    return (Fault("Langevin steps", message, False),)


def levels_without_gain(noise_left: Mapping[str, float]) -> list[str]:
    """Return the levels at which a network removes no noise, with the share that it leaves."""
    return [f"{level}: {share:.0%}" for level, share in noise_left.items() if not share <= MAX_NOISE_LEFT]


def check_converged(index: int, doubts: Iterable[Fault]) -> None:
    """Raise SamplingError for an image that has nothing to do with its data.

    Where samplers are compared such an image counts, and this is not called.
    """
    for doubt in doubts:
        if doubt.fatal:
            raise SamplingError(f"slice {index}: {doubt.message}")


def explained_residual(problem: SliceProblem) -> float:
    """Return the |A x - y| / |y| that the noise leaves of the right image."""
    n_measured = np.count_nonzero(problem.kspace)
    return problem.noise * math.sqrt(2 * n_measured) / float(np.linalg.norm(problem.kspace))
