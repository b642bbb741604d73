"""From the raw k-space of a slice to the inverse problem that a sampler solves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.mri.combine import mvue, normalise_maps, percentile_scale
from sbim_deploy.mri.espirit import espirit_maps
from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft
from sbim_deploy.mri.masks import MIN_CALIB_LINES, calibration_block, compact_mask, sampled_mask
from sbim_deploy.mri.noise_level import estimate_noise
from sbim_deploy.mri.sense import Sense
from sbim_deploy.records import BoolArray, ComplexArray

MIN_KERNEL_WIDTH, MAX_KERNEL_WIDTH = 3, 6


@dataclass(frozen=True)
class SliceProblem:
    """One slice, ready to be reconstructed.

    k-space (coil, rows, columns) is zero where it was not sampled; maps are of unit root-sum-of-squares
    where they are not zero; the mask is (1, columns), (rows, 1) or (rows, columns). ``scale`` is the 99th
    percentile of |MVUE|, ``noise`` the standard deviation of each part of k-space, ``image_shape`` what the
    image is cropped to at the end.
    """

    index: int
    kspace: ComplexArray
    maps: ComplexArray
    mask: BoolArray
    mvue: ComplexArray
    scale: float
    noise: float
    image_shape: tuple[int, int]


def prepare_slice(
    kspace: ComplexArray,
    index: int = 0,
    mask: BoolArray | None = None,
    maps: ComplexArray | None = None,
    image_shape: tuple[int, int] | None = None,
    calibration: ComplexArray | None = None,
) -> SliceProblem:
    """Check a slice, crop its readout oversampling, and find its maps, its MVUE and its scale.

    Args:
        kspace: complex64 (coil, rows, columns), readout along the rows.
        index: the slice's number, which keys its noise.
        mask: (columns,), (1, columns), (rows, 1) or (rows, columns); None takes what is not zero.
        maps: (coil, rows, columns), at the rows of k-space or of ``image_shape``; None estimates them by
            ESPIRiT from the calibration lines.
        image_shape: (rows, columns) of the image; None is the grid of k-space.
        calibration: k-space of the same shape to estimate the maps from; None takes ``kspace`` itself.

    Raises:
        InputError: nothing was sampled, no maps and no calibration lines, or maps or calibration of another
            shape.
    """
    if calibration is not None and calibration.shape != kspace.shape:
        raise InputError(
            f"slice {index}: calibration has shape {calibration.shape}, expected {kspace.shape}, k-space's"
        )
    image_shape = image_shape or (kspace.shape[-2], kspace.shape[-1])
    mask = measured_mask(kspace, index, mask)
    kspace = kspace * mask
    if mask.shape[0] == 1:
        kspace = _crop_readout(kspace, image_shape[0])
    if maps is not None:
        maps = _fit_maps(maps, kspace.shape, index)
    elif calibration is not None:
        maps = _separate_maps(calibration, kspace.shape[-2:], index)
    else:
        maps = _estimate_maps(kspace, mask, index)
    combined = mvue(kspace, maps)
    scale = percentile_scale(combined)
    if scale == 0:
        raise InputError(f"slice {index}: the maps are zero where the image is: do they belong to it?")
    return SliceProblem(
        index,
        kspace,
        maps,
        mask,
        combined,
        scale,
        estimate_noise(kspace),
        image_shape,
    )


def relative_residual(problem: SliceProblem, image: ComplexArray) -> float:
    """Return |A x - y| / |y| over what was measured of a slice, for an image that is not cropped yet."""
    difference = Sense(problem.maps, problem.mask).forward(image) - problem.kspace
    return float(np.linalg.norm(difference) / np.linalg.norm(problem.kspace))


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
    if n_rows >= kspace.shape[-2]:
        return kspace
    image = centred_ifft(kspace, axes=(-2,))
    return centred_fft(centre_crop(image, (n_rows, kspace.shape[-1])), axes=(-2,))


def _estimate_maps(kspace: ComplexArray, mask: BoolArray, index: int) -> ComplexArray:
    rows, columns = kspace.shape[-2:]
    block = calibration_block(mask, (rows, columns))
    calibration = kspace[:, block[0], block[1]]
    width = min(calibration.shape[-2:])
    if width < MIN_CALIB_LINES:
        raise InputError(
            f"slice {index}: {width} calibration lines in the centre of k-space, expected at least "
            f"{MIN_CALIB_LINES} to estimate the coil maps: give them with --maps"
        )
    # Few lines leave few windows for a large kernel: half the width gave the truest maps at 5 to 12 lines.
    kernel_width = min(max(width // 2, MIN_KERNEL_WIDTH), MAX_KERNEL_WIDTH)
    return espirit_maps(calibration, (rows, columns), kernel_width=kernel_width)


def _separate_maps(calibration: ComplexArray, shape: tuple[int, ...], index: int) -> ComplexArray:
    mask = sampled_mask(calibration)
    if mask.shape[0] == 1:
        calibration = _crop_readout(calibration, shape[0])
    return centre_crop(_estimate_maps(calibration, mask, index), shape)


def _fit_maps(maps: ComplexArray, shape: tuple[int, ...], index: int) -> ComplexArray:
    n_coils, rows, columns = shape
    if maps.ndim != 3 or (maps.shape[0], maps.shape[2]) != (n_coils, columns) or maps.shape[1] < rows:
        raise InputError(
            f"slice {index}: maps have shape {maps.shape}, expected {(n_coils, rows, columns)} as k-space has"
        )
    return normalise_maps(centre_crop(maps, (rows, columns)))
