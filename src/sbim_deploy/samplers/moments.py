"""The mean of samples that come one after another, and how far they spread."""

from __future__ import annotations

import numpy as np

from sbim_deploy.records import ComplexArray, FloatArray


class RunningMoments:
    """Pixelwise mean and spread of complex images of one shape; memory does not grow with their number.

    Welford 1962 (doi:10.1080/00401706.1962.10490022). The mean of one image is that image, to the bit.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.count = 0
        self.mean: ComplexArray = np.zeros(shape, dtype=np.complex64)
        self._sum_of_squares = np.zeros(shape, dtype=np.float32)

    def add(self, image: ComplexArray) -> None:
        """Take in another image."""
        self.count += 1
        if self.count == 1:
            self.mean[...] = image
            return
        offset = image - self.mean
        self.mean += offset / np.float32(self.count)
        # (x - old mean) (x - new mean)*, of which the second is the first times 1 - 1 / n.
        offset *= np.float32((1 - 1 / self.count) ** 0.5)
        self._sum_of_squares += offset.real**2 + offset.imag**2

    def variance(self) -> FloatArray:
        """Return mean |x - mean|^2, of both parts together, float32 as the images' shape."""
        variance: FloatArray = self._sum_of_squares / np.float32(self.count)
        return variance
