"""What runs in a worker: the steps of a file. Errors that a user can act on come back as values."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np

from sbim_deploy import errors
from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.kspace.transformed import TransformedKspace
from sbim_deploy.models.backends import backend_of
from sbim_deploy.models.folder import Model, sampling_prior
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction
from sbim_deploy.recon.volume_survey import WholeVolume
from sbim_deploy.results.partial import (
    FinishedSlice,
    check_run,
    discard_run,
    is_begun,
    load_slice,
    partial_folder,
    read_run,
    run_hash,
    save_slice,
)
from sbim_deploy.results.provenance import Measured, RunIdentity, Timings, read_record
from sbim_deploy.results.result_file import ResultWriter, open_result
from sbim_deploy.runs.findings import slice_warnings
from sbim_deploy.runs.scan import (
    Scan,
    Tally,
    batches_of_indices,
    describe_scan,
    make_reconstructor,
    open_scan,
    read_problem,
    run_identity,
    run_provenance,
    slice_notes,
    software_versions,
    survey_slices,
)
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.through_plane import reconstruct_together
from sbim_deploy.runs.trajectories import settings_for
from sbim_deploy.runs.whole_volume import open_input
from sbim_deploy.samplers.choice import make_plan
from sbim_deploy.study.files import StudyFile
from sbim_deploy.study.model_transport import ModelAbsentError, ModelReference, find_model

MAX_KEPT = 2


@dataclass(frozen=True)
class Software:
    """What must be the same on every worker: versions, and what runs the network."""

    versions: Mapping[str, str]
    engine: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """What all files of a study have in common; ``software`` is known once the first worker has answered."""

    settings: ReconSettings
    model: ModelReference
    software: Software | None = None


@dataclass(frozen=True)
class Surveyed:
    """A file that was checked: its slices, the batches that are left to do, and the run that they belong to.

    ``volume`` is what all slices of a 3-D scan share, found once for all workers. A run that was ``complete``
    before has none left and no run, and ``warnings`` of its images.
    """

    n_slices: int
    n_done: int
    batches: tuple[tuple[int, ...], ...]
    run: str
    measured: Measured
    complete: bool
    warnings: tuple[str, ...] = ()
    volume: WholeVolume | None = None


@dataclass(frozen=True)
class BatchDone:
    """A batch whose slices are kept: how many this worker made, which worker, and its seconds."""

    n_made: int
    worker: str
    preparation_s: float
    sampling_s: float


@dataclass(frozen=True)
class Finished:
    """A result that is whole under its name, and why its images may be wrong, as sentences."""

    worker: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """What went wrong, in one line; ``kind`` is the name of the error's class."""

    message: str
    kind: str

    def as_error(self) -> SbimDeployError:
        """Return the error as it was raised in the worker."""
        kind = getattr(errors, self.kind, SbimDeployError)
        error: SbimDeployError = kind(self.message)
        return error


@dataclass(frozen=True)
class ModelWanted:
    """The worker has no such model: the client is to send it, and to ask again."""

    reason: str


P = ParamSpec("P")
R = TypeVar("R")


def _answering(step: Callable[P, R]) -> Callable[P, R | Failure | ModelWanted]:
    """Return errors as values: an exception would be logged with a traceback by Dask."""

    @functools.wraps(step)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R | Failure | ModelWanted:
        try:
            return step(*args, **kwargs)
        except ModelAbsentError as error:
            return ModelWanted(str(error))
        except SbimDeployError as error:
            return Failure(str(error), type(error).__name__)

    return answer


@_answering
def tell_software(job: Job) -> Software:
    """Open the engine, and tell what it is: the first worker decides for all."""
    return Software(software_versions(), dict(_reconstructor(job).engine.description))


@_answering
def survey(job: Job, model: Model, file: StudyFile, resume: bool) -> Surveyed:
    """Check a file whole, and begin its run or take up one that was stopped."""
    assert job.software is not None
    _limit_blas()  # what slices of a volume share hangs on it too
    with _opened(job, file) as (scan, settings):
        plan = make_plan(settings.choice, sampling_prior(model.manifest))
        identity = run_identity(scan.kspace, settings, model, plan, job.software.engine["backend"])
        # Dask may do this step twice: what the first time has begun goes on.
        begun = resume or is_begun(file.output)
        writer = ResultWriter(file.output, identity.as_dict(), scan.indices, begun, settings.force)
        pending = set(writer.pending)
        n_done = len(scan.indices) - len(pending)
        if not pending and not is_begun(file.output):
            return Surveyed(
                len(scan.indices), n_done, (), "", Measured(), complete=True, warnings=_warnings_of(file)
            )
        run = read_run(file.output)[1]
        _share_volume(scan, file, run)
        tally = Tally()
        shapes = survey_slices(scan, tally)
        # Those of a run that was never stopped: a slice's last bits depend on its neighbours in the batch.
        batches = (
            [list(scan.indices)]
            if settings.through_plane
            else batches_of_indices(scan.indices, shapes, settings)
        )
        left = tuple(tuple(batch) for batch in batches if pending.intersection(batch))
        measured = describe_scan(scan, tally)
    return Surveyed(len(scan.indices), n_done, left, run, measured, complete=False, volume=tally.volume)


