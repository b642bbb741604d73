"""Fully sampled slices with their references, and the problems that undersampling makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.settings import TRUE, ExperimentSettings
from sbim_deploy.experiment.simulation import BRAIN, Simulation
from sbim_deploy.kspace.fastmri import KspaceFile, open_kspace
from sbim_deploy.mri.masks import effective_acceleration, line_mask
from sbim_deploy.mri.phantom import shepp_logan
from sbim_deploy.mri.plane_masks import CAIPIRINHA, EQUISPACED, POISSON, RANDOM
from sbim_deploy.mri.trajectories import GOLDEN, RADIAL, SPIRAL, TRAJECTORIES
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice, trajectory_acceleration
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.pairing import reference_magnitude
from sbim_deploy.runs.simulate import (
    SimulateSettings,
    brain_slice,
    sample_along,
    simulate_object,
    simulate_truth,
    simulated_trajectory,
)
from sbim_deploy.runs.volume import volume_slice
from sbim_deploy.words import plural

SIMULATED = "simulated"
_IN_WORDS = {
    "equispaced": "equispaced lines",
    "random": "random lines",
    RADIAL: "radial spokes",
    GOLDEN: "golden-angle spokes",
    SPIRAL: "spirals",
}
_VOLUMES_IN_WORDS = {
    EQUISPACED: "regular lattices",
    CAIPIRINHA: "CAIPIRINHA lattices",
    POISSON: "Poisson-disc samples",
    RANDOM: "random samples",
}


@dataclass(frozen=True)
class FullSlice:
    """A slice before lines are taken away.

    k-space is (coil, rows, columns), ``reference`` the magnitude (rows, columns) of the cropped image,
    ``maps`` None where they are to be estimated.
    """

    scan: str
    index: int
    kspace: ComplexArray
    maps: ComplexArray | None
    reference: FloatArray


@dataclass(frozen=True)
class Setting:
    """One way to undersample: a pattern, of lines or a trajectory, and a nominal acceleration."""

    pattern: str
    acceleration: float

    @property
    def is_trajectory(self) -> bool:
        """Whether samples lie along a trajectory, and on no grid."""
        return self.pattern in TRAJECTORIES


def pattern_in_words(settings: ExperimentSettings, pattern: str) -> str:
    """Return what a pattern samples."""
    return (_VOLUMES_IN_WORDS if settings.dimensions == 3 else _IN_WORDS)[pattern]


def scan_names(settings: ExperimentSettings) -> list[str]:
    """Return the names that the scans have in the results, which are those of the objects or the files."""
    if settings.simulate is not None:
        return [each.name for each in settings.simulate.objects] or [SIMULATED]
    return [path.name for path in settings.kspace]


def shown_scans(settings: ExperimentSettings) -> list[str]:
    """Return the scans of which the page shows slices: every simulated one, or the first file."""
    names = scan_names(settings)
    return names if settings.simulate is not None else names[:1]


def all_settings(settings: ExperimentSettings) -> list[Setting]:
    """Return every pattern at every acceleration, in the order of the results."""
    return [Setting(pattern, r) for pattern in settings.patterns for r in settings.accelerations]


def check_paths(paths: Iterable[Path]) -> None:
    """Raise InputError for two files of one name: the results could not tell them apart."""
    names = [path.name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"kspace has two files of the name {name}: rename one")


def full_slices(settings: ExperimentSettings, indices: Iterable[int]) -> Iterator[FullSlice]:
    """Yield the slices of every scan.

    Raises:
        InputError: a file has no such slice, no reference or no maps, or was undersampled already.
    """
    for scan in scan_names(settings):
        for index in indices:
            yield full_slice(settings, scan, index)


def full_slice(settings: ExperimentSettings, scan: str, index: int) -> FullSlice:
    """Return one slice of a scan; see :func:`full_slices`."""
    if settings.simulate is not None:
        return _simulated(settings, settings.simulate, scan, index)
    path = next(path for path in settings.kspace if path.name == scan)
    with open_kspace(path) as file:
        _check_file(file, index, settings.maps)
        shape = file.recon_shape or (file.n_rows, file.n_columns)
        maps = file.read_maps(index) if settings.maps == TRUE else None
        if maps is not None and maps.ndim > 3:
            raise InputError(
                f"{file.path}: has {len(maps)} sets of maps, expected one: choose maps: estimated"
            )
        return FullSlice(scan, index, file.read_slice(index), maps, reference_magnitude(file, index, shape))


def undersample(full: FullSlice, setting: Setting, settings: ExperimentSettings) -> SliceProblem:
    """Take lines away from a slice, or sample it along a trajectory, and prepare it as ``recon`` does.

    A trajectory has so many times fewer readouts than leave no gap.

    Raises:
        InputError: more acceleration than there are lines, or too few calibration lines for the maps.
        BackendMissingError: finufft is not installed, which a trajectory takes.
    """
    if setting.is_trajectory:
        return _along_trajectory(full, setting, settings)
    try:
        mask = line_mask(
            full.kspace.shape[-1],
            setting.acceleration,
            setting.pattern,
            seed=settings.seed,
            convention=settings.mask_convention,
        )
    except ValueError as error:
        raise InputError(f"{full.scan}: cannot undersample: {error}") from error
    shape = (full.reference.shape[0], full.reference.shape[1])
    return prepare_slice(full.kspace, full.index, mask, full.maps, shape)


def problem_acceleration(problem: SliceProblem) -> float:
    """Return how many samples the grid has for each one that was measured, or is worth as much."""
    if problem.trajectory is None:
        return effective_acceleration(problem.mask)
    return trajectory_acceleration(problem.trajectory, problem.image_shape)


def _along_trajectory(full: FullSlice, setting: Setting, settings: ExperimentSettings) -> SliceProblem:
    assert settings.simulate is not None  # the settings refuse trajectories of files
    given = replace(
        _simulate_settings(settings, settings.simulate),
        acceleration=setting.acceleration,
        trajectory=setting.pattern,
    )
    magnitude = _object_slice(settings.simulate, full.scan, full.index)
    places = simulated_trajectory(given)
    samples = sample_along(simulate_truth(magnitude, given, full.index), places, given.noise)
    return prepare_trajectory_slice(samples, places, (given.size, given.size), full.index, full.maps)


def _simulated(settings: ExperimentSettings, simulation: Simulation, scan: str, index: int) -> FullSlice:
    simulated = _simulate_settings(settings, simulation)
    magnitude = _object_slice(simulation, scan, index)
    full = simulate_object(magnitude, simulated, np.ones(simulation.size, dtype=np.bool_), index)
    maps = full.maps if settings.maps == TRUE else None
    return FullSlice(scan, index, full.kspace, maps, np.abs(full.reference))


def _simulate_settings(settings: ExperimentSettings, simulation: Simulation) -> SimulateSettings:
    return SimulateSettings(
        n_coils=simulation.coils,
        size=simulation.size,
        acceleration=1,
        noise=simulation.noise,
        seed=settings.seed,
    )


def _object_slice(simulation: Simulation, scan: str, index: int) -> FloatArray:
    if not simulation.objects:
        return brain_slice(index, simulation.size)
    simulated = next(each for each in simulation.objects if each.name == scan)
    if simulated.phantom == BRAIN:
        return brain_slice(index, simulation.size)
    if simulated.volume is None:
        return shepp_logan((simulation.size, simulation.size))
    return volume_slice(simulated.volume, simulated.plane, simulated.volume_slices[index], simulation.size)


def _check_file(file: KspaceFile, index: int, maps: str) -> None:
    if index >= file.n_slices:
        raise InputError(
            f"{file.path}: has {plural(file.n_slices, 'slice')}, the experiment asks for slice {index}"
        )
    if file.reference_name is None:
        raise InputError(f"{file.path}: has no reference image, there is nothing to score against")
    if maps == TRUE and not file.has_maps:
        raise InputError(f"{file.path}: has no s_maps: give a file with them, or choose maps: estimated")
    if file.mask is not None and not file.mask.all():
        raise InputError(f"{file.path}: was undersampled already, expected all lines")
