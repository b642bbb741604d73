"""Where the object is, and how much of the samples a set of coil maps explains, without any truth.

Both come from the regularised SENSE image at low resolution. Maps of unit norm where there is no object let
the background take up what belongs into the object: with maps of zero there, the undersampled problem has
fewer unknowns. BART's `ecalib -c` crops its maps for the same reason.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.conjugate_gradients import conjugate_gradients
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.mri.sense import Sense
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray

COARSE_GRID = 64  # samples along each axis
REGULARISATION, N_CG = 3e-3, 20
CG_TOLERANCE = float(np.finfo(np.float32).eps)
SMOOTHING, MARGIN = 1.5, 3  # in pixels of the coarse grid
BRIGHT_SHARE, NOISE_FACTOR = 0.1, 3.0
# Leaving out noise alone raises the misfit by up to 1.14 on simulated heads, leaving out the rim of a head by
# 2.3 or more.
MAX_MISFIT_RATIO = 1.15


def object_support(kspace: ComplexArray, mask: BoolArray, maps: ComplexArray) -> BoolArray:
    """Return where the object is, (rows, columns), with a margin.

    What is darker than three times the darkest tenth of the image and a tenth of its brightest parts is
    no object, unless object surrounds it. Where the samples are not explained as well without it, the whole
    grid is returned. The arguments are those of :func:`data_misfit`; the maps are of unit norm everywhere.
    """
    coarse_kspace, coarse_mask, coarse_maps = _coarse(kspace, mask, maps)
    magnitude, misfit = _sense_image(coarse_kspace, coarse_mask, coarse_maps)
    smooth = scipy.ndimage.gaussian_filter(magnitude, SMOOTHING, mode="wrap")
    dark, bright = np.percentile(smooth, [10, 99])
    inside = scipy.ndimage.binary_fill_holes(smooth > min(BRIGHT_SHARE * bright, NOISE_FACTOR * dark))
    inside = scipy.ndimage.binary_dilation(inside, iterations=MARGIN)
    _, misfit_inside = _sense_image(coarse_kspace, coarse_mask, coarse_maps * inside)
    if misfit_inside > MAX_MISFIT_RATIO * misfit:
        return np.ones(kspace.shape[1:], dtype=np.bool_)
    rows, columns = (_nearest(m, n) for m, n in zip(inside.shape, kspace.shape[1:], strict=True))
    support: BoolArray = inside[np.ix_(rows, columns)]
    return support


def data_misfit(kspace: ComplexArray, mask: BoolArray, maps: ComplexArray) -> float:
    """Return |A x - y| / |y| over the central samples, for the image x that fits them best.

    Args:
        kspace: (coil, rows, columns), centred, zero where it was not sampled, in any unit.
        mask: (1, columns), (rows, 1) or (rows, columns).
        maps: (coil, rows, columns), or (set, coil, rows, columns).
    """
    return _sense_image(*_coarse(kspace, mask, maps))[1]


def _coarse(
    kspace: ComplexArray, mask: BoolArray, maps: ComplexArray
) -> tuple[ComplexArray, BoolArray, ComplexArray]:
    """Return the centre of k-space, its mask, and the maps on its grid."""
    shape = kspace.shape[1:]
    grid = [min(n, COARSE_GRID) for n in shape]
    coarse_mask = centre_crop(mask, [min(n, m) for n, m in zip(mask.shape, grid, strict=True)])
    rows, columns = (_nearest(n, m) for n, m in zip(shape, grid, strict=True))
    return centre_crop(kspace, grid) * coarse_mask, coarse_mask, maps[..., rows[:, None], columns]


def _nearest(n_from: int, n_to: int) -> NDArray[np.intp]:
    """Return which of ``n_from`` pixels is nearest to each of ``n_to`` over the same field of view."""
    positions = (np.arange(n_to) - n_to // 2) * (n_from / n_to)
    indices: NDArray[np.intp] = (np.rint(positions).astype(np.intp) + n_from // 2) % n_from
    return indices


def _sense_image(kspace: ComplexArray, mask: BoolArray, maps: ComplexArray) -> tuple[FloatArray, float]:
    """Return the magnitude of the regularised SENSE image and the misfit of the samples."""
    sense = Sense(maps, mask)

    def normal(image: ComplexArray) -> ComplexArray:
        return sense.normal(image) + np.float32(REGULARISATION) * image

    data = sense.adjoint(kspace)
    goal = CG_TOLERANCE**2 * np.vdot(data, data).real
    image = conjugate_gradients(normal, data, goal, N_CG)
    left = np.linalg.norm(sense.forward(image) - kspace)
    magnitude = root_sum_of_squares(image) if sense.has_sets else np.abs(image)
    return magnitude, float(left / (np.linalg.norm(kspace) or 1))
