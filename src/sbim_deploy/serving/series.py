"""The images of a session as MRD's messages: one scale for all, numbers, and attributes that say how."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np

from sbim_deploy import __version__
from sbim_deploy.io.mrd_images import (
    Orientation,
    image_attributes,
    image_header,
    image_pixels,
    pixel_bits,
    scale_to_int16,
    series_scale,
)
from sbim_deploy.io.mrd_messages import Image
from sbim_deploy.recon.readouts import AssembledSlice
from sbim_deploy.records import FloatArray
from sbim_deploy.serving.outcome import Outcome

BRIGHT_PERCENTILE = 99.9
HEAD_ROOM = 4


class ImageSeries:
    """Makes the images of one session.

    Later images are not there yet when the first is sent, so the first fixes the scale for all: its 99.9th
    percentile becomes a quarter of the greatest pixel, and what is more than four times as bright is
    clipped and counted. The window that the attributes name shows that percentile as white. Images of
    different repetitions and contrasts can so be compared.
    """

    def __init__(self, orientation: Orientation, bits: int | None):
        self._orientation = orientation
        self._bits = pixel_bits(bits)
        self._scale: float | None = None
        self._numbers: dict[Hashable, tuple[int, set[int]]] = {}

    def make_image(
        self,
        outcome: Outcome,
        data: AssembledSlice,
    ) -> tuple[Image, int]:
        """Return the message of a slice's image, and how many of its pixels were clipped.

        Series are numbered from 1 as they come; an image's number in its series is the slice's plus 1.

        Raises:
            InputError: more images or series than MRD can number.
        """
        magnitude = np.abs(outcome.image)
        n_rows, n_columns = magnitude.shape
        scale = self._scale_for(magnitude)
        pixels = scale_to_int16(magnitude, scale, self._bits)
        n_clipped = int(np.count_nonzero(magnitude * scale > 2**self._bits - 1))
        series_number, image_number = self._next_numbers(data.series, data.slice)
        header = image_header(
            (n_rows, n_columns),
            image_number,
            series_number,
            data.header,
            data.geometry,
            data.field_of_view_mm,
        )
        attributes = image_attributes(
            header,
            _history(outcome),
            _comment(outcome),
            f"{outcome.method} research use only",
            self._bits,
            2**self._bits // HEAD_ROOM,
        )
        return Image(header, attributes, image_pixels(pixels, self._orientation)[None, None]), n_clipped

    def _scale_for(self, magnitude: FloatArray) -> float:
        bright = float(np.percentile(magnitude, BRIGHT_PERCENTILE))
        if self._scale is None and math.isfinite(bright) and bright > 0:
            self._scale = series_scale(HEAD_ROOM * bright, self._bits)
        return self._scale or 0.0

    def _next_numbers(self, series: Hashable, slice_number: int) -> tuple[int, int]:
        series_number, used = self._numbers.setdefault(series, (len(self._numbers) + 1, set()))
        number = slice_number + 1
        if number in used:
            number = max(used) + 1
        used.add(number)
        return series_number, number


def _history(outcome: Outcome) -> list[str]:
    steps = [f"sbim-deploy {__version__}", outcome.method]
    if outcome.reason is not None:
        steps.append(f"fallback: {outcome.reason}")
    if outcome.residual is not None:
        steps.append(f"residual {outcome.residual:.4f}")
    return steps


def _comment(outcome: Outcome) -> str:
    residual = "" if outcome.residual is None else f", residual {outcome.residual:.4f}"
    if outcome.reason is None:
        return f"sbim-deploy {outcome.method}{residual}"
    return f"sbim-deploy FALLBACK {outcome.method} ({outcome.reason}){residual}"