@_answering
def reconstruct_batch(
    job: Job, file: StudyFile, run: str, indices: tuple[int, ...], volume: WholeVolume | None = None
) -> BatchDone:
    """Reconstruct a batch of slices, which share ``volume``, and keep those that are not kept yet."""
    missing = {index for index in indices if load_slice(file.output, index, run) is None}
    tally = Tally(volume=volume)
    if missing:
        with _opened(job, file) as (scan, settings):
            reconstruct = _reconstructor(replace(job, settings=settings))
            _share_volume(scan, file, run)
            if settings.through_plane:
                with _COMPUTING:
                    _reconstruct_together(
                        reconstruct, scan, tally, file, run, sorted(missing), settings.batch
                    )
                return BatchDone(len(missing), worker_name(), tally.preparation_s, tally.sampling_s)
            problems = [read_problem(index, scan, tally) for index in indices]
        with _COMPUTING:
            before = time.perf_counter()
            results = reconstruct(problems)
            tally.sampling_s = time.perf_counter() - before
        for each in results:
            if each.index in missing:
                _keep(each, file, run)
    return BatchDone(len(missing), worker_name(), tally.preparation_s, tally.sampling_s)


def _reconstruct_together(
    reconstructor: Reconstructor,
    scan: Scan,
    tally: Tally,
    file: StudyFile,
    run: str,
    wanted: Sequence[int],
    planes_at_once: int,
) -> None:
    """Reconstruct the slices of a volume together, and keep those that are wanted as they are made.

    Raises:
        InputError: a slice cannot be read.
    """
    folder = file.output.parent
    with closing(reconstruct_together(reconstructor, scan, tally, folder, planes_at_once, wanted)) as made:
        for results, seconds in made:
            tally.sampling_s += seconds
            for each in results:
                _keep(each, file, run)
    if tally.unread:
        raise InputError(next(iter(tally.unread.values())))


def _keep(made: Reconstruction, file: StudyFile, run: str) -> None:
    """Keep a slice that is finished."""
    finished = FinishedSlice(
        made.image,
        np.abs(made.zero_filled),
        np.float32(made.residual),
        made.standard_deviation,
        slice_notes(made),
    )
    save_slice(file.output, made.index, finished, run)


@_answering
def finish(
    job: Job,
    model: Model,
    file: StudyFile,
    surveyed: Surveyed,
    timings_s: Timings,
    workers: tuple[str, ...],
) -> Finished:
    """Assemble a result of its slices."""
    assert job.software is not None
    if _is_finished(file, surveyed.run):
        discard_run(file.output)
        return Finished(worker_name(), _warnings_of(file))
    identity, run = read_run(file.output)
    if run != surveyed.run:
        raise InputError(f"{file.output}: another run has begun it meanwhile; let one study write a folder")
    with _opened(job, file) as (scan, _):
        writer = ResultWriter(file.output, identity, scan.indices, resume=True, force=job.settings.force)
    if writer.pending:
        raise InputError(f"{file.output}: finished slices were damaged meanwhile; run again with --resume")
    provenance = run_provenance(
        read_record(identity, RunIdentity),
        job.settings,
        model.manifest,
        job.software.engine,
        surveyed.measured,
        timings_s,
        writer.notes,
    )
    writer.finish(replace(provenance, workers=workers).as_dict())
    return Finished(worker_name(), tuple(slice_warnings(provenance)))


def worker_name() -> str:
    """Return the host and the process that this runs in."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def _opened(job: Job, file: StudyFile) -> Iterator[tuple[Scan, ReconSettings]]:
    """Yield a file's scan, and the settings with the graph that takes it."""
    with open_input(file.kspace, file.output, job.settings) as source:
        settings = settings_for(source, job.settings)
        with open_scan(source, settings) as scan:
            yield scan, settings


def _share_volume(scan: Scan, file: StudyFile, run: str) -> None:
    """Have the workers of a run share the store of a volume, which goes with the finished slices."""
    if isinstance(scan.kspace, TransformedKspace):
        check_run(file.output, run)
        scan.kspace.share(partial_folder(file.output), run)


def _warnings_of(file: StudyFile) -> tuple[str, ...]:
    with open_result(file.output) as result:
        return tuple(slice_warnings(result.provenance))


def _is_finished(file: StudyFile, run: str) -> bool:
    """Tell whether a worker that was lost had finished the result, and could not say so any more."""
    if is_begun(file.output):
        return False
    try:
        with open_result(file.output) as result:
            return run_hash(result.identity) == run
    except InputError:
        return False


_LOADING = threading.Lock()
_COMPUTING = threading.Lock()
_KEPT: dict[tuple[ReconSettings, str], Reconstructor] = {}


def _reconstructor(job: Job) -> Reconstructor:
    """Return the process's reconstructor for a job, made the first time and kept."""
    with _LOADING:
        kept = _KEPT.get((job.settings, job.model.key))
        if kept is not None:
            return kept
        _limit_blas()
        reconstructor = make_reconstructor(job.settings, find_model(job.model))
        _check_software(job, reconstructor)
        while len(_KEPT) >= MAX_KEPT:
            del _KEPT[next(iter(_KEPT))]
        # Under the backend's name, which says the precision too: that is asked for once `auto` was decided.
        backend = backend_of(reconstructor.engine.description)
        settings = replace(job.settings, backend=backend, precision=None)
        _KEPT[settings, job.model.key] = reconstructor
        return reconstructor


def _limit_blas() -> None:
    """Give BLAS one thread: ESPIRiT's last bits depend on them, and those on how the worker was started."""
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        return  # one process without the extra keeps the threads that the user gave it
    threadpool_limits(1, user_api="blas")


def _check_software(job: Job, reconstructor: Reconstructor) -> None:
    """Refuse to add slices to those that other versions have made."""
    if job.software is None:
        return
    here = {**software_versions(), "engine version": reconstructor.engine.description["version"]}
    there = {**job.software.versions, "engine version": job.software.engine["version"]}
    if differing := [
        f"{name} {here[name]}, expected {there[name]}" for name in here if here[name] != there[name]
    ]:
        raise InputError(
            f"worker {worker_name()}: has {'; '.join(differing)}, as the study began with; "
            "install the same versions on all workers"
        )
