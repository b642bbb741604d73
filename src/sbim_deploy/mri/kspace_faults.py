"""What is visibly wrong with a slice of k-space before anything is reconstructed from it.

The checks look for the mistakes that people make on the way from a scanner to an array: another Fourier
convention, another order of the axes, a mask that was shifted, samples that were never measured but are not
zero. Each has a signature in where the energy lies, since an object's k-space has its energy at the centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sbim_deploy.mri.masks import MIN_CALIB_LINES, calibration_block
from sbim_deploy.records import BoolArray, ComplexArray

# Most of k-space's energy is in its central quarter along each axis.
CENTRAL_SHARE = 0.25
LEAST_CENTRAL_ENERGY = 0.6
# An object's energy fills fewer samples in k-space than pixels in the image, whatever the oversampling: where
# the transform of an axis fills so many times fewer samples than the axis itself, that is an image's. Sound
# k-space of 64 pixels or more stays below 1.5, a small object of 32 may not; benchmarks/kspace_faults.py.
# A letter of 32 pixels has 4.6, so that an axis is refused only with little energy around its peak as well.
DOUBTED_WIDTH_RATIO, REFUSED_WIDTH_RATIO = 1.5, 2.0
LEAST_SIGNAL = 0.3  # of the noise's energy: below it nothing can be said of where the signal lies
LEAST_PEAK = 3.0  # a line's energy that noise alone does not reach
# Echo shifts move the peak by some samples; another convention moves it by half of the axis.
MAX_SHIFT = 1 / 8
# Sampled lines differ by the object's spectrum, which falls without a gap; lines that were never measured are
# rounding errors, five orders below the largest.
NEVER_MEASURED, GAP = 1e-5, 100.0
LEAST_EMPTY_SHARE = 0.1
CLIPPED_SAMPLES = 6
SPIKE_RATIO = 8.0
MIN_AXIS = 16

# Along a third axis of k-space its middle three planes have more than so much of the energy.
PLANES_IN_PLACE = 0.6

IMAGE_IN_PLACE, TRANSFORMED_AXIS = "image in place of k-space", "transformed axis"
COILS_LAST, PLANES_IN_PLACE_OF_COILS = "coils on the last axis", "planes in place of coils"
OFF_CENTRE = "centre of k-space"
# What is wrong with all of a scan if with any of it. The slices at the ends of a volume have little signal,
# and what they have may look so.
OF_ALL_SLICES = frozenset(
    {IMAGE_IN_PLACE, TRANSFORMED_AXIS, COILS_LAST, PLANES_IN_PLACE_OF_COILS, OFF_CENTRE}
)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a slice's k-space.

    ``kind`` is a short name for programs, ``message`` says in words what was seen and the way out.
    ``fatal`` faults leave no image that could be right.
    """

    kind: str
    message: str
    fatal: bool


def find_faults(
    kspace: ComplexArray, mask: BoolArray | None, noise: float | NDArray[np.float64]
) -> list[Fault]:
    """Return what is visibly wrong with the k-space of a slice; an empty list where nothing is.

    Args:
        kspace: (coil, rows, columns), as it was given, before a mask is applied.
        mask: what of it was measured, (1, columns), (rows, 1) or (rows, columns); None where every sample
            counts that is not zero.
        noise: the standard deviation of each of the real and imaginary parts of a sample, one for all coils
            or one for each, 0 for a coil that does not count.
    """
    if not kspace.any():
        return []
    order = _coils_last(kspace)
    if order:
        return [order]
    levels = np.broadcast_to(noise, len(kspace)).astype(np.float64)
    loudest = levels.max()
    # Coils count by their noise, or a loud one hides where the others have their energy.
    weights = np.divide(loudest, levels, out=np.zeros_like(levels), where=levels > 0) ** 2
    if not loudest:
        weights[:] = 1
    energy = _energy(kspace, weights)
    if min(energy.shape) < MIN_AXIS:
        return []
    sampled = energy > 0 if mask is None else np.logical_and(energy > 0, mask)
    noise_energy = 2.0 * loudest**2 * np.count_nonzero(weights)
    clipped = _clipped(kspace)
    transformed = _transformed_axes(kspace, weights, energy, sampled, noise_energy)
    if clipped is not None and transformed is not None and not transformed.fatal:
        transformed = None  # a centre that was cut off has less of the energy
    found = [
        transformed or _misplaced_centre(energy, mask, noise_energy) or _never_measured(energy, mask),
        clipped,
        _spikes(energy, sampled, noise_energy),
        _planes_in_place_of_coils(kspace),
    ]
    return [fault for fault in found if fault is not None]


