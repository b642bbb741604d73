"""A study in one process, without Dask: one file after another, by the steps that workers do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.io.locks import owning_file
from sbim_deploy.models.backends import backend_of
from sbim_deploy.models.folder import Model
from sbim_deploy.results.partial import discard_run
from sbim_deploy.study import steps
from sbim_deploy.study.files import DONE, FAILED, KEPT, FileRecord, StudyFile, make_folder
from sbim_deploy.study.steps import Failure, Job, ModelWanted, Software
from sbim_deploy.study.track import Progress, Track, one_line

R = TypeVar("R")


class _FailedError(Exception):
    """A step of a file has failed, and the study goes on with the next one."""

    def __init__(self, failure: Failure):
        self.failure = failure


class Alone:
    """Runs the files of a study in this process.

    Attributes:
        records: what became of the files so far, in their order; the others are pending.
        software: what runs the network, once it is open.
    """

    def __init__(self, job: Job, model: Model) -> None:
        self._job, self._model = job, model
        self.records: list[FileRecord] = []
        self.software: Software | None = None

    def run(self, files: Sequence[StudyFile], resume: bool, progress: Progress) -> None:
        """Reconstruct files; one that fails does not stop the others.

        Raises:
            SbimDeployError: no engine runs the model.
        """
        self.records = [FileRecord(file.name, str(file.kspace), str(file.output)) for file in files]
        answer = steps.tell_software(self._job)
        if not isinstance(answer, Software):
            raise answer.as_error() if isinstance(answer, Failure) else InputError(answer.reason)
        self.software = answer
        settings = replace(self._job.settings, backend=backend_of(answer.engine), precision=None)
        self._job = replace(self._job, settings=settings, software=answer)
        progress.started(len(files), 1, answer.engine)
        for place, file in enumerate(files):
            track = Track(place, file, began=time.perf_counter())
            state, failure, warnings = self._run_file(track, resume, progress)
            self.records[place] = track.record(self.records[place], state, failure, warnings)
            progress.ended(self.records[place])
            progress.advanced(place + 1)

    def _run_file(
        self, track: Track, resume: bool, progress: Progress
    ) -> tuple[str, Failure | None, tuple[str, ...]]:
        """Return a file's state, why it failed, and why its images may be wrong."""
        try:
            make_folder(track.file.output.parent)
            with owning_file(track.file.output):
                if not resume:
                    discard_run(track.file.output)
                return self._reconstruct(track, resume, progress)
        except _FailedError as error:
            return FAILED, error.failure, ()
        except SbimDeployError as error:
            return FAILED, Failure(str(error), type(error).__name__), ()
        except Exception as error:  # as of a worker: a file that nobody has foreseen does not stop the others
            return FAILED, Failure(f"{track.file.kspace}: {one_line(error)}", type(error).__name__), ()

    def _reconstruct(
        self, track: Track, resume: bool, progress: Progress
    ) -> tuple[str, Failure | None, tuple[str, ...]]:
        job, model, file = self._job, self._model, track.file
        surveyed = track.surveyed = _done(steps.survey(job, model, file, resume))
        if surveyed.complete:
            return KEPT, None, surveyed.warnings
        track.left = len(surveyed.batches) + 1
        for indices in surveyed.batches:
            track.count(_done(steps.reconstruct_batch(job, file, surveyed.run, indices, surveyed.volume)))
            progress.advanced(track.place + track.fraction())
        workers = tuple(sorted(track.workers))
        finished = _done(steps.finish(job, model, file, surveyed, track.timings_s(), workers))
        return DONE, None, finished.warnings


def _done(answer: R | Failure | ModelWanted) -> R:
    """Return what a step gave.

    Raises:
        _FailedError: it failed.
    """
    if isinstance(answer, ModelWanted):
        raise _FailedError(Failure(f"the model is gone: {answer.reason}", "InputError"))
    if isinstance(answer, Failure):
        raise _FailedError(answer)
    return answer
