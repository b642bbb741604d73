"""From the raw k-space of a slice to the inverse problem that a sampler solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.mri.calibration_faults import why_few_lines
from sbim_deploy.mri.combine import combine_sets, mvue, normalise_maps, percentile_scale, root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft
from sbim_deploy.mri.kspace_faults import OF_ALL_SLICES, Fault, find_faults
from sbim_deploy.mri.map_choice import (
    AUTO,
    ESPIRIT,
    METHOD_NAMES,
    MIN_ESPIRIT_LINES,
    ONES,
    MapEstimate,
    estimate_maps,
)
from sbim_deploy.mri.masks import MIN_CALIB_LINES, compact_mask, sampled_mask
from sbim_deploy.mri.noise_level import NoiseEstimate, measure_noise
from sbim_deploy.mri.noncartesian import Operator, Trajectory, make_operator
from sbim_deploy.mri.volume_maps import in_phase_with
from sbim_deploy.mri.whitening import mix_coils
from sbim_deploy.recon.unlike_coils import mixing_of_given_maps, noise_of_coils, shade_as_unmixed
from sbim_deploy.records import MAX_MAP_SETS, BoolArray, ComplexArray

GIVEN, NOISE_READOUTS = "given", "noise readouts"
GIVEN_AND_WHITENED = f"{GIVEN}, whitened as k-space"
# Less noise than this share of the image's scale changes an image little if it was guessed too high.
CONSPICUOUS_NOISE = 0.02
LEAST_FILTERED = 4.0  # how many times less noise a receiver's filter lets through at the ends of a readout
LEAST_MAGNITUDE = 1e-15  # of k-space's largest value; and 1e15 is the greatest


@dataclass(frozen=True)
class SliceProblem:
    """One slice, ready to be reconstructed.

    k-space (coil, rows, columns) is zero where it was not sampled. Maps are of unit root-sum-of-squares where
    they are not zero; where the coils were whitened, that holds for the maps of the coils as they were
    measured. The mask is (1, columns), (rows, 1) or (rows, columns). ``scale`` is the 99th percentile of
    |MVUE|, ``noise`` the standard deviation of each part of k-space, ``noise_source`` where it comes from,
    ``map_source`` where the maps come from, ``faults`` what is wrong with k-space that did not stop the run.
    ``image_shape`` is what the image is cropped to at the end.

    Of samples that do not lie on a grid, ``trajectory`` tells where they lie: k-space is then
    (coil, readout, sample), the mask (readout, sample), and the MVUE the image of density-compensated
    gridding.

    An object that is larger than the field of view takes two sets of maps, (set, coil, rows, columns); the
    MVUE is then that of each set, (set, rows, columns), and ``scale`` that of both together.
    """

    index: int
    kspace: ComplexArray
    maps: ComplexArray
    mask: BoolArray
    mvue: ComplexArray
    scale: float
    noise: float
    image_shape: tuple[int, int]
    noise_source: str = GIVEN
    map_source: str = GIVEN
    faults: tuple[Fault, ...] = ()
    trajectory: Trajectory | None = None

    @property
    def operator(self) -> Operator:
        """A, anew, since it holds a workspace."""
        return make_operator(self.maps, self.mask, self.trajectory)

    @property
    def noise_on_grid(self) -> float:
        """The noise that k-space would have on a grid: less, where several samples tell of one place."""
        return self.noise * (1.0 if self.trajectory is None else self.trajectory.noise_share)

    @property
    def n_sets(self) -> int:
        """The sets of maps."""
        return self.maps.shape[0] if self.maps.ndim > self.kspace.ndim else 1

    @property
    def zero_filled(self) -> ComplexArray:
        """The MVUE as one image (rows, columns)."""
        return combine_sets(self.mvue) if self.n_sets > 1 else self.mvue


@dataclass(frozen=True, eq=False)
class OfVolume:
    """What the slices of a volume share; None is each slice's own.

    ``scale`` is theirs, and ``coil`` the virtual coil (coil,) that their maps are in phase with. Of a volume
    that ``is_checked`` no fault of one slice's k-space stops the run: it may lie beside the object. What is
    wrong with all slices if with any is then told where ``kinds`` has it, by the slice of most energy.
    """

    scale: float | None = None
    coil: ComplexArray | None = None
    is_checked: bool = False
    kinds: frozenset[str] = frozenset()

    def check(self, faults: list[Fault], index: int) -> list[Fault]:
        """Return the faults of a slice that do not stop the run.

        Raises:
            InputError: one does.
        """
        for fault in faults:
            if fault.fatal and not self.is_checked:
                raise InputError(f"slice {index}: {fault.message}")
        if self.is_checked:
            faults = [fault for fault in faults if fault.kind not in OF_ALL_SLICES - self.kinds]
        return [fault for fault in faults if not fault.fatal]

    def in_phase(self, maps: ComplexArray) -> ComplexArray:
        """Return maps in phase with the virtual coil."""
        return maps if self.coil is None else in_phase_with(maps, self.coil)


OWN = OfVolume()


def prepare_slice(
    kspace: ComplexArray,
    index: int = 0,
    mask: BoolArray | None = None,
    maps: ComplexArray | None = None,
    image_shape: tuple[int, int] | None = None,
    calibration: ComplexArray | None = None,
    noise: float | None = None,
    map_method: str = AUTO,
    noise_source: str = GIVEN,
    map_sets: int = 1,
    check: Callable[[], None] = lambda: None,
    volume: OfVolume = OWN,
    whitening: ComplexArray | None = None,
) -> SliceProblem:
    """Check a slice, whiten its coils, crop its readout oversampling, and find its maps, MVUE and scale.

    Args:
        kspace: complex64 (coil, rows, columns), readout along the rows.
        index: the slice's number, which keys its noise.
        mask: (columns,), (1, columns), (rows, 1) or (rows, columns); None takes what is not zero.
        maps: (coil, rows, columns), at the rows of k-space or of ``image_shape``, or (2, coil, rows, columns)
            for two sets of them; None estimates them.
        image_shape: (rows, columns) of the image; None is the grid of k-space.
        calibration: k-space of the same shape to estimate the maps from; None takes ``kspace`` itself.
        noise: the standard deviation of each of the real and imaginary parts of k-space, of white noise;
            None measures it, and whitens the coils where they differ or are correlated.
        map_method: ``auto``, ``espirit`` or ``nlinv``; see :func:`sbim_deploy.mri.map_choice.estimate_maps`.
        noise_source: where a given ``noise`` comes from, in words.
        map_sets: how many sets of maps are estimated: 1, or 2 for an object that is larger than the field of
            view.
        check: called between the parts of the work, the steps of the maps among them; what it raises ends it.
        volume: what it shares with the other slices of a volume.
        whitening: the (coil, coil) matrix that whitened the coils of k-space as it was read, or None;
            ``maps`` are those of the coils before it.

    Raises:
        InputError: nothing was sampled, k-space is not what it must be, no maps and no calibration lines, or
            maps or calibration of another shape.
    """
    if calibration is not None and calibration.shape != kspace.shape:
        raise InputError(
            f"slice {index}: calibration has shape {calibration.shape}, expected {kspace.shape}, k-space's"
        )
    image_shape = image_shape or (kspace.shape[-2], kspace.shape[-1])
    lines = measured_mask(kspace, index, mask)
    check_magnitude(kspace, index)
    check()
    measured = measure_image_noise(kspace * lines, lines, image_shape[0])
    check()
    found = find_faults(kspace, None if mask is None else lines, measured.coil_sds)
    faults = volume.check(found, index)
    given, kspace, mask = kspace, kspace * lines, lines
    coils = noise_of_coils(measured, noise, noise_source)
    level, source, mixing = coils.level, coils.source, coils.mixing
    faults += coils.faults
    if mixing is not None:
        kspace = mix_coils(mixing, kspace)
        calibration = None if calibration is None else mix_coils(mixing, calibration)
    check()
    crops_readout = _is_oversampled(kspace, mask, image_shape[0])
    grid = (image_shape[0] if crops_readout else kspace.shape[-2], kspace.shape[-1])
    map_source = GIVEN if whitening is None else GIVEN_AND_WHITENED
    if maps is not None:
        mixing = mixing_of_given_maps(whitening, mixing)
        maps = fit_maps(maps, (len(kspace), *grid), index)
        maps = maps if mixing is None else mix_coils(mixing, maps)
    else:
        why = partial(_why_few_lines, given, lines, calibration)
        estimate = _estimate_maps(kspace, mask, calibration, map_method, map_sets, level, index, why, check)
        map_source = METHOD_NAMES[estimate.method] if map_sets == 1 else f"{map_sets} sets by ESPIRiT"
        faults += _few_lines(estimate, why) + _folded(estimate)
        maps = np.ascontiguousarray(centre_crop(estimate.maps, grid))
        maps = maps if mixing is None else shade_as_unmixed(maps, mixing)
        maps = volume.in_phase(maps)
    check()
    if crops_readout:
        kspace = _crop_readout(kspace, image_shape[0])
    combined = mvue(kspace, maps)
    if mixing is not None:
        norm = root_sum_of_squares(maps)
        combined = np.divide(combined, norm, out=np.zeros_like(combined), where=norm > 0)
    whole = combine_sets(combined) if combined.ndim > mask.ndim else combined
    scale = volume.scale or percentile_scale(whole)
    if scale == 0:
        raise InputError(f"slice {index}: the maps are zero where the image is: do they belong to it?")
    if noise is None:
        faults += guessed_noise(measured, scale)
    return SliceProblem(
        index, kspace, maps, mask, combined, scale, level, image_shape, source, map_source, tuple(faults)
    )


def measure_image_noise(kspace: ComplexArray, mask: BoolArray, n_rows: int) -> NoiseEstimate:
    """Estimate the coils' noise covariance where the image is.

    The receiver's filter lets less noise through at the ends of an oversampled readout's field of view, and
    directions without an object, in which noise is measured, lie there first: over the whole readout the
    noise of a Siemens scan of two coils comes out 45 % too low. Where nothing separates noise and object
    without those ends, they count too: where it is guessed, or more than a filter would explain.

    Args:
        kspace: (coil, rows, columns), zero where it was not sampled.
        mask: (1, columns), (rows, 1) or (rows, columns).
        n_rows: the rows of the image; with fewer than k-space's the readout is oversampled.

    Raises:
        ValueError: k-space is zero everywhere.
    """
    measured = measure_noise(kspace, mask)
    if not _is_oversampled(kspace, mask, n_rows):
        return measured
    within = measure_noise(_crop_readout(kspace, n_rows), mask)
    return measured if within.guessed or within.sd > LEAST_FILTERED * measured.sd else within


def _is_oversampled(kspace: ComplexArray, mask: BoolArray, n_rows: int) -> bool:
    """Tell whether the readout was sampled over more than the image and can be cut to it."""
    return mask.shape[0] == 1 and n_rows < int(kspace.shape[-2])


def _estimate_maps(
    kspace: ComplexArray,
    mask: BoolArray,
    calibration: ComplexArray | None,
    method: str,
    n_sets: int,
    noise: float,
    index: int,
    why: Callable[[], str],
    check: Callable[[], None],
) -> MapEstimate:
    """Return the maps on the whole encoded field of view."""
    if calibration is not None:
        kspace, mask = calibration, sampled_mask(calibration)
        mask = compact_mask(mask) if mask.shape[0] > 1 else mask
    try:
        return estimate_maps(kspace, mask, method, n_sets, noise, check)
    except ValueError as error:
        raise InputError(f"slice {index}: {error}{why()}: give them with --maps") from error


def _why_few_lines(kspace: ComplexArray, mask: BoolArray, calibration: ComplexArray | None) -> str:
    """Return the cause of few calibration lines; a calibration of its own has none that is known.

    It takes a pass over k-space, so that it is asked for only where lines are few.
    """
    return "" if calibration is not None else why_few_lines(kspace, mask)


def _few_lines(estimate: MapEstimate, why: Callable[[], str]) -> list[Fault]:
    if estimate.method == ONES:
        message = (
            f"a single coil with {estimate.n_lines} calibration lines{why()}: its map is taken to be 1 "
            "everywhere, and the image has the coil's shading"
        )
        return [Fault("single coil", message, False)]
    if estimate.n_lines >= (MIN_ESPIRIT_LINES if estimate.method == ESPIRIT else MIN_CALIB_LINES):
        return []
    way_out = ", or let --map-method auto choose" if estimate.method == ESPIRIT else ""
    message = (
        f"{estimate.n_lines} calibration lines are few for maps by {METHOD_NAMES[estimate.method]}{why()}: "
        f"the image is as wrong as they are; give better ones with --maps{way_out}"
    )
    return [Fault("few calibration lines", message, False)]


def _folded(estimate: MapEstimate) -> list[Fault]:
    if not estimate.folds:
        return []
    message = (
        "the object is larger than the field of view and folds over, which one set of coil maps cannot "
        "explain: reconstruct with --map-sets 2"
    )
    return [Fault("field of view", message, False)]


def guessed_noise(measured: NoiseEstimate, scale: float) -> list[Fault]:
    """Return a fault where noise was guessed, and is so much that the guess may show."""
    if not measured.guessed or measured.sd < CONSPICUOUS_NOISE * scale:
        return []
    message = (
        f"the noise cannot be told from the object, and its standard deviation is guessed to be "
        f"{measured.sd:.3g}, {measured.sd / scale:.1%} of the image's brightest parts: give it with --noise"
    )
    return [Fault("guessed noise", message, False)]


def relative_residual(problem: SliceProblem, image: ComplexArray) -> float:
    """Return |A x - y| / |y| over what was measured of a slice, for an image that is not cropped yet."""
    difference = problem.operator.forward(image) - problem.kspace
    return float(np.linalg.norm(difference) / np.linalg.norm(problem.kspace))


def check_magnitude(kspace: ComplexArray, index: int) -> None:
    """Check that energies of k-space, its squares, are numbers of float32.

    Raises:
        InputError: its largest value is too small or too large for that.
    """
    largest = max(float(np.abs(part).max(initial=0.0)) for part in (kspace.real, kspace.imag))
    if largest and not LEAST_MAGNITUDE <= largest <= 1 / LEAST_MAGNITUDE:
        raise InputError(
            f"slice {index}: the largest value of k-space is {largest:.3g}, expected {LEAST_MAGNITUDE:g} to "
            f"{1 / LEAST_MAGNITUDE:g}; multiply it"
        )


def measured_mask(kspace: ComplexArray, index: int, mask: BoolArray | None) -> BoolArray:
    """Return what was measured of a slice: the mask's lines that are not zero in every coil.

    k-space is (coil, rows, columns) and the mask as in :func:`prepare_slice`; the result is (1, columns),
    (rows, 1) or (rows, columns).

    Raises:
        InputError: nothing was measured.
    """
    measured = sampled_mask(kspace)
    if mask is not None:
        mask = compact_mask(mask) if mask.ndim == 2 else mask[None, :]
        measured = np.logical_and(measured, mask)
    if not measured.any():
        raise InputError(f"slice {index}: k-space is zero everywhere it was sampled: leave the slice out")
    return compact_mask(measured) if measured.shape[0] > 1 else measured


def _crop_readout(kspace: ComplexArray, n_rows: int) -> ComplexArray:
    """Remove readout oversampling: keep the image's middle rows."""
    image = centred_ifft(kspace, axes=(-2,))
    return centred_fft(centre_crop(image, (n_rows, kspace.shape[-1])), axes=(-2,))


def fit_maps(maps: ComplexArray, shape: tuple[int, ...], index: int) -> ComplexArray:
    """Return given maps on the grid, of unit norm or zero.

    A set whose maps fade out, as ``bart ecalib -S`` writes them, ends where it has half of the larger's norm.
    """
    n_coils, rows, columns = shape
    fits = maps.ndim == 3 or (maps.ndim == 4 and len(maps) == MAX_MAP_SETS)
    if not fits or (maps.shape[-3], maps.shape[-1]) != (n_coils, columns) or maps.shape[-2] < rows:
        raise InputError(
            f"slice {index}: maps have shape {maps.shape}, expected {(n_coils, rows, columns)} as k-space "
            f"has, or {(MAX_MAP_SETS, n_coils, rows, columns)} for two sets"
        )
    maps = centre_crop(maps, (rows, columns))
    if maps.ndim == 4:
        norm = root_sum_of_squares(maps)
        maps = maps * (norm >= norm.max(axis=0) / 2)[:, None]
    return normalise_maps(maps)
