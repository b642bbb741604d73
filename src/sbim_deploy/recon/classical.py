"""Images without the network: methods of their own, what samplers start from, what is sent in their place."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np

from sbim_deploy.mri.combine import combine_sets, root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centre_pad, centred_ifft
from sbim_deploy.mri.nonuniform import to_grid
from sbim_deploy.mri.trajectories import sample_areas
from sbim_deploy.mri.wavelets import n_levels, padded_shape, shrink
from sbim_deploy.recon.prepare import SliceProblem, relative_residual
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers import plan
from sbim_deploy.samplers.conjugate_gradient import solve_proximal

CG_STEPS, CG_WEIGHT = 12, 0.01
# By benchmarks/fewer_calls.py: docs/samplers.md.
L1_STEPS, L1_WEIGHT = 80, 0.25


class Classical(StrEnum):
    """A reconstruction without the network."""

    ZERO_FILLED = plan.ZERO_FILLED
    CG_SENSE = "cg-sense"
    L1_WAVELET = plan.L1_WAVELET


def classical_image(
    problem: SliceProblem, method: Classical, check: Callable[[], None] = lambda: None
) -> tuple[ComplexArray, float]:
    """Return the image (rows, columns) in units of k-space, and its residual |A x - y| / |y|.

    ``check`` is called in every step; what it raises ends the work.
    """
    image = solve_classically(problem, method, check)
    combined = combine_sets(image) if problem.n_sets > 1 else image
    cropped = np.ascontiguousarray(centre_crop(combined, problem.image_shape))
    return cropped, relative_residual(problem, image)


def solve_classically(
    problem: SliceProblem, method: Classical, check: Callable[[], None] = lambda: None
) -> ComplexArray:
    """Return the image of a slice on the grid of its k-space, in its units; with sets of maps, one of each.

    ``ZERO_FILLED`` is the minimum-variance unbiased estimate of the measured data. ``CG_SENSE`` minimises
    |A x - y|^2 + 0.01 |x|^2 by 12 conjugate-gradient steps (Pruessmann et al. 2001, doi:10.1002/mrm.1241).
    ``L1_WAVELET`` minimises |A x - y|^2 / 2 + 0.25 sigma_y |W x|_1 (Lustig, Donoho, Pauly 2007,
    doi:10.1002/mrm.21391) by 80 steps of FISTA, where sigma_y is the noise of each part of k-space and W
    the wavelets' details.
    """
    match method:
        case Classical.ZERO_FILLED:
            return problem.mvue
        case Classical.CG_SENSE:
            return _cg_sense(problem, check)
        case Classical.L1_WAVELET:
            return l1_wavelet(problem, L1_WEIGHT * problem.noise_on_grid, check=check)


def l1_wavelet(
    problem: SliceProblem,
    weight: float,
    n_steps: int = L1_STEPS,
    check: Callable[[], None] = lambda: None,
) -> ComplexArray:
    """Return the image that minimises |A x - y|^2 / 2 + weight |W x|_1, in the units and shape of the MVUE.

    By FISTA (Beck and Teboulle 2009, doi:10.1137/080716542, with constant step size), where the wavelets move
    by other rows and columns in every step. The moves are the same in every run. The image is 0 where every
    map is.
    """
    if not problem.maps.any():  # a slice of a volume beside the object
        return np.zeros_like(problem.mvue)
    sense = problem.operator
    shape = sense.image_shape
    levels = n_levels(shape)
    padded = padded_shape(shape, levels)
    step = np.float32(1 / (sense.norm_bound * _norm_bound(problem.maps)))
    backprojection = sense.adjoint(problem.kspace)
    image = centre_pad(problem.mvue, padded)
    ahead, momentum = image.copy(), 1.0
    gradient = np.empty_like(backprojection)
    shifts = np.random.default_rng(0).integers(0, 2**levels, (n_steps, 2))
    for down, right in shifts.tolist():
        check()
        seen = centre_crop(ahead, shape)
        sense.normal(seen, gradient)
        gradient -= backprojection
        gradient *= step
        seen -= gradient
        following = shrink(ahead, float(step) * weight, levels, (down, right))
        before, momentum = momentum, (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        np.subtract(following, image, out=ahead)
        ahead *= np.float32((before - 1) / momentum)
        ahead += following
        image = following
    support = np.any(problem.maps != 0, axis=-3)
    found: ComplexArray = centre_crop(image, shape) * support
    return found


def coil_magnitude(
    kspace: ComplexArray, image_shape: tuple[int, int], places: FloatArray | None = None
) -> FloatArray:
    """Return the root sum of squares of the zero-filled coil images, cropped: it needs no maps.

    k-space is (coil, rows, columns), the image is (rows, columns). Where ``places`` are given,
    (readout, sample, 2) in cycles per field of view, k-space is (coil, readout, sample), and the coil images
    are those of gridding, each sample by the area of k-space that it stands for after one round
    (:func:`sbim_deploy.mri.trajectories.sample_areas`).
    """
    if places is None:
        magnitude = root_sum_of_squares(centred_ifft(kspace))
        return np.ascontiguousarray(centre_crop(magnitude, image_shape))
    areas = sample_areas(places, (kspace != 0).any(axis=0), image_shape, n_rounds=1)
    power = np.zeros(image_shape)
    for samples in kspace:  # one at a time, since there may be no memory for more
        power += np.square(np.abs(to_grid(samples * areas, places, image_shape)))
    with np.errstate(over="ignore"):
        return np.sqrt(power).astype(np.float32)


def _norm_bound(maps: ComplexArray) -> float:
    """Return the largest eigenvalue of S^H S over all pixels, which A^H A does not exceed on a grid.

    It is 1 for maps of unit root-sum-of-squares, and for sets of them that are orthogonal in every pixel;
    maps of whitened coils may have more.
    """
    powers = np.sum(maps.real**2 + maps.imag**2, axis=-3)
    if maps.ndim == 3:
        return float(powers.max())
    first, second = powers
    overlap = np.abs(np.sum(maps[0].conj() * maps[1], axis=0))
    return float(((first + second) / 2 + np.hypot((first - second) / 2, overlap)).max())


def _cg_sense(problem: SliceProblem, check: Callable[[], None]) -> ComplexArray:
    sense = problem.operator
    backprojection = sense.adjoint(problem.kspace)[None]

    def normal(x: ComplexArray, out: ComplexArray) -> ComplexArray:
        check()
        sense.normal(x[0], out[0])
        return out

    weight = np.full(1, CG_WEIGHT, np.float32)
    start = np.zeros_like(backprojection)
    image: ComplexArray = solve_proximal(normal, backprojection, start, weight, CG_STEPS)[0]
    return image
