"""What a run does otherwise where samples lie along a trajectory, and not on a grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.along_trajectory import NonCartesianKspace
from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.models.folder import Model
from sbim_deploy.recon.orientations import count_orientations
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.prepare_noncartesian import (
    describe_trajectory,
    prepare_trajectory_slice,
    weigh_samples,
)
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, SCORE_GRAPH
from sbim_deploy.records import ComplexArray
from sbim_deploy.runs.settings import ReconSettings


def settings_for(kspace: KspaceSource, settings: ReconSettings) -> ReconSettings:
    """Return the settings with the graph for a source: the default one takes slices on a grid, one by one."""
    needs_score = settings.through_plane or isinstance(kspace, NonCartesianKspace)
    if needs_score and settings.graph == DEFAULT_GRAPH and settings.method is None:
        return replace(settings, graph=SCORE_GRAPH)
    return settings


def check_along_trajectory(settings: ReconSettings, path: Path) -> None:
    """Refuse what does not go with samples along a trajectory.

    Raises:
        InputError: the graph takes a grid, lines are to be taken away, or two sets of maps are asked for.
    """
    if settings.method is None and settings.graph != SCORE_GRAPH:
        raise InputError(
            f"{path}: samples along a trajectory take --graph score, and {settings.graph} is asked for"
        )
    if settings.undersampling is not None:
        raise InputError(f"{path}: has no lines on a grid to take away: leave --undersample out")
    if settings.map_sets > 1:
        raise InputError(f"{path}: samples along a trajectory take one set of maps: leave --map-sets out")


def read_along_trajectory(
    source: NonCartesianKspace,
    kspace: ComplexArray,
    index: int,
    maps: ComplexArray | None,
    noise: float | None,
    map_method: str,
    noise_source: str,
) -> SliceProblem:
    """Prepare a slice whose samples (coil, readout, sample) were read; ``noise`` None is measured in them.

    Raises:
        InputError: see :func:`sbim_deploy.recon.prepare_noncartesian.prepare_trajectory_slice`.
        BackendMissingError: finufft is not installed.
    """
    return prepare_trajectory_slice(
        kspace,
        source.read_trajectory(index),
        (source.n_rows, source.n_columns),
        index,
        maps,
        noise,
        map_method,
        noise_source,
        whitening=source.read_whitening(index),
    )


def prior_orientations(kspace: KspaceSource, model: Model | None, through_plane: bool) -> int | None:
    """Return in how many orientations the network sees a slice, in turn.

    None without the network, and on a grid where slices are not reconstructed together.
    """
    if model is None or not (through_plane or isinstance(kspace, NonCartesianKspace)):
        return None
    return count_orientations((kspace.n_rows, kspace.n_columns), model.manifest.size_multiple)


def describe_sampling(source: NonCartesianKspace, kspace: ComplexArray, index: int) -> dict[str, Any]:
    """Return how a slice was sampled, for the record of a run."""
    shape = (source.n_rows, source.n_columns)
    measured = (kspace != 0).any(axis=0)
    return describe_trajectory(weigh_samples(source.read_trajectory(index), measured, shape), shape)