def _coils_last(kspace: ComplexArray) -> Fault | None:
    n_first, _, n_last = kspace.shape
    if not n_last < n_first >= MIN_AXIS:
        return None
    squares = kspace.real**2 + kspace.imag**2
    along_first, along_last = squares.sum(axis=(1, 2)), squares.sum(axis=(0, 1))
    first, last = _central_energy(along_first), _central_energy(along_last)
    # So few columns are no axis of k-space, and where their energy lies says nothing.
    if first < LEAST_CENTRAL_ENERGY or (n_last >= MIN_AXIS and first < last):
        return None
    return Fault(
        COILS_LAST,
        f"k-space is {kspace.shape}, and its energy is centred along the first axis but not along the last, "
        "as if the coils were on the last axis: expected (coil, rows, columns), say the axes (--layout), or "
        "move the coils to the front",
        True,
    )


def _planes_in_place_of_coils(kspace: ComplexArray) -> Fault | None:
    n_coils, centre = len(kspace), len(kspace) // 2
    if n_coils < MIN_AXIS:
        return None
    along = (kspace.real**2 + kspace.imag**2).sum(axis=(1, 2), dtype=np.float64)
    middle = along[centre - 1 : centre + 2].sum()
    if int(np.argmax(along)) != centre or middle < PLANES_IN_PLACE * along.sum():
        return None
    return Fault(
        PLANES_IN_PLACE_OF_COILS,
        f"coil {centre} of {n_coils} and its neighbours have most of the energy, as the middle of an axis "
        "of k-space: 3D k-space is transformed along its third axis first, and --layout says other axes",
        False,
    )


def _profile(energy: NDArray[np.float64], sampled: BoolArray, axis: int) -> NDArray[np.float64]:
    """Return the mean energy of the measured samples along an axis, 0 where there are none."""
    others = 1 - axis
    count = sampled.sum(axis=others)
    total = np.where(sampled, energy, 0).sum(axis=others)
    profile: NDArray[np.float64] = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return profile


