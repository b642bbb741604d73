"""The noise of a run: one counter-based generator for each (seed, slice, sample).

A slice's noise depends on nothing else, so its image is the same in any batch, on any worker and backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbim_deploy.records import ComplexArray


def keyed_generator(seed: int, slice_index: int, sample: int) -> np.random.Generator:
    """Return the generator of a slice's sample, which depends on nothing else."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(seed, spawn_key=(slice_index, sample)))
    )


class NoiseStream:
    """Successive complex normals of a batch of slices, with unit variance in each part.

    ``samples`` has a number for each of ``slices``, which may then name a slice more than once; None is 0 for
    all of them.
    """

    def __init__(
        self, seed: int, slices: Sequence[int], shape: tuple[int, int], samples: Sequence[int] | None = None
    ):
        self.slices = tuple(slices)
        keys = zip(self.slices, samples or [0] * len(self.slices), strict=True)
        self._generators = [keyed_generator(seed, *key) for key in keys]
        self._buffer = np.empty((len(self.slices), *shape), dtype=np.complex64)

    def draw(self) -> ComplexArray:
        """Return the next (slice, rows, columns) normals, in a buffer that the next call overwrites."""
        for generator, buffer in zip(self._generators, self._buffer, strict=True):
            generator.standard_normal(dtype=np.float32, out=buffer.view(np.float32))
        return self._buffer
