"""Runs every method on every slice at every acceleration, one result at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sbim_deploy.errors import BackendMissingError
from sbim_deploy.experiment.identity import experiment_identity
from sbim_deploy.experiment.methods import Method
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.scans import (
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
from sbim_deploy.experiment.scores import image_scores
from sbim_deploy.experiment.settings import ExperimentSettings, Levels
from sbim_deploy.experiment.store import Key, Result, Store, Tuned
from sbim_deploy.experiment.volumes import (
    UndersampledVolume,
    check_volumes,
    picture_of,
    undersample_volume,
    volume_residual,
    work_folder,
)
from sbim_deploy.io.locks import owning_folder
from sbim_deploy.models.backends import is_served
from sbim_deploy.models.folder import Model, NoiseLevels, load_model
from sbim_deploy.mri.fourier import centre_crop, limited_threads
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.recon.prepare import SliceProblem, relative_residual
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, SCORE_GRAPH, Reconstructor
from sbim_deploy.recon.through_plane import reconstruct_through_planes
from sbim_deploy.records import FloatArray

Problem = SliceProblem | UndersampledVolume
Solve = Callable[[Problem, Setting], tuple[FloatArray, float]]
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
    identity = experiment_identity(settings, model, dict(engine.description), versions)
    keys = _keys(settings, methods)
    calls = {name: next(iter(opened.values())).n_calls for name, opened in samplers.items()}
    with owning_folder(folder):
        store = Store(folder, identity, keys, _shown(settings, keys), settings.dimensions)
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
    if not store.pending:
        return
    with ExitStack() as stack:
        folder = stack.enter_context(work_folder(store.folder)) if settings.dimensions == 3 else store.folder
        _tune_peers(settings, present, store, progress, folder)
        solvers = {method.name: _sampler_solver(method, samplers[method.name]) for method in settings.methods}
        solvers |= {name: _peer_solver(name, store, settings) for name in present}
        for (setting, scan, index), case_keys in groupby(store.pending, key=_case_of):
            with _undersampled(settings, setting, scan, index, folder, progress) as case:
                _run_case(settings, setting, case, case_keys, solvers, store, progress)


@dataclass(frozen=True, eq=False)
class Case:
    """What is reconstructed and scored at once: a slice or a volume, undersampled, and its true magnitude."""

    problem: Problem
    reference: FloatArray

    @property
    def acceleration(self) -> float:
        """How many samples the grid has for each one."""
        problem = self.problem
        return problem_acceleration(problem) if isinstance(problem, SliceProblem) else problem.acceleration


@contextmanager
def _undersampled(
    settings: ExperimentSettings, setting: Setting, scan: str, index: int, folder: Path, progress: Progress
) -> Iterator[Case]:
    """Undersample a slice, or a volume, which waits in ``folder`` meanwhile."""
    if settings.dimensions == 3:
        progress.said(f"preparing {scan}, volume {index}, {setting.pattern} R = {setting.acceleration:g}")
        with undersample_volume(settings, setting, scan, index, folder) as volume:
            yield Case(volume, volume.reference)
    else:
        full = full_slice(settings, scan, index)
        yield Case(undersample(full, setting, settings), full.reference)


def tune(name: str, setting: Setting, cases: Sequence[Case], settings: ExperimentSettings) -> Tuned:
    """Return the weight of a peer's grid that has the least mean NRMSE over what peers are tuned on."""
    weights = settings.weights_of(name, setting.pattern)
    means = []
    for weight in weights:
        images = [_by_peer(name, case.problem, weight, settings.threads)[0] for case in cases]
        scores = [nrmse(image, case.reference) for image, case in zip(images, cases, strict=True)]
        means.append(float(np.mean(scores)))
    best = weights[int(np.argmin(means))]
    return Tuned(setting.pattern, setting.acceleration, name, best, weights, tuple(means))


