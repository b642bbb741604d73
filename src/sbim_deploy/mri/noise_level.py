"""The noise of a scan, from the scan itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sbim_deploy.mri.masks import compact_mask
from sbim_deploy.mri.noise_windows import (
    EPS,
    MAX_WINDOWED_EDGE,
    OBJECT_RATIO,
    STEEP_RATIO,
    Matrix,
    NoiseFit,
    Real,
    noise_in_windows,
)
from sbim_deploy.records import BoolArray, ComplexArray

MAX_SPREAD = 0.2  # of the outermost samples' variance, where they are noise without a window
OUTER_SHARE = 0.05
# Outermost samples with more variance than the windows say hold some of the object. Of 48 simulated scans
# without a window function, this kept 12 from being measured up to 13 % too high.
MAX_OUTER_RATIO = 1.05
# Where samples half-way to the edge have so many times the outermost samples' variance, a window was applied:
# a Hamming window makes it 17, an object 1 to 5. A block whose windows say much more holds the object.
RING, MAX_RING_RATIO, MAX_BLOCK_RATIO = (0.5, 0.75), 10.0, 30.0


@dataclass(frozen=True)
class NoiseEstimate:
    """The noise of a scan: what is added to each sample of k-space, in the orthonormal convention.

    ``covariance`` is E[n n^H] of the coils' complex noise n, (coil, coil), singular where coils are dead or
    linearly dependent. ``source`` says what it was taken from: "calibration lines", "sampled lines",
    "outermost samples", or "rounding" where there is no more noise than single precision resolves.
    ``n_samples`` is the number of independent samples that the covariance is worth. ``guessed`` says that
    nothing separated noise and object: the outermost samples were taken, though they are not alike.
    """

    covariance: ComplexArray
    source: str
    n_samples: int
    guessed: bool = False

    @property
    def coil_sds(self) -> Real:
        """The standard deviation of each of the real and imaginary parts, (coil,)."""
        variances: Real = np.diag(self.covariance).real.astype(np.float64)
        return np.sqrt(variances / 2)

    @property
    def sd(self) -> float:
        """The standard deviation of each part, root mean square over the coils that are not dead."""
        variances = self.coil_sds**2
        return float(np.sqrt(variances.sum() / max(np.count_nonzero(variances), 1)))


def measure_noise(kspace: ComplexArray, mask: BoolArray | None = None) -> NoiseEstimate:
    """Estimate the coils' noise covariance from k-space itself.

    It is the noise near the centre of k-space, where the image's energy is: where k-space was windowed, the
    noise farther out is less. Taken from the windows of the calibration lines, or of all lines where there
    are none. Where those show no window function, the outermost samples are taken if their level is the same
    all over, since an object has the least energy there and they are many; they are taken too where the
    windows do not separate object and noise, as with one coil.

    Object that windows do not predict counts as noise, so that data without noise give a small positive
    number. The estimate is never below sqrt(eps) of a coil's root mean square in single precision: least
    squares by normal equations do not resolve residuals below that.

    Args:
        kspace: (coil, rows, columns), zero where it was not sampled.
        mask: (1, columns), (rows, 1) or (rows, columns); None takes what is not zero.

    Raises:
        ValueError: k-space is zero everywhere.
    """
    samples = kspace[:, (kspace != 0).any(axis=0)].astype(np.complex128)
    if not samples.size:
        raise ValueError("noise estimate: k-space is zero everywhere, expected samples")
    products = samples @ samples.conj().T / kspace[0].size
    power = np.diag(products).real
    alive = np.flatnonzero(power > EPS**2 * power.max())
    gains = np.sqrt(power[alive])
    basis = _range(products[np.ix_(alive, alive)] / np.outer(gains, gains))
    reduced = np.tensordot((basis / gains[:, None]).conj().T.astype(np.complex64), kspace[alive], axes=1)
    fit, guessed = _fit(reduced, _resolved(reduced, mask))
    covariance = shrink_covariance(basis @ fit.covariance @ basis.conj().T, fit.n_samples)
    source = fit.source if np.trace(covariance).real > EPS * len(alive) else "rounding"
    within = basis @ basis.conj().T
    covariance = within @ (covariance + EPS * np.eye(len(alive))) @ within
    full = np.zeros((len(kspace), len(kspace)), dtype=np.complex64)
    full[np.ix_(alive, alive)] = gains[:, None] * covariance * gains
    return NoiseEstimate(full, source, fit.n_samples, guessed)


def estimate_noise(kspace: ComplexArray) -> float:
    """Return the standard deviation of each of the real and imaginary parts of k-space.

    It is that of :func:`measure_noise`, root mean square over the coils.
    """
    return measure_noise(kspace).sd


def shrink_covariance(covariance: Matrix, n_samples: int) -> Matrix:
    """Return the covariance (coil, coil) of so many samples with what is chance in it taken out.

    Correlations are shrunk towards none and variances towards their mean, each by the share of their spread
    that the samples' number explains: a correlation has a variance of 1 / n and a variance v one of v^2 / n.
    Schaefer and Strimmer 2005 (doi 10.2202/1544-6115.1175), equation 10, and Opgen-Rhein and Strimmer 2007
    (doi 10.2202/1544-6115.1252), equation 8, for complex normal samples.
    """
    n_coils = len(covariance)
    variances = np.diag(covariance).real
    if n_coils == 1 or not variances.all():
        return covariance
    spread = np.square(variances - variances.mean()).sum()
    share = min(np.square(variances).sum() / n_samples / spread, 1.0) if spread else 1.0
    shrunk = variances + share * (variances.mean() - variances)
    correlation = covariance / np.sqrt(np.outer(variances, variances))
    off_diagonal = correlation - np.diag(np.diag(correlation))
    energy = np.square(np.abs(off_diagonal)).sum()
    share = min(n_coils * (n_coils - 1) / n_samples / energy, 1.0) if energy else 1.0
    correlation = np.eye(n_coils) + (1 - share) * off_diagonal
    result: Matrix = correlation * np.sqrt(np.outer(shrunk, shrunk))
    return result


def _range(correlation: Matrix) -> Matrix:
    """Return an orthonormal basis, (coil, n), of the coils: n is less where some depend on others."""
    values, vectors = np.linalg.eigh(correlation)
    basis: Matrix = vectors[:, values > len(correlation) * EPS**2]
    return basis


def _resolved(kspace: ComplexArray, mask: BoolArray | None) -> BoolArray:
    """Return the mask of samples that are more than the rounding of the largest one: no zero-padding."""
    energy = np.square(np.abs(kspace)).sum(axis=0)
    resolved = energy > EPS**2 * energy.max()
    if mask is not None:
        resolved &= mask
    return compact_mask(resolved)


def _fit(kspace: ComplexArray, mask: BoolArray) -> tuple[NoiseFit, bool]:
    """Return the noise at the centre, from the windows or the outermost samples, and if it is a guess."""
    outer = _outer_fit(kspace, mask)
    fit = noise_in_windows(kspace, mask, outer.covariance)
    flat = bool(np.ptp(outer.profile) < MAX_SPREAD * outer.profile.mean())
    if fit is None or fit.profile[2] < OBJECT_RATIO * fit.profile[0]:
        return outer, not flat
    ratio = np.trace(outer.covariance).real / np.trace(fit.covariance).real
    if not fit.whole:
        return _fit_of_a_block(kspace, mask, fit, outer, ratio), not flat
    unwindowed = fit.profile[-1] >= MAX_WINDOWED_EDGE * fit.profile[1] and ratio < MAX_OUTER_RATIO
    if flat and (unwindowed or fit.profile[2] < STEEP_RATIO * fit.profile[0]):
        return outer, False
    return fit, False


def _fit_of_a_block(
    kspace: ComplexArray, mask: BoolArray, fit: NoiseFit, outer: NoiseFit, ratio: float
) -> NoiseFit:
    """Return the noise where the windows lie in a small block: there the object may count as noise.

    Samples half-way to the edge tell whether the outermost ones were windowed, and bound what the block says.
    """
    if MAX_WINDOWED_EDGE < ratio < 1:
        return outer
    sampled, distance = _distances(kspace, mask)
    ring = kspace[:, sampled][:, (distance >= RING[0]) & (distance < RING[1])]
    if not ring.size:
        return fit
    between = np.square(np.abs(ring)).sum(axis=0).mean()
    if between < MAX_RING_RATIO * np.trace(outer.covariance).real:
        return outer
    if np.trace(fit.covariance).real < MAX_BLOCK_RATIO * between:
        return fit
    samples = ring.astype(np.complex128)
    return replace(fit, covariance=samples @ samples.conj().T / samples.shape[1], n_samples=samples.shape[1])


def _distances(kspace: ComplexArray, mask: BoolArray) -> tuple[BoolArray, Real]:
    """Return the mask on the grid, and each sample's distance from the centre, 1 at the reach of an axis."""
    sampled = np.broadcast_to(mask, kspace.shape[-2:])
    offsets = _offsets(sampled)
    return sampled, np.hypot(*offsets.T)


def _offsets(sampled: BoolArray) -> Real:
    offsets = np.abs(np.argwhere(sampled) - np.array(sampled.shape) // 2)
    scaled: Real = offsets / np.maximum(offsets.max(axis=0), 1)
    return scaled


def _outer_fit(kspace: ComplexArray, mask: BoolArray) -> NoiseFit:
    """Return the covariance of the samples farthest from the centre, and their variance in four parts.

    The parts are the halves by row and the halves by column, nearer and farther.
    """
    sampled, distance = _distances(kspace, mask)
    offsets = _offsets(sampled)
    outer = distance >= min(1.0, np.quantile(distance, 1 - OUTER_SHARE))
    samples = kspace[:, sampled][:, outer].astype(np.complex128)
    energy = np.square(np.abs(samples)).sum(axis=0)
    parts = []
    for offset in offsets[outer].T:
        far = offset > np.median(offset)
        parts += [energy[far].mean() if far.any() else 0.0, energy[~far].mean()]
    n_samples = samples.shape[1]
    return NoiseFit(
        samples @ samples.conj().T / n_samples, n_samples, np.array(parts), True, "outermost samples"
    )
