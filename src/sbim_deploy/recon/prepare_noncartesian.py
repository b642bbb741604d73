"""From samples along a trajectory to the inverse problem that a sampler solves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.mri.combine import percentile_scale, root_sum_of_squares
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.mri.map_choice import AUTO, METHOD_NAMES, MapEstimate, estimate_maps
from sbim_deploy.mri.masks import MIN_CALIB_LINES, calibration_block
from sbim_deploy.mri.noncartesian import NonCartesianSense, Trajectory, point_spread_spectrum
from sbim_deploy.mri.readout_delays import find_delays
from sbim_deploy.mri.readout_noise import measure_readout_noise
from sbim_deploy.mri.trajectories import grid_coverage, sample_areas
from sbim_deploy.mri.whitening import mix_coils
from sbim_deploy.recon.prepare import (
    GIVEN,
    GIVEN_AND_WHITENED,
    SliceProblem,
    check_magnitude,
    fit_maps,
    guessed_noise,
)
from sbim_deploy.recon.unlike_coils import mixing_of_given_maps, noise_of_coils, shade_as_unmixed
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray
from sbim_deploy.samplers.conjugate_gradient import solve_proximal

# Samples of the grid that the trajectory covers at least so far take part in the estimate of the maps. With
# them all nonlinear inversion gives truer maps than with the block in the centre that is covered in full
# (docs/non-cartesian.md).
COVERED = 0.7
GRIDDING_STEPS, GRIDDING_WEIGHT = 10, 0.01
MAX_KEPT_SAMPLES = 2**21  # of a trajectory whose areas are kept for the next slice


def prepare_trajectory_slice(
    kspace: ComplexArray,
    places: FloatArray,
    image_shape: tuple[int, int],
    index: int = 0,
    maps: ComplexArray | None = None,
    noise: float | None = None,
    map_method: str = AUTO,
    noise_source: str = GIVEN,
    check: Callable[[], None] = lambda: None,
    whitening: ComplexArray | None = None,
) -> SliceProblem:
    """Check a slice, weigh its samples by the area that they count for, whiten its coils, and find its maps.

    k-space is complex64 (coil, readout, sample), of which a sample that is zero in every coil was not
    measured; ``places`` are (readout, sample, 2) in cycles per field of view, ``image_shape`` is (rows,
    columns). The other arguments are those of :func:`sbim_deploy.recon.prepare.prepare_slice`.

    Raises:
        InputError: nothing was sampled, k-space is not what it must be, no maps can be estimated, or they
            have another shape.
        BackendMissingError: finufft is not installed.
    """
    if kspace.ndim != 3 or places.shape != (*kspace.shape[1:], 2):
        raise InputError(
            f"slice {index}: k-space has shape {kspace.shape} and its trajectory {places.shape}, expected "
            "(coil, readout, sample) and (readout, sample, 2)"
        )
    measured: BoolArray = (kspace != 0).any(axis=0)
    if not measured.any():
        raise InputError(f"slice {index}: k-space is zero everywhere: leave the slice out")
    check_magnitude(kspace, index)
    trajectory = weigh_samples(places, measured, image_shape, check)
    check()
    found = measure_readout_noise(kspace, places)
    faults: tuple[Fault, ...] = tuple(find_delays(kspace, places))
    coils = noise_of_coils(found, noise, noise_source)
    level, source, mixing = coils.level, coils.source, coils.mixing
    faults += coils.faults
    if mixing is not None:
        kspace = mix_coils(mixing, kspace)
    check()
    map_source = GIVEN if whitening is None else GIVEN_AND_WHITENED
    if maps is not None:
        mixing = mixing_of_given_maps(whitening, mixing)
        maps = fit_maps(maps, (len(kspace), *image_shape), index)
        maps = maps if mixing is None else mix_coils(mixing, maps)
    else:
        estimate = _estimate_maps(kspace, trajectory, image_shape, map_method, level, index, check)
        map_source = f"{METHOD_NAMES[estimate.method]} of gridded samples"
        faults += _few_lines(estimate)
        maps = estimate.maps if mixing is None else shade_as_unmixed(estimate.maps, mixing)
    check()
    gridded = NonCartesianSense(maps, trajectory.areas, trajectory.places).adjoint(kspace)
    norm = root_sum_of_squares(maps)
    power = norm if mixing is None else norm**2
    mvue: ComplexArray = np.divide(gridded, power, out=np.zeros_like(gridded), where=power > 0)
    scale = percentile_scale(mvue)
    if scale == 0:
        raise InputError(f"slice {index}: the maps are zero where the image is: do they belong to it?")
    if noise is None:
        faults += tuple(guessed_noise(found, scale))
    return SliceProblem(
        index, kspace, maps, measured, mvue, scale, level, image_shape, source, map_source, faults, trajectory
    )


def gridded_kspace(
    kspace: ComplexArray,
    trajectory: Trajectory,
    shape: tuple[int, int],
    check: Callable[[], None] = lambda: None,
) -> ComplexArray:
    """Return k-space (coil, rows, columns) on a grid, of the coil images that explain the samples best."""
    n_coils = len(kspace)
    spectrum = point_spread_spectrum(trajectory.areas, trajectory.places, shape)
    alike = [
        np.broadcast_to(each, (n_coils, *each.shape))
        for each in (trajectory.areas, trajectory.places, spectrum)
    ]
    operator = NonCartesianSense(np.ones((n_coils, 1, *shape), np.complex64), *alike)

    def normal(x: ComplexArray, out: ComplexArray) -> ComplexArray:
        check()
        return operator.normal(x, out)

    backprojection = operator.adjoint(kspace[:, None])
    weight = np.full(n_coils, GRIDDING_WEIGHT, np.float32)
    images = solve_proximal(normal, backprojection, np.zeros_like(backprojection), weight, GRIDDING_STEPS)
    gridded: ComplexArray = centred_fft(images)
    return gridded


def _estimate_maps(
    kspace: ComplexArray,
    trajectory: Trajectory,
    shape: tuple[int, int],
    method: str,
    noise: float,
    index: int,
    check: Callable[[], None],
) -> MapEstimate:
    covered = grid_coverage(trajectory.places, trajectory.areas, shape) > COVERED
    gridded = gridded_kspace(kspace, trajectory, shape, check) * covered
    try:
        return estimate_maps(gridded, covered, method, 1, noise, check)
    except ValueError as error:
        raise InputError(f"slice {index}: {error}: give them with --maps") from error


def _few_lines(estimate: MapEstimate) -> tuple[Fault, ...]:
    if estimate.n_lines >= MIN_CALIB_LINES:
        return ()
    message = (
        f"the trajectory covers only {estimate.n_lines} lines of k-space's centre without gaps, few for coil "
        "maps: the image is as wrong as they are; give better ones with --maps"
    )
    return (Fault("few calibration lines", message, False),)


def describe_trajectory(trajectory: Trajectory, shape: tuple[int, int]) -> dict[str, Any]:
    """Return how a slice was sampled, as a run's record has it.

    The acceleration is that of :func:`trajectory_acceleration`.
    """
    block = calibration_block(grid_coverage(trajectory.places, trajectory.areas, shape) > COVERED, shape)
    return {
        "acceleration": trajectory_acceleration(trajectory, shape),
        "calibration_lines": min(int(part.stop - part.start) for part in block),
    }


def trajectory_acceleration(trajectory: Trajectory, shape: tuple[int, int]) -> float:
    """Return how many samples the grid has for each one of a grid that the samples are worth.

    A trajectory that is a circle leaves the corners out, so that it begins at 1.27.
    """
    return float(math.prod(shape) / trajectory.areas.sum(dtype=np.float64))


def weigh_samples(
    places: FloatArray,
    measured: BoolArray,
    shape: tuple[int, int],
    check: Callable[[], None] = lambda: None,
) -> Trajectory:
    """Return a trajectory with its areas; those of the last two are kept, since slices share them as a rule.

    ``check`` is called between the parts of the work; what it raises ends it.
    """
    values = places.astype(np.float32)
    if measured.size > MAX_KEPT_SAMPLES:
        return Trajectory(values, sample_areas(values, measured, shape, check))
    kept = _kept_trajectory(values.tobytes(), measured.tobytes(), measured.shape, shape)
    if not kept:
        kept.append(Trajectory(values, sample_areas(values, measured, shape, check)))
    return kept[0]


@lru_cache(maxsize=2)
def _kept_trajectory(
    _places: bytes, _measured: bytes, _sizes: tuple[int, int], _shape: tuple[int, int]
) -> list[Trajectory]:
    """Return where a trajectory is kept, empty before it is weighed."""
    return []
