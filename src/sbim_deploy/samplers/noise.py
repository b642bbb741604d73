"""The noise of a run comes from one counter-based generator for each (seed, slice, sample).

It depends on nothing else, so a slice has the same noise in any batch, on any worker and backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbim_deploy.records import ComplexArray


def keyed_generator(seed: int, slice_index: int, sample: int) -> np.random.Generator:
    """Return the generator of a sample of a slice; the three numbers alone decide what it draws."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(seed, spawn_key=(slice_index, sample)))
    )


class NoiseStream:
    """Draws complex normals for a batch of slices, with unit variance in each part.

    ``samples`` has the sample's number for each of ``slices``, so that a slice may be there more than once.
    None is sample 0 of each.
    """

    def __init__(
        self, seed: int, slices: Sequence[int], shape: tuple[int, ...], samples: Sequence[int] | None = None
    ):
        self.slices = tuple(slices)
        keys = zip(self.slices, samples or [0] * len(self.slices), strict=True)
        self._generators = [keyed_generator(seed, *key) for key in keys]
        self._buffer = np.empty((len(self.slices), *shape), dtype=np.complex64)

    def draw(self) -> ComplexArray:
        """Return the next (slice, *shape) normals, in a buffer that the next call overwrites."""
        return self.fill(self._buffer)

    def fill(self, out: ComplexArray) -> ComplexArray:
        """Write the next normals of each slice to ``out`` (slice, ...), contiguous, and return it."""
        for generator, drawn in zip(self._generators, out, strict=True):
            generator.standard_normal(dtype=np.float32, out=drawn.view(np.float32))
        return out
