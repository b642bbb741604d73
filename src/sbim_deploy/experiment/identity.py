"""What decides the results of an experiment, as its folder and its page have it."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import Any

import numpy as np
import scipy

from sbim_deploy import __version__
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.scans import all_settings
from sbim_deploy.experiment.settings import ExperimentSettings
from sbim_deploy.experiment.simulation import Simulation
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.models.folder import Model
from sbim_deploy.mri.nonuniform import import_finufft
from sbim_deploy.recon.orientations import ORIENTATIONS


def experiment_identity(
    settings: ExperimentSettings, model: Model, engine: dict[str, str], peers: dict[str, str | None]
) -> dict[str, Any]:
    """Return what decides the results. A run goes on only with the same, but methods may be added."""
    decided_otherwise = {"title", "methods", "model", "kspace", "peers", "baseline"} | {
        *("metrics_first", "claims"),
        *("accelerations", "patterns", "slices", "shown_slices", "volumes", "shown_volumes"),
        *(() if settings.dimensions == 3 else ("dimensions", "elliptic", "tuning_volumes")),
    }
    given = {name: value for name, value in asdict(settings).items() if name not in decided_otherwise}
    return {
        **given,
        "simulate": settings.simulate and _simulation(settings.simulate),
        **{f"method {method.name}": method.numbers() for method in settings.methods},
        **_along_trajectories(settings),
        "sbim-deploy": __version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "engine": " ".join(engine.values()),
        # The seconds compare on one machine only.
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "model": {"name": model.manifest.name, "digest": model.digest},
        "kspace": {path.name: file_sha256(path) for path in settings.kspace},
        # The label is part of it, since it tells the iterations.
        **{
            f"peer {name}": version and f"{_label(name, settings)}, {version}"
            for name, version in peers.items()
        },
    }


def _label(name: str, settings: ExperimentSettings) -> str:
    peer = PEERS[name]
    return peer.volume.label if settings.dimensions == 3 and peer.volume is not None else peer.label


def _along_trajectories(settings: ExperimentSettings) -> dict[str, str]:
    """Return what transforms to the samples of each trajectory, and how networks see the images: squares."""
    along = {each.pattern for each in all_settings(settings) if each.is_trajectory}
    seen = f"networks see {len(ORIENTATIONS)} orientations in turn"
    return {f"pattern {name}": f"finufft {import_finufft().__version__}, {seen}" for name in sorted(along)}


def _simulation(simulation: Simulation) -> dict[str, Any]:
    """Return what decides simulated scans; volumes count by what is in them."""
    decided = {name: value for name, value in asdict(simulation).items() if value is not None}
    objects = decided.pop("objects")
    for given in objects:
        if given["volume"] is not None:
            given["volume"] = f"{given['volume'].name}, SHA 256 {file_sha256(given['volume'])}"
    return {**decided, "objects": objects} if objects else decided
