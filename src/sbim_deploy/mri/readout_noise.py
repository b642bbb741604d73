"""The noise of samples along a trajectory, from the samples themselves.

A readout that is sampled more densely than the field of view needs sees what lies beyond it: nothing but
noise. That is the part of its spectrum above the frequencies that the object's width allows. Where readouts
are not so dense the samples farthest from the centre are taken, which hold some of the object too.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from sbim_deploy.mri.noise_level import NoiseEstimate, shrink_covariance
from sbim_deploy.mri.noise_windows import EPS, Matrix
from sbim_deploy.records import ComplexArray, FloatArray

BEYOND_READOUT, OUTERMOST = "beyond the field of view", "outermost samples"
# Cycles a sample, for a step of one cycle per field of view: the object ends at 0.5, and in a corner at 0.71.
OBJECT_EDGE = 0.8
# The receiver's filter lets less noise through at the ends of its band.
BAND_EDGE = 0.47
MIN_BINS = 6
OUTER_SHARE = 0.05
MAX_SPREAD = 0.2  # of the outermost samples' energy: more is of the object


def measure_readout_noise(kspace: ComplexArray, places: FloatArray) -> NoiseEstimate:
    """Estimate the coils' noise covariance from samples (coil, readout, sample) at places along a trajectory.

    Of what lies beyond the field of view and of the outermost samples that is taken which has less energy: an
    object may reach beyond the one, and into the other. It is guessed where only the outermost samples tell
    it, and their energy is not the same all over.

    Raises:
        ValueError: k-space is zero everywhere.
    """
    sampled = (kspace != 0).any(axis=0)
    if not sampled.any():
        raise ValueError("noise estimate: k-space is zero everywhere, expected samples")
    outer, n_outer, is_flat = _outermost(kspace[:, sampled], np.hypot(*places[sampled].T))
    found, n_samples, source, guessed = outer, n_outer, OUTERMOST, not is_flat
    beyond = _beyond_readout(kspace[:, sampled.all(axis=1)], places[sampled.all(axis=1)])
    if beyond is not None and np.trace(beyond[0]).real < np.trace(outer).real:
        found, n_samples = beyond
        source, guessed = BEYOND_READOUT, False
    if np.diag(found).all():
        found = shrink_covariance(found, n_samples)
    # Coils whose samples are far apart in size are not resolved below single precision.
    floor = EPS**2 * np.square(np.abs(kspace[:, sampled]).astype(np.float64)).mean(axis=1)
    return NoiseEstimate((found + np.diag(floor)).astype(np.complex64), source, n_samples, guessed)


def _beyond_readout(kspace: ComplexArray, places: FloatArray) -> tuple[Matrix, int] | None:
    """Return the covariance beyond the field of view, and of how many samples; None where there are few."""
    n_samples = kspace.shape[-1]
    if not kspace.shape[1] or n_samples < 2:
        return None
    step = float(np.median(np.hypot(*np.moveaxis(np.diff(places, axis=1), -1, 0))))
    frequency = np.abs(np.fft.fftfreq(n_samples))
    beyond = (frequency > OBJECT_EDGE * step) & (frequency < BAND_EDGE)
    if np.count_nonzero(beyond) < MIN_BINS:
        return None
    window = np.blackman(n_samples + 1)[:-1]
    spectra = scipy.fft.fft(kspace.astype(np.complex128) * window, axis=-1)[..., beyond].reshape(
        len(kspace), -1
    )
    covariance: Matrix = spectra @ spectra.conj().T / (spectra.shape[1] * np.square(window).sum())
    # A window as wide as this leaves about half of the samples independent.
    return covariance, max(spectra.shape[1] // 2, 1)


def _outermost(samples: ComplexArray, distance: FloatArray) -> tuple[Matrix, int, bool]:
    """Return the covariance of the samples farthest from the centre, their number, and if they are alike."""
    n_wanted = max(int(OUTER_SHARE * distance.size), 2 * len(samples))
    outer = samples[:, np.argsort(distance, kind="stable")[-n_wanted:]].astype(np.complex128)
    energy = np.square(np.abs(outer)).sum(axis=0)
    nearer, farther = energy[: len(energy) // 2].mean(), energy[len(energy) // 2 :].mean()
    is_flat = bool(abs(nearer - farther) <= MAX_SPREAD * (nearer + farther) / 2)
    covariance: Matrix = outer @ outer.conj().T / outer.shape[1]
    return covariance, outer.shape[1], is_flat
