"""The client's side of a study decides which task goes to the cluster next, and what its answer means."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distributed import Client, Future, as_completed, wait
from distributed.scheduler import KilledWorker

from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.io.locks import owning_file
from sbim_deploy.models.backends import backend_of
from sbim_deploy.models.folder import Model
from sbim_deploy.results.partial import discard_run
from sbim_deploy.study import steps
from sbim_deploy.study.files import DONE, FAILED, KEPT, FileRecord, StudyFile, make_folder
from sbim_deploy.study.model_transport import give_to_cluster, take_from_cluster
from sbim_deploy.study.steps import Failure, Finished, Job, ModelWanted, Software, Surveyed
from sbim_deploy.study.track import Progress, Track, one_line
from sbim_deploy.words import plural

FILES_AHEAD = 64  # files under way at once, so that the scheduler's memory does not grow with the study
WAIT_UNTIL_SAID_S = 20
MAX_TRIES = 5


@dataclass(frozen=True)
class Task:
    """What was asked of the cluster for a file. It is asked again where the worker had no model.

    ``n_gifts`` is how often the model had been given to the cluster by then.
    """

    track: Track
    function: Any
    arguments: tuple[Any, ...]
    needs_engine: bool = False
    n_tries: int = 0
    n_gifts: int = 0


class Conductor:
    """Runs the files of a study on a cluster.

    Attributes:
        records: what became of the files so far, in their order; the others are pending.
        software: what runs the network, once a worker has told.
    """

    def __init__(
        self, client: Client, job: Job, model: Model, resources: Mapping[str, float] | None = None
    ) -> None:
        self._client, self._job, self._model = client, job, model
        self._resources = dict(resources or {})
        self._n_gifts = 0
        self._tasks: dict[str, Task] = {}
        self._tracks: dict[int, Track] = {}
        self._n_ended = 0
        self.records: list[FileRecord] = []
        self.software: Software | None = None

    def run(self, files: Sequence[StudyFile], resume: bool, progress: Progress) -> None:
        """Reconstruct files; one that fails does not stop the others.

        Raises:
            SbimDeployError: the workers cannot run this at all, or the cluster was lost.
        """
        self._resume, self._progress = resume, progress
        self.records = [FileRecord(file.name, str(file.kspace), str(file.output)) for file in files]
        try:
            self.software = self._ask_for_software()
            settings = replace(self._job.settings, backend=backend_of(self.software.engine), precision=None)
            self._job = replace(self._job, settings=settings, software=self.software)
            progress.started(len(files), len(self._client.ncores()), self.software.engine)
            self._run_files(iter(enumerate(files)))
        finally:
            for track in self._tracks.values():
                track.held.close()
            if self._n_gifts:
                take_from_cluster(self._client, self._job.model)

    def _run_files(self, waiting: Iterator[tuple[int, StudyFile]]) -> None:
        self._completed = as_completed()
        self._begin_files(waiting)
        for future in self._completed:
            self._hear(future)
            self._begin_files(waiting)
            self._progress.advanced(self._n_ended + sum(track.fraction() for track in self._tracks.values()))

    def _ask_for_software(self) -> Software:
        for _ in range(MAX_TRIES):
            future = self._submit(steps.tell_software, (self._job,), 0, needs_engine=True)
            self._wait_for_a_worker(future)
            try:
                answer = future.result()
            except Exception as error:
                raise InputError(
                    f"the workers cannot run this ({one_line(error)}); "
                    "install the same sbim-deploy[cluster] there as here"
                ) from error
            if isinstance(answer, Software):
                return answer
            if isinstance(answer, Failure):
                raise answer.as_error()
            self._give_model()
        raise InputError(
            f"the model does not reach the workers: {answer.reason}; put it where they can read it"
        )

    def _wait_for_a_worker(self, future: Future) -> None:
        try:
            wait(future, timeout=WAIT_UNTIL_SAID_S)
        except TimeoutError:
            needed = "".join(f", with {name}={amount:g} wanted" for name, amount in self._resources.items())
            self._progress.waiting(f"{plural(len(self._client.ncores()), 'worker')} connected{needed}")

    def _begin_files(self, waiting: Iterator[tuple[int, StudyFile]]) -> None:
        while len(self._tracks) < FILES_AHEAD and (found := next(waiting, None)) is not None:
            track = Track(*found, began=time.perf_counter())
            self._tracks[track.place] = track
            try:
                make_folder(track.file.output.parent)
                # The workers write for this process, which is the output's owner until the file has ended.
                track.held.enter_context(owning_file(track.file.output))
                if not self._resume:
                    discard_run(track.file.output)
            except SbimDeployError as error:
                self._end(track, FAILED, Failure(str(error), type(error).__name__))
                continue
            self._ask(Task(track, steps.survey, (self._model, track.file, self._resume)))

    def _ask(self, task: Task) -> None:
        task = replace(task, n_gifts=self._n_gifts, n_tries=task.n_tries + 1)
        arguments = (self._job, *task.arguments)
        future = self._submit(task.function, arguments, -task.track.place, task.needs_engine)
        self._tasks[future.key] = task
        task.track.futures[future.key] = future
        self._completed.add(future)

    def _submit(self, function: Any, arguments: tuple[Any, ...], priority: int, needs_engine: bool) -> Future:
        resources = self._resources if needs_engine and self._resources else None
        return self._client.submit(function, *arguments, pure=False, priority=priority, resources=resources)

    def _hear(self, future: Future) -> None:
        task = self._tasks.pop(future.key)
        track = task.track
        if track.place not in self._tracks:
            return  # the file has failed meanwhile
        if future.status == "cancelled":
            raise InputError("the cluster was lost: start it again, and go on with --resume")
        # Where an answer died with its worker before it was heard, this waits until the task is done again.
        error = future.exception()
        answer = future.result() if error is None else _failure(task, error)
        # It is released at once, so that Dask does not do a task again whose answer was heard.
        del track.futures[future.key]
        future.release()
        if isinstance(answer, ModelWanted):
            self._ask_again(task, answer)
        elif isinstance(answer, Failure):
            self._end(track, FAILED, answer)
        elif isinstance(answer, Finished):
            self._end(track, DONE, warnings=answer.warnings)
        elif isinstance(answer, Surveyed):
            self._take_up(track, answer)
        else:
            track.count(answer)
            self._finish_if_last(track)

    def _take_up(self, track: Track, surveyed: Surveyed) -> None:
        track.surveyed = surveyed
        if surveyed.complete:
            self._end(track, KEPT, warnings=surveyed.warnings)
            return
        track.left = len(surveyed.batches) + 1
        for indices in surveyed.batches:
            arguments = (track.file, surveyed.run, indices, surveyed.volume)
            self._ask(Task(track, steps.reconstruct_batch, arguments, needs_engine=True))
        self._finish_if_last(track)

    def _finish_if_last(self, track: Track) -> None:
        if track.left == 1:
            workers = tuple(sorted(track.workers))
            arguments = (self._model, track.file, track.surveyed, track.timings_s(), workers)
            self._ask(Task(track, steps.finish, arguments))

    def _end(
        self, track: Track, state: str, failure: Failure | None = None, warnings: tuple[str, ...] = ()
    ) -> None:
        del self._tracks[track.place]
        track.held.close()
        if track.futures:
            self._client.cancel(list(track.futures.values()))
        self.records[track.place] = track.record(self.records[track.place], state, failure, warnings)
        self._n_ended += 1
        self._progress.ended(self.records[track.place])

    def _ask_again(self, task: Task, answer: ModelWanted) -> None:
        if task.n_tries > MAX_TRIES:
            message = f"the model does not reach a worker: {answer.reason}; put it where all can read it"
            self._end(task.track, FAILED, Failure(message, "ModelAbsentError"))
            return
        if task.n_gifts == self._n_gifts:  # otherwise it was given meanwhile
            self._give_model()
        self._ask(task)

    def _give_model(self) -> None:
        give_to_cluster(self._client, self._model, self._job.model)
        self._n_gifts += 1


def _failure(task: Task, error: BaseException) -> Failure:
    if isinstance(error, KilledWorker):
        message = (
            f"{task.track.file.kspace}: worker {error.last_worker.name} and others before it died at "
            f"{task.function.__name__}; give the workers more memory, or less to do at once (--batch)"
        )
        return Failure(message, type(error).__name__)
    return Failure(f"{task.track.file.kspace}: {one_line(error)}", type(error).__name__)
