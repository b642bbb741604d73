"""The noise readouts of a scan, and the matrix that whitens its coils."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import Readout
from sbim_deploy.mri.whitening import whitening_without_dependent_coils
from sbim_deploy.records import ComplexArray

MAX_KINDS = 4  # of noise readouts by their channels: the array's, a body coil's
MAX_DWELLS = 4  # of image readouts, for which a matrix is kept
MAX_REMARKS = 16
BLOCK_ITEMS = 2**22  # of samples that are multiplied at once


class NoiseScan:
    """The covariance of the noise readouts seen so far.

    Readouts that cannot be used are left out, each kind with a remark: a scan is worth more than its noise.

    Args:
        bandwidth: the receiver's relative noise bandwidth.
    """

    def __init__(self, bandwidth: float) -> None:
        self._bandwidth = bandwidth
        self._by_channels: dict[int, _Covariance] = {}
        self._remarks: list[str] = []
        self._matrices: dict[tuple[int, float], ComplexArray | None] = {}

    @property
    def n_bytes(self) -> int:
        """The memory that it takes."""
        products = sum(each.products.nbytes for each in self._by_channels.values())
        return products + sum(each.nbytes for each in self._matrices.values() if each is not None)

    def add(self, readout: Readout) -> None:
        """Add a noise readout.

        Raises:
            InputError: its dwell time is not a time.
        """
        samples, dwell = readout.data, dwell_us(readout.header)
        if not np.isfinite(samples).all():
            self._say("a noise readout with samples that are not finite is left out")
            return
        if len(samples) not in self._by_channels and len(self._by_channels) == MAX_KINDS:
            self._say(f"noise readouts of more than {MAX_KINDS} numbers of channels are left out")
            return
        known = self._by_channels.setdefault(len(samples), _Covariance(len(samples), dwell))
        if known.dwell_us != dwell:
            self._say(
                f"noise readouts with a dwell time of {dwell:g} us are left out, the first have "
                f"{known.dwell_us:g} us"
            )
            return
        step = max(BLOCK_ITEMS // len(samples), 1)
        for start in range(0, samples.shape[1], step):
            wide = samples[:, start : start + step].astype(np.complex128)
            known.products += wide @ wide.conj().T
        known.n_samples += samples.shape[1]
        self._matrices.clear()

    def tells_level(self, n_coils: int, image_dwell_us: float) -> bool:
        """Tell whether whitened readouts of a dwell time have noise of unit variance."""
        if self.whitening(n_coils, image_dwell_us) is None:
            return False
        return image_dwell_us > 0 and self._by_channels[n_coils].dwell_us > 0

    def remarks(self, n_coils: int) -> tuple[str, ...]:
        """Return what was left out of the noise of an image of so many channels, a sentence each."""
        others = sorted(set(self._by_channels) - {n_coils})
        said = list(self._remarks)
        if others:
            channels = ", ".join(map(str, others))
            end = "" if n_coils in self._by_channels else ": the coils are not whitened by them"
            said.append(f"noise readouts have {channels} channels and the image {n_coils}{end}")
        return tuple(said)

    def whitening(self, n_coils: int, image_dwell_us: float) -> ComplexArray | None:
        """Return the (coil, coil) matrix for image readouts of a dwell time, or None where noise tells none.

        It is sqrt(2 r) L^-1, r = image dwell / noise dwell * bandwidth, and L^-1 where a dwell time is 0,
        unknown. The row of a coil that is dead, or depends on others, is zero.
        """
        key = (n_coils, image_dwell_us)
        if n_coils in self._by_channels and key not in self._matrices:
            if len(self._matrices) == MAX_DWELLS:
                self._matrices.clear()
            self._matrices[key] = self._make_whitening(self._by_channels[n_coils], image_dwell_us)
        return self._matrices.get(key)

    def _make_whitening(self, noise: _Covariance, image_dwell_us: float) -> ComplexArray | None:
        n_coils = len(noise.products)
        if noise.n_samples <= n_coils:
            self._say(
                f"noise readouts: {noise.n_samples} samples for {n_coils} channels are too few: the coils "
                "are not whitened by them"
            )
            return None
        known = image_dwell_us > 0 and noise.dwell_us > 0
        ratio = image_dwell_us / noise.dwell_us * self._bandwidth if known else 0.5
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # an infinite covariance is refused
                covariance = (noise.products / (noise.n_samples - 1)).astype(np.complex64)
            whitening = whitening_without_dependent_coils(covariance)
        except ValueError as error:
            self._say(f"{error}: the coils are not whitened by noise readouts")
            return None
        if not known:
            self._say(
                "the dwell time of the noise readouts or of the image's is 0, unknown: the coils are "
                "whitened, and the level of the noise is measured in the image"
            )
        if whitening.left_out:
            coils = ", ".join(map(str, whitening.left_out))
            self._say(
                f"coil {coils} of {n_coils} has no noise of its own in the noise readouts and is left out"
            )
        matrix = np.zeros((n_coils, n_coils), np.complex64)
        kept = np.setdiff1d(np.arange(n_coils), whitening.left_out)
        matrix[kept] = np.float32(np.sqrt(ratio)) * whitening.matrix
        return matrix if np.isfinite(matrix).all() else None

    def _say(self, remark: str) -> None:
        if len(self._remarks) < MAX_REMARKS and remark not in self._remarks:
            self._remarks.append(remark)


class _Covariance:
    """The products (coil, coil) of noise samples, summed, and how many these are."""

    def __init__(self, n_channels: int, dwell_us: float) -> None:
        self.products: NDArray[np.complex128] = np.zeros((n_channels, n_channels), np.complex128)
        self.n_samples = 0
        self.dwell_us = dwell_us


def dwell_us(header: np.void) -> float:
    """Return the dwell time of a readout in microseconds; 0 is unknown.

    Raises:
        InputError: it is negative or not finite.
    """
    dwell = float(header["sample_time_us"])
    if not (math.isfinite(dwell) and dwell >= 0):
        raise InputError(f"sample_time_us of a readout is {dwell:g}, expected microseconds or 0, unknown")
    return dwell
