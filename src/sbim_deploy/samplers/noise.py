"""The noise of a run comes from one counter-based generator for each (seed, slice, sample).

It depends on nothing else, so a slice has the same noise in any batch, on any worker and backend.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sbim_deploy.records import ComplexArray

# A slice with as many complex numbers takes longer to draw than to give to a thread.
MIN_THREADED = 64 * 64


def keyed_generator(seed: int, slice_index: int, sample: int) -> np.random.Generator:
    """Return the generator of a sample of a slice; the three numbers alone decide what it draws."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(seed, spawn_key=(slice_index, sample)))
    )


class NoiseStream:
    """Draws complex normals for a batch of slices, with unit variance in each part, in a thread for each.

    ``samples`` has the sample's number for each of ``slices``, so that a slice may be there more than once.
    None is sample 0 of each.
    """

    def __init__(
        self, seed: int, slices: Sequence[int], shape: tuple[int, ...], samples: Sequence[int] | None = None
    ):
        self.slices = tuple(slices)
        keys = zip(self.slices, samples or [0] * len(self.slices), strict=True)
        self._generators = [keyed_generator(seed, *key) for key in keys]
        self._threads: ThreadPoolExecutor | None = None
        self._buffer = np.empty((len(self.slices), *shape), dtype=np.complex64)

    def draw(self) -> ComplexArray:
        """Return the next (slice, *shape) normals, in a buffer that the next call overwrites."""
        return self.fill(self._buffer)

    def fill(self, out: ComplexArray) -> ComplexArray:
        """Write the next normals of each slice to ``out`` (slice, ...), contiguous, and return it."""
        if len(out) > 1 and out[0].size >= MIN_THREADED:
            if self._threads is None:
                n_threads = min(len(out), os.cpu_count() or 1)
                self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="noise")
            list(self._threads.map(_draw, self._generators, out))
        else:
            for generator, drawn in zip(self._generators, out, strict=True):
                _draw(generator, drawn)
        return out


def _draw(generator: np.random.Generator, out: ComplexArray) -> None:
    generator.standard_normal(dtype=np.float32, out=out.view(np.float32))  # without Python's lock
