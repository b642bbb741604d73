"""How far the images are from the truth where nothing was measured, told by samples that are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sbim_deploy.mri.combine import mvue, root_sum_of_squares
from sbim_deploy.mri.masks import calibration_block
from sbim_deploy.mri.noncartesian import NonCartesianSense, Trajectory
from sbim_deploy.mri.trajectories import sample_areas
from sbim_deploy.recon.grid import SliceBatch
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray, IntArray
from sbim_deploy.samplers.conjugate_gradient import solve_proximal
from sbim_deploy.samplers.noise import keyed_generator

LEFT_OUT = 4  # of so many samples outside the calibration one is left out
# Samples are numbered from 0, so this number is none of theirs.
LEFT_OUT_KEY = 2**32 - 2
FIRST_SPREAD = 0.04  # in units of the scale
ROUNDS, PROBES, PROBE_N_CG = 3, 4, 20


def leave_out(problem: SliceProblem, seed: int) -> SliceProblem:
    """Return a slice without every fourth of its lines, or samples, outside the calibration.

    The lines at both ends of the calibration go too, as far as the pattern of the lines outside would have a
    gap there. It is the slice itself where it has no four lines outside. Of a trajectory every fourth readout
    is left out, as a whole.
    """
    if problem.trajectory is not None:
        return _leave_out_readouts(problem, problem.trajectory, seed)
    outside = _outside_calibration(problem.mask, problem.kspace.shape[-2:])
    places = np.flatnonzero(outside)
    if places.size < LEFT_OUT:
        return problem
    first = keyed_generator(seed, problem.index, LEFT_OUT_KEY).integers(LEFT_OUT)
    mask = problem.mask.copy()
    mask.flat[places[first::LEFT_OUT]] = False
    if 1 in mask.shape:
        mask.flat[_gaps_at_calibration(places, np.flatnonzero(problem.mask & ~outside))] = False
    kspace = problem.kspace * mask
    return replace(problem, kspace=kspace, mask=mask, mvue=_image(kspace, problem.maps))


def _leave_out_readouts(problem: SliceProblem, trajectory: Trajectory, seed: int) -> SliceProblem:
    if len(problem.mask) < LEFT_OUT:
        return problem
    first = keyed_generator(seed, problem.index, LEFT_OUT_KEY).integers(LEFT_OUT)
    mask = problem.mask.copy()
    mask[first::LEFT_OUT] = False
    shape = (problem.maps.shape[-2], problem.maps.shape[-1])
    fewer = replace(trajectory, areas=sample_areas(trajectory.places, mask, shape))
    kept = replace(problem, kspace=problem.kspace * mask, mask=mask, trajectory=fewer)
    return replace(kept, mvue=kept.operator.adjoint(kept.kspace))


def model_error(batch: SliceBatch, kept: SliceBatch, images: ComplexArray, seed: int) -> FloatArray:
    """Return the standard deviation of what the denoised image gets wrong (slice,), in units of k-space.

    ``images`` were made of ``kept``, the slices of ``batch`` after :func:`leave_out`. What they predict of
    the samples that were left out is compared with those, and what is beyond their noise is the images'
    error. It is told as that of each part of a denoised image with a white error, from which the kept data
    would lead as far from them. It is 0 where nothing was left out.

    The error is not white: it falls from the calibration outwards as the image does. And a line of the
    pattern does not see the ghosts that the pattern leaves open, which the calibration's lines between do. So
    the lines outside tell too little of it, most at high accelerations, and those of the calibration, where
    it is largest, too much: it is the geometric mean of what both tell.
    """
    masks, shape = batch.sense.mask & ~kept.sense.mask, batch.kspace.shape[-2:]
    if isinstance(batch.sense, NonCartesianSense):
        return _spread(batch, kept, images, masks, seed)
    outside = np.stack([_outside_calibration(mask, shape) for mask in batch.sense.mask])
    spreads = [_spread(batch, kept, images, masks & part, seed) for part in (outside, ~outside)]
    both: FloatArray = np.sqrt(spreads[0] * spreads[1])
    alone: FloatArray = np.maximum(*spreads)
    return np.where(both > 0, both, alone)


def _spread(
    batch: SliceBatch, kept: SliceBatch, images: ComplexArray, mask: BoolArray, seed: int
) -> FloatArray:
    """Return the standard deviation of a white error (slice,) that samples of a mask (slice, ...) tell of."""
    if not mask.any():
        return np.zeros(len(mask), dtype=np.float32)
    left_out = batch.sense.with_mask(mask)
    noise = np.array([problem.noise for problem in batch.problems], dtype=np.float32)
    measured = batch.kspace * left_out.mask[..., None, :, :]
    count = np.count_nonzero(measured, axis=(-3, -2, -1)).astype(np.float32)
    error = left_out.forward(images) - measured
    found = np.maximum(_energy(error) - 2 * noise**2 * count, 0)
    spread = np.float32(FIRST_SPREAD) * batch.scales
    generators = [keyed_generator(seed, problem.index, LEFT_OUT_KEY) for problem in batch.problems]
    # The energy goes with the square of the spread, but for what the kept data say of the rest: hence rounds.
    for _ in range(ROUNDS):
        weight = np.divide(noise, spread, out=np.zeros_like(noise), where=spread > 0) ** 2
        predicted = np.zeros_like(found)
        for _ in range(PROBES):
            data = draw_normals(generators, batch.kspace.shape, noise)
            centre = draw_normals(generators, batch.shape, spread)
            solution = solve_proximal(kept.sense.normal, kept.sense.adjoint(data), centre, weight, PROBE_N_CG)
            predicted += _energy(left_out.forward(solution)) / PROBES
        spread = spread * np.sqrt(np.divide(found, predicted, out=np.zeros_like(found), where=predicted > 0))
    return spread


def draw_normals(
    generators: list[np.random.Generator], shape: tuple[int, ...], scale: FloatArray
) -> ComplexArray:
    """Return complex normals (slice, ...), with the standard deviation ``scale`` (slice,) in each part."""
    drawn = np.empty(shape, dtype=np.complex64)
    for generator, part, factor in zip(generators, drawn, scale, strict=True):
        generator.standard_normal(dtype=np.float32, out=part.view(np.float32))
        part *= factor
    return drawn


def _outside_calibration(mask: BoolArray, shape: tuple[int, int]) -> BoolArray:
    """Return the samples of a mask that lie outside its calibration."""
    block = calibration_block(mask, shape)
    outside = mask.copy()
    # Along an axis that the mask does not have, every sample is of the block.
    outside[
        tuple(part if size > 1 else slice(None) for part, size in zip(block, outside.shape, strict=True))
    ] = False
    return outside


def _gaps_at_calibration(outside: IntArray, calibration: IntArray) -> IntArray:
    """Return the lines at both ends of the calibration up to where the pattern would have its next line.

    The pattern's step is the median of the lines' distances; each end is less than half the calibration.
    """
    first, last, most = calibration[0], calibration[-1], (len(calibration) - 1) // 2
    below, above = outside[outside < first], outside[outside > last]
    steps = np.concatenate([np.diff(below), np.diff(above)])
    if not len(steps):
        return calibration[:0]
    step = int(np.median(steps))
    n_low = min(below[-1] + step - first, most) if len(below) else 0
    n_high = min(last - (above[0] - step), most) if len(above) else 0
    return np.concatenate([calibration[: max(n_low, 0)], calibration[len(calibration) - max(n_high, 0) :]])


def _image(kspace: ComplexArray, maps: ComplexArray) -> ComplexArray:
    """Return the MVUE in the units of the image whose coil images are those of the maps."""
    norm = root_sum_of_squares(maps)
    combined = mvue(kspace, maps)
    image: ComplexArray = np.divide(combined, norm, out=np.zeros_like(combined), where=norm > 0)
    return image


def _energy(kspace: ComplexArray) -> FloatArray:
    energy: FloatArray = np.sum(kspace.real**2 + kspace.imag**2, axis=(-3, -2, -1))
    return energy
