"""The noise of a run: one counter-based generator for each (seed, slice, sample).

A slice's noise depends on nothing else, so its image is the same in any batch, on any worker and backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbim_deploy.records import ComplexArray


class NoiseStream:
    """Successive complex normals of a batch of slices, with unit variance in each part."""

    def __init__(self, seed: int, slices: Sequence[int], shape: tuple[int, int], sample: int = 0):
        self.slices = tuple(slices)
        self._generators = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(index, sample))))
            for index in self.slices
        ]
        self._buffer = np.empty((len(self.slices), *shape), dtype=np.complex64)

    def draw(self) -> ComplexArray:
        """Return the next (slice, rows, columns) normals, in a buffer that the next call overwrites."""
        for generator, buffer in zip(self._generators, self._buffer, strict=True):
            generator.standard_normal(dtype=np.float32, out=buffer.view(np.float32))
        return self._buffer
