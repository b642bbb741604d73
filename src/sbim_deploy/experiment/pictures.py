"""Images as PNG data URIs, 8 bits a pixel, in the colours of the other pictures."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

from sbim_deploy.io.png import colour
from sbim_deploy.records import FloatArray

N_COLOURS = 256


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def picture(image: FloatArray, window: tuple[float, float], colormap: str) -> str:
    """Return a magnitude or error map (rows, columns) as a PNG data URI; outside the window it is clipped."""
    low, high = window
    position = np.nan_to_num((image.astype(np.float64) - low) / (high - low), nan=0.0).clip(0, 1)
    indices = np.rint(position * (N_COLOURS - 1)).astype(np.uint8)
    drawn = Image.fromarray(indices)
    if colormap != "gray":
        drawn = drawn.convert("P")
        drawn.putpalette(colour(np.linspace(0, 1, N_COLOURS), (0, 1), colormap).tobytes())
    written = io.BytesIO()
    drawn.save(written, format="PNG", optimize=True)
    return data_uri(written.getvalue(), "image/png")


def colour_bar(colormap: str) -> str:
    """Return the colours of a window, low to high, as a PNG data URI."""
    return picture(np.tile(np.linspace(0, 1, N_COLOURS, dtype=np.float32), (12, 1)), (0, 1), colormap)


def round_up(value: float) -> float:
    """Return the next number of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten: an end of a scale to read."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return power * next(step for step in steps if step * power >= value * (1 - 1e-9))
