"""What is sent for a slice: the model's image, or another in its place when the model fails or is late."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sbim_deploy.errors import InputError, SamplingError
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.serving.linear import coil_magnitude, linear_image
from sbim_deploy.serving.presets import Linear
from sbim_deploy.serving.worker import SliceJob

COIL_MAGNITUDE = "root-sum-of-squares"


@dataclass(frozen=True)
class Outcome:
    """An image (rows, columns) in units of k-space and how it was made.

    ``reason`` is None where it is what was asked for, else why it is not: ``deadline``, ``diverged``,
    ``memory``, ``data`` or ``engine``. ``residual`` is |A x - y| / |y|, None where there are no maps.
    """

    image: ComplexArray | FloatArray
    method: str
    residual: float | None
    reason: str | None = None


def resolve(job: SliceJob, kspace: ComplexArray, image_shape: tuple[int, int]) -> Outcome:
    """Wait for a job, up to its deadline, and return its image or the best that is there in its place.

    A sampler that failed in time is replaced by CG-SENSE; past the deadline, or out of memory, the
    measured data alone are combined. A slice without maps becomes the root sum of squares of its coils.
    """
    if job.wait() and job.error is None and job.image is not None:
        return Outcome(job.image, job.request.preset, job.residual)
    reason = _reason(job)
    if job.problem is None:
        return Outcome(coil_magnitude(kspace, image_shape), COIL_MAGNITUDE, None, reason)
    in_time = time.monotonic() < job.deadline
    method = Linear.CG_SENSE if reason in ("diverged", "engine") and in_time else Linear.ZERO_FILLED
    return _linear(job.problem, method, reason)


def _linear(problem: SliceProblem, method: Linear, reason: str) -> Outcome:
    image, residual = linear_image(problem, method)
    return Outcome(image, method.value, residual, reason)


def _reason(job: SliceJob) -> str:
    match job.error:
        case None:
            return "deadline"
        case SamplingError():
            return "diverged"
        case MemoryError():
            return "memory"
        case InputError() if job.problem is None:
            return "data"
        case _:
            return "engine"
