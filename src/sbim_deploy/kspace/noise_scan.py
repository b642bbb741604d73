"""The noise readouts of a scan, and the matrix that whitens its coils."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import Readout
from sbim_deploy.mri.whitening import whitening_of_covariance
from sbim_deploy.records import ComplexArray


class NoiseScan:
    """The covariance of the noise readouts seen so far.

    Args:
        bandwidth: the receiver's relative noise bandwidth.
    """

    def __init__(self, bandwidth: float) -> None:
        self.n_samples = 0
        self.dwell_us = 0.0
        self._bandwidth = bandwidth
        self._products: NDArray[np.complex128] | None = None
        self._matrices: dict[float, ComplexArray] = {}

    def add(self, readout: Readout) -> None:
        """Add a noise readout.

        Raises:
            InputError: its samples are not finite, or it has other channels or another dwell time than the
                noise readouts before it.
        """
        samples, dwell = readout.data, dwell_us(readout.header)
        if not np.isfinite(samples).all():
            raise InputError("noise readout: has samples that are not finite; remove it")
        wide = samples.astype(np.complex128)
        products = wide @ wide.conj().T
        if self._products is not None:
            if self._products.shape != products.shape or self.dwell_us != dwell:
                raise InputError(
                    f"noise readout: has {len(samples)} channels and a dwell time of {dwell:g} us, expected "
                    f"{len(self._products)} and {self.dwell_us:g} us as those before; remove one kind"
                )
            products += self._products
        self._products, self.dwell_us = products, dwell
        self.n_samples += samples.shape[1]
        self._matrices.clear()

    def tells_level(self, image_dwell_us: float) -> bool:
        """Tell whether whitened readouts of a dwell time have noise of unit variance."""
        return self._products is not None and image_dwell_us > 0 and self.dwell_us > 0

    def whitening(self, n_coils: int, image_dwell_us: float) -> ComplexArray | None:
        """Return the (coil, coil) matrix for image readouts of a dwell time, or None without noise readouts.

        It is sqrt(2 r) L^-1, r = image dwell / noise dwell * bandwidth, and L^-1 where a dwell time is 0,
        unknown.

        Raises:
            InputError: the noise readouts have other channels, are too few, or are linearly dependent.
        """
        if self._products is None:
            return None
        if len(self._products) != n_coils:
            raise InputError(
                f"noise readouts: have {len(self._products)} channels, expected {n_coils} as the image's: "
                "remove them to go without whitening"
            )
        if self.n_samples <= n_coils:
            raise InputError(
                f"noise readouts: {self.n_samples} samples for {n_coils} channels, expected more: remove "
                "them to go without whitening"
            )
        if image_dwell_us not in self._matrices:
            known = self.tells_level(image_dwell_us)
            ratio = image_dwell_us / self.dwell_us * self._bandwidth if known else 0.5
            try:
                with np.errstate(over="ignore"):  # an infinite covariance is refused as a dependent one is
                    covariance = (self._products / (self.n_samples - 1)).astype(np.complex64)
                    matrix = whitening_of_covariance(covariance, ratio)
            except ValueError as error:
                raise InputError(f"{error}: remove the noise readouts to go without whitening") from error
            self._matrices[image_dwell_us] = matrix
        return self._matrices[image_dwell_us]


def dwell_us(header: np.void) -> float:
    """Return the dwell time of a readout in microseconds; 0 is unknown.

    Raises:
        InputError: it is negative or not finite.
    """
    dwell = float(header["sample_time_us"])
    if not (math.isfinite(dwell) and dwell >= 0):
        raise InputError(f"sample_time_us of a readout is {dwell:g}, expected microseconds or 0, unknown")
    return dwell
