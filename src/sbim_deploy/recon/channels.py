"""Converts between complex images and the two channels, real and imaginary, that networks see."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.records import ComplexArray, FloatArray


def to_channels(image: ComplexArray, out: FloatArray | None = None) -> FloatArray:
    """Return complex (n, ..., rows, columns) as float32 (n, ..., 2, rows, columns)."""
    shape = (*image.shape[:-2], 2, *image.shape[-2:])
    channels = np.empty(shape, dtype=np.float32) if out is None else out
    channels[..., 0, :, :] = image.real
    channels[..., 1, :, :] = image.imag
    return channels


def from_channels(channels: FloatArray, out: ComplexArray | None = None) -> ComplexArray:
    """Return float32 (n, ..., 2, rows, columns) as complex (n, ..., rows, columns)."""
    shape = (*channels.shape[:-3], *channels.shape[-2:])
    image = np.empty(shape, dtype=np.complex64) if out is None else out
    image.real = channels[..., 0, :, :]
    image.imag = channels[..., 1, :, :]
    return image


class EngineScore:
    """The score that a sampler calls, computed by an engine, with buffers for images of one shape.

    The shape is (slice, ..., rows, columns); the network sees every image of a slice by itself.
    """

    def __init__(self, engine: Engine, shape: tuple[int, ...]):
        n_images, grid = math.prod(shape[:-2]), shape[-2:]
        self._engine = engine
        self._channels = np.empty((n_images, 2, *grid), dtype=np.float32)
        self._sigma = np.empty(n_images, dtype=np.float32)
        self._score = np.empty((n_images, *grid), dtype=np.complex64)

    def __call__(
        self, x: ComplexArray, sigma: float, view: Callable[[ComplexArray], ComplexArray] = lambda x: x
    ) -> ComplexArray:
        """Return s(x, sigma), as x, in a buffer that the next call overwrites.

        ``view`` returns a view of images, with their shape, in which the network sees them.
        """
        self._sigma.fill(sigma)
        inputs = {
            "x": to_channels(view(x.reshape(self._score.shape)), self._channels),
            "sigma": self._sigma,
        }
        from_channels(self._engine.run(inputs)["score"], view(self._score))
        return self._score.reshape(x.shape)
