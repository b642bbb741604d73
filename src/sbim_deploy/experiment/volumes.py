"""Simulated volumes: undersampled in both phase encodes, kept on disk slice by slice, and shown."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.scans import Setting, all_settings, scan_names
from sbim_deploy.experiment.settings import TRUE, ExperimentSettings
from sbim_deploy.io.layouts import Reading
from sbim_deploy.recon.prepare import relative_residual
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.scan import Tally, open_scan, readable_problems
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate_volume import sampled_plane, simulate_volume, volume_image, volume_magnitude
from sbim_deploy.runs.through_plane import KeptSlices
from sbim_deploy.runs.whole_volume import open_input, plane_directions_of

WORK = "work"
LAYOUT = "slice,coil,row,column"


@dataclass(frozen=True, eq=False)
class UndersampledVolume:
    """A volume whose slices along the readout wait on disk, prepared as ``recon --dimensions 3`` does.

    ``directions`` are the axes that planes of a method through planes lie across, ``reference`` is the
    magnitude (slice, rows, columns) and ``acceleration`` the effective one.
    """

    slices: KeptSlices
    directions: tuple[int, ...]
    reference: FloatArray
    acceleration: float


def check_volumes(settings: ExperimentSettings) -> None:
    """Read what the volumes are of, and draw every mask, before hours of work begin.

    Raises:
        InputError: a file or a pattern will not do.
    """
    for scan in scan_names(settings):
        reference_volume(settings, scan, settings.scored[0])
    for setting in all_settings(settings):
        try:
            sampled_plane(settings.volume_settings(setting.pattern, setting.acceleration, settings.scored[0]))
        except ValueError as error:
            raise InputError(f"patterns has {setting.pattern}: cannot undersample: {error}") from error


def reference_volume(settings: ExperimentSettings, scan: str, index: int) -> FloatArray:
    """Return the true magnitude (slice, rows, columns) of a volume."""
    given = settings.volume_settings(settings.patterns[0], settings.accelerations[0], index)
    return np.abs(volume_image(given, _magnitude(settings, scan, given.shape)))


@contextmanager
def undersample_volume(
    settings: ExperimentSettings, setting: Setting, scan: str, index: int, folder: Path
) -> Iterator[UndersampledVolume]:
    """Simulate a volume, and prepare its slices, which are in a temporary file in ``folder`` meanwhile.

    Raises:
        InputError: there is no room, or a slice has too few calibration lines for the maps.
    """
    given = settings.volume_settings(setting.pattern, setting.acceleration, index)
    with (
        tempfile.TemporaryDirectory(dir=folder) as own,
        closing(KeptSlices(Path(own), given.size)) as slices,
    ):
        path = Path(own) / "scan.h5"
        magnitude = _magnitude(settings, scan, given.shape)
        acceleration = simulate_volume(path, given, magnitude=magnitude)
        maps = path if settings.maps == TRUE else None
        recon = ReconSettings(dimensions=3, reading=Reading(LAYOUT), maps=maps)
        with open_input(path, path, recon) as source, open_scan(source, recon) as opened:
            tally = Tally()
            for problem in readable_problems(opened.indices, opened, tally):
                slices.keep(problem.index, problem)
            together = any(method.through_plane for method in settings.methods)
            directions = plane_directions_of(opened.kspace, len(opened.indices)) if together else ()
        path.unlink()
        if tally.unread:
            raise InputError(f"{scan}, volume {index}: {next(iter(tally.unread.values()))}")
        reference = np.abs(volume_image(given, magnitude))
        yield UndersampledVolume(slices, directions, reference, acceleration)


def volume_residual(slices: KeptSlices, images: ComplexArray) -> float:
    """Return |A x - y| / |y| over what was measured of a volume; images are (slice, rows, columns)."""
    misfit = energy = 0.0
    for place, image in enumerate(images):
        problem = slices.read_kept(place)
        norm = float(np.linalg.norm(problem.kspace))
        energy += norm**2
        misfit += (relative_residual(problem, image) * norm) ** 2 if norm else 0.0
    return float(np.sqrt(misfit / energy))


def picture_of(volume: FloatArray) -> FloatArray:
    """Return the slice in the middle of a magnitude volume above the cut across all slices, as one image."""
    n_slices, n_rows, _ = volume.shape
    return np.concatenate([volume[n_slices // 2], volume[::-1, n_rows // 2]])


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for what is temporary; what a run left there that was killed is removed first."""
    path = folder / WORK
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _magnitude(settings: ExperimentSettings, scan: str, shape: tuple[int, int, int]) -> FloatArray | None:
    """Return what a volume is of, (slice, rows, columns); None is the head that ships."""
    assert settings.simulate is not None
    given = next((each for each in settings.simulate.objects if each.name == scan), None)
    if given is None or given.volume is None:
        return None
    return volume_magnitude(given.volume, shape)
