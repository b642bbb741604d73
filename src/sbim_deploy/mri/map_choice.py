"""Coil maps of a slice by the method that its samples call for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sbim_deploy.mri.combine import normalise_maps
from sbim_deploy.mri.espirit import espirit_map_sets, espirit_maps, needs_two_sets
from sbim_deploy.mri.masks import MIN_CALIB_LINES, calibration_block
from sbim_deploy.mri.nonlinear_inversion import nonlinear_inversion_maps
from sbim_deploy.mri.support import data_misfit, object_support
from sbim_deploy.records import BoolArray, ComplexArray

AUTO, ESPIRIT, NLINV = MAP_METHODS = ("auto", "espirit", "nlinv")
BOTH, ONES = "both", "ones"
METHOD_NAMES = {
    ESPIRIT: "ESPIRiT",
    NLINV: "nonlinear inversion",
    BOTH: "the mean of nonlinear inversion and ESPIRiT",
    ONES: "ones (a single coil without calibration lines)",
}
MIN_ESPIRIT_LINES = 8
# From fewer lines two sets of maps are not told from one: four of 200 good scans, of 8 to 10 lines, were
# doubted.
MIN_FOLDING_LINES = 16
MIN_KERNEL_WIDTH, MAX_KERNEL_WIDTH = 3, 6
# On 21 simulated slices of smooth maps the ratio of ESPIRiT's misfit to the inversion's was never below 1, on
# an in-vivo brain it is 0.99; where the maps are too rough for the inversion it was 0.4 to 0.75.
MIN_MISFIT_RATIO = 0.9
# Up to this ratio neither explains the samples much better. Their errors are unlike, so that the mean of both
# is nearer: at R = 6 with 8 lines its images were 0.4 dB better than the inversion's on 6 slices. Where
# ESPIRiT explains less, the mean was up to 0.7 dB worse.
MAX_MISFIT_RATIO = 1.25
REGULAR_DISTANCES = 3  # a lattice with a few lines at its centre has no more


@dataclass(frozen=True)
class MapEstimate:
    """Coil maps (coil, rows, columns) of unit root-sum-of-squares on the object and zero elsewhere.

    Two sets of them are (set, coil, rows, columns). ``folds`` tells that one set was estimated and cannot
    explain the calibration lines: the object is larger than the field of view.
    ``method`` is ``espirit``, ``nlinv``, ``both`` or ``ones``, ``n_lines`` the number of calibration lines.
    """

    maps: ComplexArray
    method: str
    n_lines: int
    folds: bool = False


def estimate_maps(
    kspace: ComplexArray,
    mask: BoolArray,
    method: str = AUTO,
    n_sets: int = 1,
    noise: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> MapEstimate:
    """Estimate maps by nonlinear inversion, by ESPIRiT where that explains the samples better, or by both.

    Nonlinear inversion uses all samples and needs few calibration lines or none, but can draw smooth maps
    alone; ESPIRiT needs eight lines to be tried by ``auto``, and takes maps as rough as its kernels allow.
    Where both explain the samples about as well, ``auto`` takes the mean of both.

    The map of a single coil without calibration lines is 1 everywhere: nothing tells its sensitivity from the
    object, and there are no other coils to weigh it against.

    Args:
        kspace: complex64 (coil, rows, columns), centred, zero where it was not sampled, in any unit. It must
            span the whole encoded field of view: an object that goes past a cut would fold into the maps.
        mask: (1, columns), (rows, 1) or (rows, columns).
        method: ``auto``, ``espirit`` or ``nlinv``.
        n_sets: 1, or 2 by ESPIRiT for an object that is larger than the field of view.
        noise: standard deviation of each part of the samples, which tells a second set from noise.
        check: called between the parts of the work; what it raises ends it.

    Raises:
        ValueError: the method is unknown or does not go with two sets, a shape does not fit, a sample is not
            finite, the centre of k-space holds no signal, or there are too few calibration lines for the
            method.
    """
    if method not in MAP_METHODS:
        raise ValueError(f"unknown map method {method!r}: expected one of {', '.join(MAP_METHODS)}")
    if n_sets > 1 and method == NLINV:
        raise ValueError(f"map method {NLINV} estimates one set of maps, expected {ESPIRIT} for two")
    method = ESPIRIT if n_sets > 1 else method
    shape = (kspace.shape[-2], kspace.shape[-1])
    rows, columns = calibration_block(mask, shape)
    n_lines = count_calibration_lines(mask, shape)
    if n_lines < MIN_CALIB_LINES and len(kspace) == 1 and n_sets == 1:
        return MapEstimate(np.ones_like(kspace), ONES, n_lines)
    check_calibration_lines(mask, shape, method)
    calibration, kernel_width = kspace[:, rows, columns], espirit_kernel_width(n_lines)
    if n_sets > 1:
        maps = espirit_map_sets(calibration, shape, noise=noise, kernel_width=kernel_width)
        return MapEstimate(maps * _where_measured(kspace, mask, maps), ESPIRIT, n_lines)
    chosen, maps = _one_set(kspace, mask, method, n_lines, calibration, check)
    check()
    folds = n_lines >= MIN_FOLDING_LINES and needs_two_sets(
        calibration, noise=noise, kernel_width=kernel_width
    )
    return MapEstimate(maps * _where_measured(kspace, mask, maps), chosen, n_lines, folds)


def count_calibration_lines(mask: BoolArray, shape: tuple[int, int]) -> int:
    """Return the shorter side of the block in the centre of k-space that is sampled in full."""
    rows, columns = calibration_block(mask, shape)
    return int(min(rows.stop - rows.start, columns.stop - columns.start))


def check_calibration_lines(mask: BoolArray, shape: tuple[int, int], method: str = AUTO) -> None:
    """Check that a mask leaves lines to estimate the maps of several coils from.

    Raises:
        ValueError: there are too few for the method.
    """
    n_lines = count_calibration_lines(mask, shape)
    if n_lines < MIN_CALIB_LINES and (method == ESPIRIT or _is_lattice(mask)):
        raise ValueError(
            f"{n_lines} calibration lines in the centre of k-space, expected at least {MIN_CALIB_LINES} to "
            "estimate the coil maps"
        )


def _one_set(
    kspace: ComplexArray,
    mask: BoolArray,
    method: str,
    n_lines: int,
    calibration: ComplexArray,
    check: Callable[[], None],
) -> tuple[str, ComplexArray]:
    """Return the method that was chosen, and its maps."""
    candidates = []
    if method != ESPIRIT:
        candidates.append((NLINV, nonlinear_inversion_maps(kspace, mask, check)))
    if method == ESPIRIT or (method == AUTO and n_lines >= MIN_ESPIRIT_LINES):
        check()
        shape, kernel_width = (kspace.shape[-2], kspace.shape[-1]), espirit_kernel_width(n_lines)
        candidates.append((ESPIRIT, espirit_maps(calibration, shape, kernel_width=kernel_width)))
    check()
    chosen, maps = candidates[0]
    if len(candidates) == 2:
        misfit, misfit_of_espirit = (data_misfit(kspace, mask, each) for _, each in candidates)
        if misfit_of_espirit < MIN_MISFIT_RATIO * misfit:
            chosen, maps = candidates[1]
        elif misfit_of_espirit < MAX_MISFIT_RATIO * misfit:
            chosen, maps = BOTH, _mean_maps(maps, candidates[1][1])
    return chosen, maps


def espirit_kernel_width(calib_width: int) -> int:
    """Return the width of ESPIRiT's kernels for so many calibration lines.

    Few lines leave few windows for a large kernel: half the width gave the truest maps at 5 to 12 lines.
    """
    return min(max(calib_width // 2, MIN_KERNEL_WIDTH), MAX_KERNEL_WIDTH)


def _where_measured(kspace: ComplexArray, mask: BoolArray, maps: ComplexArray) -> BoolArray:
    """Return where maps are not zero, (coil, rows, columns): on the object, in coils that measured any."""
    measured: BoolArray = kspace.any(axis=(1, 2), keepdims=True) & object_support(kspace, mask, maps)
    return measured


def _mean_maps(first: ComplexArray, second: ComplexArray) -> ComplexArray:
    """Return the mean of two estimates (coil, rows, columns), with the phase of the first in each pixel."""
    product = (second.conj() * first).sum(axis=0)
    size = np.abs(product)
    phase = np.divide(product, size, out=np.ones_like(product), where=size > 0)
    return normalise_maps(first + second * phase)


def _is_lattice(mask: BoolArray) -> bool:
    """Tell whether lines are sampled at regular distances: then maps and image are ambiguous."""
    if mask.shape[0] > 1 and mask.shape[1] > 1:
        return False
    distances = np.diff(np.flatnonzero(mask.ravel()))
    return len(np.unique(distances)) <= REGULAR_DISTANCES