def _run_case(
    settings: ExperimentSettings,
    setting: Setting,
    case: Case,
    keys: Iterable[Key],
    solvers: dict[str, Solve],
    store: Store,
    progress: Progress,
) -> None:
    for key in keys:
        before = time.perf_counter()
        with limited_threads(settings.threads):
            image, residual = solvers[key.method](case.problem, setting)
        seconds = time.perf_counter() - before
        result = Result(
            pattern=key.pattern,
            acceleration=key.acceleration,
            effective_acceleration=case.acceleration,
            scan=key.scan,
            slice=key.slice,
            method=key.method,
            **image_scores(image, case.reference),
            residual=residual,
            seconds=seconds,
            seed=settings.seed,
        )
        store.add(result, picture_of(image) if settings.dimensions == 3 else image)
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
        for graph in dict.fromkeys(_graph_for(method, setting) for setting in all_settings(settings))
    }


def _graph_for(method: Method, setting: Setting) -> str:
    return SCORE_GRAPH if setting.is_trajectory or method.through_plane else DEFAULT_GRAPH


def _sampler_solver(method: Method, graphs: Graphs) -> Solve:
    def solve(problem: Problem, setting: Setting) -> tuple[FloatArray, float]:
        reconstruct = graphs[_graph_for(method, setting)]
        if isinstance(problem, SliceProblem):
            (result,) = reconstruct([problem])
            return np.abs(result.image), result.residual
        slices = problem.slices
        places = range(slices.n_slices)
        if method.through_plane:
            results = reconstruct_through_planes(
                reconstruct, slices.n_slices, slices.read, problem.directions
            )
        else:
            results = (reconstruct([slices.read_kept(place)])[0] for place in places)
        images = np.stack([result.image for result in results])
        return np.abs(images), volume_residual(slices, images)

    return solve


def _peer_solver(name: str, store: Store, settings: ExperimentSettings) -> Solve:
    weights = {(each.pattern, each.acceleration): each.weight for each in store.tuned if each.method == name}

    def solve(problem: Problem, setting: Setting) -> tuple[FloatArray, float]:
        weight = weights.get((setting.pattern, setting.acceleration), 0.0)
        return _by_peer(name, problem, weight, settings.threads)

    return solve


def _by_peer(name: str, problem: Problem, weight: float, threads: int) -> tuple[FloatArray, float]:
    """Return the magnitude that a peer makes, and its residual."""
    peer = PEERS[name]
    if isinstance(problem, SliceProblem):
        image = peer.solve(problem, weight, threads)
        return np.abs(centre_crop(image, problem.image_shape)), relative_residual(problem, image)
    assert peer.volume is not None  # the settings refuse other peers
    images = peer.volume.solve(problem.slices, weight, threads)
    return np.abs(images), volume_residual(problem.slices, images)


def _tune_peers(
    settings: ExperimentSettings, present: tuple[str, ...], store: Store, progress: Progress, folder: Path
) -> None:
    done = {(each.pattern, each.acceleration, each.method) for each in store.tuned}
    wanted = [
        (setting, name)
        for setting in all_settings(settings)
        for name in present
        if settings.weights_of(name, setting.pattern)
        and (setting.pattern, setting.acceleration, name) not in done
    ]
    for setting, of_setting in groupby(wanted, key=lambda each: each[0]):
        with ExitStack() as stack:
            cases = [
                stack.enter_context(_undersampled(settings, setting, scan, index, folder, progress))
                for scan in scan_names(settings)
                for index in settings.tuned_on
            ]
            for _, name in of_setting:
                tuned = tune(name, setting, cases, settings)
                store.add_tuned(tuned)
                progress.said(
                    f"{name}: weight {tuned.weight:g} at {setting.pattern} R = {setting.acceleration:g}"
                )


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
    if settings.dimensions == 3:
        check_volumes(settings)
        return
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
        for index in settings.scored
        for method in methods
    ]


def _shown(settings: ExperimentSettings, keys: list[Key]) -> set[Key]:
    scans = shown_scans(settings)
    return {key for key in keys if key.scan in scans and key.slice in settings.shown}


def _case_of(key: Key) -> tuple[Setting, str, int]:
    return Setting(key.pattern, key.acceleration), key.scan, key.slice
