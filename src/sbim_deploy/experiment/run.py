"""Runs every method on every slice at every acceleration, one result at a time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy

from sbim_deploy import __version__
from sbim_deploy.errors import BackendMissingError
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.scans import (
    FullSlice,
    Setting,
    all_settings,
    check_paths,
    full_slice,
    full_slices,
    problem_acceleration,
    scan_names,
    shown_scans,
    undersample,
)
from sbim_deploy.experiment.scores import masked_scores
from sbim_deploy.experiment.settings import ExperimentSettings, Levels, Method, Simulation
from sbim_deploy.experiment.store import Key, Result, Store, Tuned
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.locks import owning_folder
from sbim_deploy.models.backends import is_served
from sbim_deploy.models.folder import Model, NoiseLevels, load_model
from sbim_deploy.mri.fourier import centre_crop, limited_threads
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.mri.nonuniform import import_finufft
from sbim_deploy.recon.prepare import SliceProblem, relative_residual
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, SCORE_GRAPH, Reconstructor
from sbim_deploy.records import FloatArray
from sbim_deploy.runs.evaluate import score

Solve = Callable[[SliceProblem, Setting], tuple[FloatArray, float]]
Graphs = dict[str, Reconstructor]
"""A method on each of the graphs that the patterns take, by its name."""


class Progress(Protocol):
    """What is told of an experiment while it goes on."""

    def started(self, n_results: int, n_done: int) -> None:
        """Tell how many results there will be, and how many of them an earlier run has made."""

    def advanced(self) -> None:
        """Tell that one more result is kept."""

    def said(self, text: str) -> None:
        """Tell what a reader of the terminal should know."""


@dataclass(frozen=True)
class Finished:
    """A finished experiment: its folder, its identity, its methods in order, and the peers not installed."""

    store: Store
    identity: dict[str, Any]
    methods: tuple[str, ...]
    left_out: tuple[str, ...]
    n_calls: dict[str, int]


def run_experiment(settings: ExperimentSettings, folder: Path, progress: Progress) -> Finished:
    """Run what an experiment has not done yet. Finished results stay, however this ends.

    Raises:
        InputError: a file, the model or a setting is not what it must be, or the folder holds another run.
        BackendMissingError: the baseline is a peer that is not installed.
        SamplingError: a sampler diverged.
    """
    versions = {name: PEERS[name].version() for name in settings.peers}
    left_out = tuple(name for name, version in versions.items() if version is None)
    _announce(left_out, settings.baseline, progress)
    model = _with_levels(load_model(settings.model), settings.levels)
    samplers = {method.name: _open_graphs(settings, model, method) for method in settings.methods}
    present = tuple(name for name in settings.peers if name not in left_out)
    methods = (*present, *samplers)
    _check_scans(settings)
    engine = next(iter(samplers[settings.methods[0].name].values())).engine
    identity = _identity(settings, model, dict(engine.description), versions)
    keys = _keys(settings, methods)
    calls = {name: next(iter(opened.values())).n_calls for name, opened in samplers.items()}
    with owning_folder(folder):
        store = Store(folder, identity, keys, _shown(settings, keys))
        _fill(store, settings, present, samplers, progress)
    return Finished(store, identity, methods, left_out, calls)


def _fill(
    store: Store,
    settings: ExperimentSettings,
    present: tuple[str, ...],
    samplers: dict[str, Graphs],
    progress: Progress,
) -> None:
    """Make what a store lacks."""
    keys = (*store.results, *store.pending)
    progress.started(len(keys), len(store.results))
    if store.pending:
        _tune_peers(settings, present, store, progress)
        solvers = {name: _sampler_solver(graphs) for name, graphs in samplers.items()}
        solvers |= {name: _peer_solver(name, store, settings.threads) for name in present}
        for (setting, scan, index), slice_keys in groupby(store.pending, key=_slice_of):
            _run_slice(
                settings, setting, full_slice(settings, scan, index), slice_keys, solvers, store, progress
            )


def tune(name: str, setting: Setting, slices: Sequence[FullSlice], settings: ExperimentSettings) -> Tuned:
    """Return the weight of a peer's grid that has the least mean NRMSE over the tuning slices."""
    peer = PEERS[name]
    weights = settings.weights_of(name, setting.pattern)
    problems = [undersample(full, setting, settings) for full in slices]
    means = []
    for weight in weights:
        images = [
            np.abs(centre_crop(peer.solve(problem, weight, settings.threads), problem.image_shape))
            for problem in problems
        ]
        scores = [nrmse(image, full.reference) for image, full in zip(images, slices, strict=True)]
        means.append(float(np.mean(scores)))
    best = weights[int(np.argmin(means))]
    return Tuned(setting.pattern, setting.acceleration, name, best, weights, tuple(means))


def _run_slice(
    settings: ExperimentSettings,
    setting: Setting,
    full: FullSlice,
    keys: Iterable[Key],
    solvers: dict[str, Solve],
    store: Store,
    progress: Progress,
) -> None:
    problem = undersample(full, setting, settings)
    for key in keys:
        before = time.perf_counter()
        with limited_threads(settings.threads):
            image, residual = solvers[key.method](problem, setting)
        seconds = time.perf_counter() - before
        scores = score(image, full.reference)
        result = Result(
            pattern=key.pattern,
            acceleration=key.acceleration,
            effective_acceleration=problem_acceleration(problem),
            scan=key.scan,
            slice=key.slice,
            method=key.method,
            nrmse=scores.nrmse,
            psnr=scores.psnr,
            ssim=scores.ssim,
            **dict(zip(("masked_psnr", "masked_ssim"), masked_scores(image, full.reference), strict=True)),
            residual=residual,
            seconds=seconds,
            seed=settings.seed,
        )
        store.add(result, image)
        progress.advanced()


