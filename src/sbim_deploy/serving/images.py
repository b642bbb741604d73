"""The images of a session: the model's or another in its place, and the MRD messages that carry them."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count

import numpy as np

from sbim_deploy import __version__
from sbim_deploy.errors import InputError, SamplingError
from sbim_deploy.kspace.slice_buffer import AssembledSlice
from sbim_deploy.mrd.identity import Identity
from sbim_deploy.mrd.images import (
    BITS_STORED,
    MAX_INDEX,
    image_attributes,
    image_header,
    image_pixels,
    image_view,
    scale_to_int16,
    series_scale,
)
from sbim_deploy.mrd.messages import Image
from sbim_deploy.recon.classical import Classical, classical_image, coil_magnitude
from sbim_deploy.records import RESEARCH_USE, ComplexArray, FloatArray
from sbim_deploy.serving.worker import SliceJob

COIL_MAGNITUDE = "root-sum-of-squares"


@dataclass(frozen=True)
class Outcome:
    """An image (rows, columns) in units of k-space and how it was made.

    ``reason`` is None where it is what was asked for, else why it is not: ``deadline``, ``diverged``,
    ``memory``, ``data`` or ``engine``. ``residual`` is |A x - y| / |y|, None where there are no maps.
    ``doubts`` say why the image may be wrong though it is what was asked for, ``words`` why the data do not
    give it. ``prior_orientations`` is the number of those in which the network saw it, None on a grid.
    """

    image: ComplexArray | FloatArray
    method: str
    residual: float | None
    reason: str | None = None
    doubts: tuple[str, ...] = ()
    words: str | None = None
    prior_orientations: int | None = None


def resolve(job: SliceJob, data: AssembledSlice) -> Outcome:
    """Wait for a job, up to its deadline, and return its image or the best that is there in its place.

    Past the deadline, or where nothing else could be computed, the measured data alone are combined. A slice
    without maps becomes the root sum of squares of its coils.
    """
    ended = job.wait()
    image, problem, reason = job.image, job.problem, _reason(job)
    if ended and image is not None:
        doubts = tuple(doubt.message for doubt in job.doubts)
        failed = None if job.error is None else reason
        seen = job.prior_orientations
        return Outcome(image, job.method, job.residual, failed, doubts, prior_orientations=seen)
    if problem is None:
        words = str(job.error) if reason == "data" else None
        magnitude = coil_magnitude(data.kspace, data.image_shape, data.places)
        return Outcome(magnitude, COIL_MAGNITUDE, None, reason, words=words)
    combined, residual = classical_image(problem, Classical.ZERO_FILLED)
    return Outcome(combined, Classical.ZERO_FILLED.value, residual, reason)


def _reason(job: SliceJob) -> str:
    match job.error:
        case None:
            return "deadline"
        case SamplingError():
            return "diverged"
        case MemoryError():
            return "memory"
        case InputError() if not job.is_prepared:
            return "data"
        case _:
            return "engine"


BRIGHT_PERCENTILE = 99.9
HEAD_ROOM = 4


@dataclass(frozen=True)
class ImageForm:
    """How the images of a session leave: bits of a pixel, layout, whose they are, and what is said of all."""

    bits: int = BITS_STORED
    keep_grid: bool = False
    identity: Identity | None = None
    remarks: tuple[str, ...] = ()


class SessionImages:
    """Makes the images of one session.

    Later images are not there yet when the first is sent, so the first fixes the scale for all: its 99.9th
    percentile becomes a quarter of the greatest pixel, and what is more than four times as bright is
    clipped and counted. The window that the attributes name shows that percentile as white. Images of
    different repetitions and contrasts can so be compared.
    """

    def __init__(self, form: ImageForm):
        self._form, self._bits = form, form.bits
        self._scale: float | None = None
        self._numbers: dict[Hashable, tuple[int, set[int]]] = {}

    def make_image(
        self,
        outcome: Outcome,
        data: AssembledSlice,
        bright: float | None = None,
    ) -> tuple[Image, int]:
        """Return the message of a slice's image, and how many of its pixels were clipped.

        Series are numbered from 1 as they come; an image's number in its series is the slice's plus 1. The
        first image fixes the scale by ``bright``, or by its own 99.9th percentile where that is None.

        Raises:
            InputError: more images or series than MRD can number.
        """
        magnitude = np.abs(outcome.image)
        n_rows, n_columns = magnitude.shape
        scale = self._scale_for(magnitude, bright)
        view = image_view(data.geometry, self._form.keep_grid)
        pixels = scale_to_int16(view.pixels(magnitude), scale, self._bits)
        n_clipped = int(np.count_nonzero(magnitude * scale > 2**self._bits - 1))
        series_number, image_number = self._next_numbers(data.series, data.slice)
        header = image_header(
            view.shape((n_rows, n_columns)),
            image_number,
            series_number,
            data.header,
            None if data.geometry is None else view.geometry(data.geometry, (n_rows, n_columns)),
            data.field_of_view_mm,
        )
        attributes = image_attributes(
            header,
            view,
            [*_history(outcome), *data.remarks, *self._form.remarks],
            _comment(outcome),
            f"{outcome.method} {RESEARCH_USE}",
            scale,
            2**self._bits // HEAD_ROOM,
            self._form.identity,
        )
        return Image(header, attributes, image_pixels(pixels)[None, None]), n_clipped

    def _scale_for(self, magnitude: FloatArray, bright: float | None) -> float:
        if bright is None:
            bright = float(np.percentile(magnitude, BRIGHT_PERCENTILE))
        if self._scale is None and math.isfinite(bright) and bright > 0:
            self._scale = series_scale(HEAD_ROOM * bright, self._bits)
        return self._scale or 1.0

    def _next_numbers(self, series: Hashable, slice_number: int) -> tuple[int, int]:
        series_number, used = self._numbers.setdefault(series, (len(self._numbers) + 1, set()))
        number = slice_number + 1
        if number in used or number > MAX_INDEX:
            number = max(used, default=0) + 1
        if number > MAX_INDEX:
            number = next(free for free in count(1) if free not in used)
        used.add(number)
        return series_number, number


def _history(outcome: Outcome) -> list[str]:
    steps = [f"sbim-deploy {__version__}", outcome.method]
    if outcome.prior_orientations is not None:
        steps.append(f"seen by the network in {outcome.prior_orientations} orientations in turn")
    if outcome.reason is not None:
        steps.append(f"fallback: {outcome.reason}")
    if outcome.residual is not None:
        steps.append(f"residual {outcome.residual:.4f}")
    return steps


def _comment(outcome: Outcome) -> str:
    residual = "" if outcome.residual is None else f", residual {outcome.residual:.4f}"
    if outcome.reason is None:
        doubts = f" DOUBTFUL: {'; '.join(outcome.doubts)}" if outcome.doubts else ""
        return f"sbim-deploy {outcome.method}{residual}{doubts}"
    words = "" if outcome.words is None else f": {outcome.words}"
    return f"sbim-deploy FALLBACK {outcome.method} ({outcome.reason}{words}){residual}"