def _central_energy(profile: NDArray[np.float64]) -> float:
    n = profile.size
    half = max(round(n * CENTRAL_SHARE / 2), 1)
    total = profile.sum()
    return float(profile[n // 2 - half : n // 2 + half + 1].sum() / total) if total > 0 else 1.0


def _energy(kspace: ComplexArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the energy of all coils, (rows, columns)."""
    energy: NDArray[np.float64]
    energy = np.einsum("c,crk,crk->rk", weights, kspace, kspace.conj()).real.astype(np.float64)
    return energy


def _width(profile: NDArray[np.float64]) -> float:
    """Return how many samples hold the energy of a profile, (sum p)^2 / sum p^2; shifts do not matter."""
    squares = float(np.square(profile).sum())
    return float(profile.sum() ** 2 / squares) if squares else 0.0


def _transformed_axes(
    kspace: ComplexArray,
    weights: NDArray[np.float64],
    energy: NDArray[np.float64],
    sampled: BoolArray,
    noise_energy: float,
) -> Fault | None:
    n_sampled = np.count_nonzero(sampled)
    if energy[sampled].sum() < (1 + LEAST_SIGNAL) * noise_energy * n_sampled:
        return None
    spread, fatal = [], False
    for axis, name in enumerate(("rows (the readout)", "columns (the phase encodes)")):
        profile = np.maximum(_profile(energy, sampled, axis) - noise_energy, 0)
        # What lies between the samples of an axis counts, or an undersampled image would look narrow.
        places = np.flatnonzero(sampled.any(axis=1 - axis))
        profile = np.interp(np.arange(profile.size), places, profile[places], 0, 0)
        # The transform has no shifts, because neither profile's place matters.
        transformed = _energy(scipy.fft.fft(kspace * sampled, axis=axis - 2, norm="ortho"), weights)
        noise = noise_energy * sampled.mean(axis=axis, keepdims=True)
        other = np.maximum((transformed - noise).mean(axis=1 - axis), 0)
        ratio = _width(profile) / max(_width(other), 1.0)
        if ratio > DOUBTED_WIDTH_RATIO:
            spread.append(name)
            around_peak = np.roll(profile, profile.size // 2 - int(np.argmax(profile)))
            fatal |= ratio > REFUSED_WIDTH_RATIO and _central_energy(around_peak) < LEAST_CENTRAL_ENERGY
    if not spread:
        return None
    if len(spread) == 2:
        return Fault(
            IMAGE_IN_PLACE,
            "the energy is spread over rows and columns as in an image: expected k-space, apply the centred "
            "Fourier transform along both",
            fatal,
        )
    return Fault(
        TRANSFORMED_AXIS,
        f"the energy is spread over the {spread[0]} as in an image: expected k-space along both axes, apply "
        "the centred Fourier transform along this one",
        fatal,
    )


def _misplaced_centre(
    energy: NDArray[np.float64], mask: BoolArray | None, noise_energy: float
) -> Fault | None:
    for axis, name in enumerate(("rows", "columns")):
        full = _profile(energy, energy > 0, axis)
        n = full.size
        peak, centre = int(np.argmax(full)), n // 2
        if abs(peak - centre) > MAX_SHIFT * n and full[peak] > LEAST_PEAK * noise_energy:
            uncentred = min(peak, n - peak) <= MAX_SHIFT * n
            way_out = (
                "the transform was not centred: apply fftshift to k-space (and to its mask)"
                if uncentred
                else "shift k-space so that its largest sample is in the middle"
            )
            return Fault(
                OFF_CENTRE,
                f"the energy of k-space peaks at {peak} of its {n} {name}, expected near {centre}: {way_out}",
                True,
            )
    return None if mask is None else _shifted_mask(mask, (energy.shape[0], energy.shape[1]))


def _shifted_mask(mask: BoolArray, shape: tuple[int, int]) -> Fault | None:
    """Recognise a mask with its full block at the edges, where an uncentred transform has its centre."""
    axes = [axis for axis in (0, 1) if mask.shape[axis] > 1]
    own, shifted = (_block_width(each, shape) for each in (mask, np.fft.fftshift(mask, axes=axes)))
    if shifted < max(MIN_CALIB_LINES, 2 * own + 1):
        return None
    return Fault(
        "shifted mask",
        f"the mask takes {own} lines around the centre of k-space and {shifted} around its edges: it looks "
        "shifted by half of the axis, apply fftshift to it",
        True,
    )


def _block_width(mask: BoolArray, shape: tuple[int, int]) -> int:
    return min(int(part.stop - part.start) for part in calibration_block(mask, shape))


def _never_measured(energy: NDArray[np.float64], mask: BoolArray | None) -> Fault | None:
    if mask is not None:
        return None
    for kind, values in (
        ("columns", energy.mean(axis=0)),
        ("rows", energy.mean(axis=1)),
        ("samples", energy.ravel()),
    ):
        magnitude = np.sort(np.sqrt(values[values > 0]))
        low = magnitude <= NEVER_MEASURED * magnitude[-1]
        n_low = int(np.count_nonzero(low))
        if n_low < LEAST_EMPTY_SHARE * values.size or n_low == magnitude.size:
            continue
        gaps = magnitude[1:] / magnitude[:-1]
        place = int(np.argmax(gaps[max(n_low // 2, 1) - 1 :])) + max(n_low // 2, 1)
        if gaps[place - 1] >= GAP:
            share = magnitude[place - 1] / magnitude[-1]
            return Fault(
                "samples that are not zero",
                f"{place} of {values.size} {kind} are not zero but at most {share:.0e} of the largest: they "
                "look like samples that were never measured; give the mask, or set them to zero",
                True,
            )
    return None


def _clipped(kspace: ComplexArray) -> Fault | None:
    parts = np.abs(np.ascontiguousarray(kspace).view(kspace.real.dtype))
    limit = parts.max()
    n_at_limit = int(np.count_nonzero(parts >= limit * (1 - 1e-5)))
    if n_at_limit < CLIPPED_SAMPLES:
        return None
    return Fault(
        "clipped samples",
        f"{n_at_limit} samples stand at the largest value, {limit:.3g}: the receiver was overdriven; the "
        "centre of k-space is wrong, acquire with less gain",
        False,
    )


def _spikes(energy: NDArray[np.float64], sampled: BoolArray, noise_energy: float) -> Fault | None:
    """Find samples that stand alone: an object within the field of view has neighbours that are alike."""
    rows, columns = energy.shape
    magnitude = np.sqrt(np.where(sampled, energy, 0))
    y = np.abs(np.arange(rows) - rows // 2)[:, None]
    x = np.abs(np.arange(columns) - columns // 2)[None, :]
    outside = (y > rows / 8) | (x > columns / 8)
    least = max(np.sqrt(noise_energy) * 5, 0.02 * magnitude.max())
    padded = np.pad(magnitude, 2)
    places = []
    for row, column in np.argwhere(outside & (magnitude > least)):
        around = padded[row : row + 5, column : column + 5].ravel()
        beside = np.delete(around, around.size // 2)
        if np.count_nonzero(beside) >= 3 and magnitude[row, column] > SPIKE_RATIO * beside.max():
            places.append((row, column))
    if not places:
        return None
    n_spikes, (row, column) = len(places), places[0]
    return Fault(
        "spikes",
        f"{n_spikes} samples stand far above their neighbours, one at row {row}, column {column}: spikes of "
        "the receiver draw stripes over the image; leave those lines out of the mask",
        False,
    )