def _open_graphs(settings: ExperimentSettings, model: Model, method: Method) -> Graphs:
    return {
        graph: Reconstructor(
            model,
            method.choice,
            settings.seed,
            settings.backend,
            None if is_served(settings.backend) else settings.threads,
            graph=graph,
            samples=method.samples,
            deviations=False,
        )
        for graph in dict.fromkeys(map(_graph_for, all_settings(settings)))
    }


def _graph_for(setting: Setting) -> str:
    return SCORE_GRAPH if setting.is_trajectory else DEFAULT_GRAPH


def _sampler_solver(graphs: Graphs) -> Solve:
    def solve(problem: SliceProblem, setting: Setting) -> tuple[FloatArray, float]:
        (result,) = graphs[_graph_for(setting)]([problem])
        return np.abs(result.image), result.residual

    return solve


def _peer_solver(name: str, store: Store, threads: int) -> Solve:
    weights = {(each.pattern, each.acceleration): each.weight for each in store.tuned if each.method == name}

    def solve(problem: SliceProblem, setting: Setting) -> tuple[FloatArray, float]:
        weight = weights.get((setting.pattern, setting.acceleration), 0.0)
        image = PEERS[name].solve(problem, weight, threads)
        return np.abs(centre_crop(image, problem.image_shape)), relative_residual(problem, image)

    return solve


def _tune_peers(
    settings: ExperimentSettings, present: tuple[str, ...], store: Store, progress: Progress
) -> None:
    done = {(each.pattern, each.acceleration, each.method) for each in store.tuned}
    wanted = [
        (setting, name)
        for setting in all_settings(settings)
        for name in present
        if settings.weights_of(name, setting.pattern) and (setting.pattern, setting.acceleration, name) not in done
    ]
    if not wanted:
        return
    slices = list(full_slices(settings, settings.tuning_slices))
    for setting, name in wanted:
        tuned = tune(name, setting, slices, settings)
        store.add_tuned(tuned)
        progress.said(f"{name}: weight {tuned.weight:g} at {setting.pattern} R = {setting.acceleration:g}")


def _with_levels(model: Model, levels: Levels | None) -> Model:
    """Return the model with other noise levels, for the samplers to lay their steps on."""
    if levels is None:
        return model
    manifest = replace(
        model.manifest,
        noise_levels=NoiseLevels(levels.sigma_begin, levels.sigma_end, levels.n_levels),
        sampling=replace(model.manifest.sampling, start_level=levels.start_level),
    )
    return replace(model, manifest=manifest)


def _announce(left_out: tuple[str, ...], baseline: str, progress: Progress) -> None:
    for name in left_out:
        way_out = f"it is not installed: {PEERS[name].install}"
        if name == baseline:
            raise BackendMissingError(f"the baseline {name} is missing: {way_out}; or choose another")
        progress.said(f"{name} is left out, {way_out}")


def _check_scans(settings: ExperimentSettings) -> None:
    """Read every slice, and undersample the first in every way, before hours of work begin."""
    check_paths(settings.kspace)
    first = None
    for full in full_slices(settings, (*settings.slices, *settings.tuning_slices)):
        first = first or full
    if first is not None:
        for setting in all_settings(settings):
            undersample(first, setting, settings)


def _keys(settings: ExperimentSettings, methods: tuple[str, ...]) -> list[Key]:
    return [
        Key(setting.pattern, setting.acceleration, scan, index, method)
        for setting in all_settings(settings)
        for scan in scan_names(settings)
        for index in settings.slices
        for method in methods
    ]


def _shown(settings: ExperimentSettings, keys: list[Key]) -> set[Key]:
    scans = shown_scans(settings)
    return {key for key in keys if key.scan in scans and key.slice in settings.shown_slices}


def _slice_of(key: Key) -> tuple[Setting, str, int]:
    return Setting(key.pattern, key.acceleration), key.scan, key.slice


def _transforms(settings: ExperimentSettings) -> dict[str, str]:
    """Return what transforms to the samples of each trajectory."""
    along = {each.pattern for each in all_settings(settings) if each.is_trajectory}
    return {f"pattern {name}": f"finufft {import_finufft().__version__}" for name in sorted(along)}


def _simulation(simulation: Simulation) -> dict[str, Any]:
    """Return what decides simulated scans; volumes count by what is in them."""
    decided = asdict(simulation)
    objects = decided.pop("objects")
    for given in objects:
        if given["volume"] is not None:
            given["volume"] = f"{given['volume'].name}, SHA 256 {file_sha256(given['volume'])}"
    return {**decided, "objects": objects} if objects else decided


def _identity(
    settings: ExperimentSettings, model: Model, engine: dict[str, str], peers: dict[str, str | None]
) -> dict[str, Any]:
    """Return what decides the results. A run goes on only with the same, but methods may be added."""
    decided_otherwise = {"title", "methods", "model", "kspace", "peers", "baseline"} | {
        *("metrics_first", "claims"),
        *("accelerations", "patterns", "slices", "shown_slices"),
    }
    given = {name: value for name, value in asdict(settings).items() if name not in decided_otherwise}
    return {
        **given,
        "simulate": settings.simulate and _simulation(settings.simulate),
        **{f"method {method.name}": method.numbers() for method in settings.methods},
        **_transforms(settings),
        "sbim-deploy": __version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "engine": " ".join(engine.values()),
        # The seconds compare on one machine only.
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "model": {"name": model.manifest.name, "digest": model.digest},
        "kspace": {path.name: file_sha256(path) for path in settings.kspace},
        # The label is part of it, since it tells the iterations.
        **{f"peer {name}": version and f"{PEERS[name].label}, {version}" for name, version in peers.items()},
    }
