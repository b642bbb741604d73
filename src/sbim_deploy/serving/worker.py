"""The worker runs the engine that all sessions share, and has a queue of slices."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from sbim_deploy.engines.engine import Engine
from sbim_deploy.errors import DeviceLostError, SamplingError
from sbim_deploy.models.backends import SIDE_BY_SIDE, backend_of, open_engine
from sbim_deploy.models.folder import Model
from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, SCORE_GRAPH, Reconstructor
from sbim_deploy.recon.self_check import check_converged
from sbim_deploy.recon.streams import count_streams, work_bytes
from sbim_deploy.records import ComplexArray
from sbim_deploy.serving.memory import MemoryBudget
from sbim_deploy.serving.parameters import Request

Prepare = Callable[[Callable[[], None]], SliceProblem]
"""Makes a slice's problem, and calls what it is given between the parts of the work."""

QUEUE_LENGTH = 8
KEPT_RECONSTRUCTORS = 32
USUAL_SHAPE = 16, 320, 320  # of the k-space by which the memory decides how many slices are at work at most


class SliceJob:
    """A slice that is to be reconstructed, what came of it, and when; times are those of time.monotonic.

    In the end there is an ``image``, complex64 (rows, columns) in units of k-space, with its ``method`` and
    its ``residual``, or there is none. An ``error`` beside an image says why it is not what was asked for.
    ``doubts`` are the reasons why the image may be wrong, and ``prior_orientations`` is
    :attr:`Reconstruction.prior_orientations`. ``work_bytes`` is what the work on it takes at most.
    ``problem`` is there from when the slice is prepared to when it has an image.
    """

    def __init__(self, prepare: Prepare, request: Request, deadline_s: float, work_bytes: int = 0):
        self.request = request
        self.work_bytes = work_bytes
        self.prepare: Prepare | None = prepare
        self.completed_at = time.monotonic()
        self.deadline = self.completed_at + deadline_s
        self.started_at: float | None = None
        self.problem: SliceProblem | None = None
        self.is_prepared = False
        self.image: ComplexArray | None = None
        self.method = request.configuration
        self.residual = float("nan")
        self.doubts: tuple[Fault, ...] = ()
        self.prior_orientations: int | None = None
        self.error: Exception | None = None
        self.cancelled = False
        self._ended = threading.Event()

    def wait(self) -> bool:
        """Wait until the job has ended or its deadline has passed, and tell whether it has ended."""
        return self._ended.wait(max(0.0, self.deadline - time.monotonic()))

    def end(self) -> None:
        """Tell who waits that there is an image or an error."""
        self.prepare = None
        if self.image is not None:
            self.problem = None
        self._ended.set()


class Worker:
    """Threads that reconstruct slices in the order in which they came.

    A slice alone gets all threads of the engine. Where others wait, and the backend gains by it, slices are
    reconstructed side by side, each on its share of the threads, as far as ``budget`` has the memory and the
    slice can be in time so: what the last slice alone took, times the number of shares, is before its
    deadline. While a slice has all threads no other begins.

    Sessions share the graphs, so that a sampler of a session's own costs no more than its plan; the one for
    samples along a trajectory is opened where the first such slice comes. An error of the engine ends the
    slice, never the worker: ``fallback`` makes its image, or the measured data alone where memory was short.
    A job is given up at its deadline. An engine that hangs holds up its slice, and the worker if that was
    alone, which ``busy_for`` shows. Where the GPU has failed, later slices that need it end with that error
    at once.
    """

    def __init__(
        self,
        model: Model,
        backend: str,
        threads: int | None,
        budget: MemoryBudget,
        fallback: Classical = Classical.L1_WAVELET,
        precision: str | None = None,
    ):
        self._model, self._backend, self._threads, self._precision = model, backend, threads, precision
        self._fallback = fallback
        self._budget = budget
        self._engines: dict[tuple[str, int], Engine] = {}
        self._opening = threading.Lock()
        self._reconstructor = lru_cache(KEPT_RECONSTRUCTORS)(self._make_reconstructor)
        self._queue: deque[SliceJob] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._streams = 1
        self._at_work: dict[SliceJob, float] = {}
        self._is_alone = False
        self._alone_s = 0.0
        self.lost: DeviceLostError | None = None
        self._lanes: list[threading.Thread] = []

    def start(self, first: Request) -> dict[str, str]:
        """Open the graph of a first request, begin to work, and return what runs it.

        Raises:
            SbimDeployError: the engine cannot be opened; see :class:`Reconstructor`.
        """
        description = dict(self._reconstructor(first, 1).engine.description)
        if description["backend"] in SIDE_BY_SIDE:
            # Of the same backend, whatever `auto` would find of it with fewer threads.
            self._backend, self._precision = backend_of(description), None
            usual = work_bytes(USUAL_SHAPE, self._model.manifest.ngf)
            self._streams = count_streams(QUEUE_LENGTH, usual, self._threads)
        if self._streams > 1:
            self._reconstructor(first, self._streams)
        for number in range(self._streams):
            lane = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)
            self._lanes.append(lane)
            lane.start()
        return description

    @property
    def queued(self) -> int:
        """The number of slices that wait."""
        return len(self._queue)

    @property
    def busy_for(self) -> float:
        """The seconds that the slice that began first of those at work has taken so far; 0 without one."""
        with self._changed:
            since = min(self._at_work.values(), default=None)
        return 0.0 if since is None else time.monotonic() - since

    def submit(self, job: SliceJob) -> None:
        """Queue a job. While the queue is full, this waits until there is room or the job is cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) < QUEUE_LENGTH or job.cancelled or self._closed)
            if not (job.cancelled or self._closed):
                self._queue.append(job)
                self._changed.notify_all()

    def cancel(self, job: SliceJob) -> None:
        """Give a job up. It leaves the queue, or stops after the step that is being computed."""
        with self._changed:
            job.cancelled = True
            if job in self._queue:
                self._queue.remove(job)
            self._changed.notify_all()
        job.end()

    def close(self, patience_s: float) -> None:
        """Give everything up, and wait at most ``patience_s`` seconds for the step that is being computed."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        until = time.monotonic() + patience_s
        for lane in self._lanes:
            lane.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            job, streams = taken
            try:
                self._reconstruct(job, streams)
            except _CancelledError:
                pass
            except DeviceLostError as error:
                job.error = self.lost = error
                self._fall_back(job)
            except Exception as error:
                job.error = error
                self._fall_back(job)
            finally:
                self._put_down(job, streams)
                job.end()

    def _next(self) -> tuple[SliceJob, int] | None:
        """Wait for a job that can begin, and return it with the number of shares that the threads are in."""
        with self._changed:
            while not self._closed:
                if self._queue and (streams := self._streams_for(self._queue[0])):
                    job = self._queue.popleft()
                    job.started_at = self._at_work[job] = time.monotonic()
                    self._is_alone = streams == 1
                    self._changed.notify_all()
                    return job, streams
                self._changed.wait()
            return None

    def _streams_for(self, job: SliceJob) -> int:
        """Return the shares of the threads of which the first of the queue gets one now; 0 where it waits."""
        in_time = self._streams * self._alone_s < job.deadline - time.monotonic()
        if not self._at_work:
            first_two = list(itertools.islice(self._queue, 2))
            has_company = len(first_two) > 1 and self._budget.has_room(each.work_bytes for each in first_two)
            self._budget.begin_work(job.work_bytes)
            return self._streams if has_company and in_time else 1
        if self._is_alone or len(self._at_work) == self._streams or not in_time:
            return 0
        return self._streams if self._budget.begin_work(job.work_bytes) else 0

    def _put_down(self, job: SliceJob, streams: int) -> None:
        with self._changed:
            began = self._at_work.pop(job)
            self._budget.end_work(job.work_bytes)
            if streams == 1 and not isinstance(job.request.method, Classical):
                took, failed = time.monotonic() - began, job.image is None or job.error is not None
                self._alone_s = max(took, self._alone_s) if failed else took
            self._changed.notify_all()

    def _reconstruct(self, job: SliceJob, streams: int) -> None:
        prepare, check = job.prepare, self._checking(job)
        if prepare is None:
            raise _CancelledError
        problem = job.problem = prepare(check)
        job.is_prepared = True
        check()
        if isinstance(job.request.method, Classical):
            job.image, job.residual = classical_image(problem, job.request.method, check)
            return
        if self.lost is not None:
            raise self.lost
        graph = DEFAULT_GRAPH if problem.trajectory is None else SCORE_GRAPH
        reconstruct = self._reconstructor(job.request, streams, graph)
        (result,) = reconstruct([problem], lambda _steps_done: check())
        check_converged(result.index, result.doubts)
        job.image, job.residual, job.doubts = result.image, result.residual, result.doubts
        job.prior_orientations = result.prior_orientations

    def _fall_back(self, job: SliceJob) -> None:
        """Make an image without the network where the problem is there and there is time."""
        if job.problem is None:
            return
        method = Classical.ZERO_FILLED if isinstance(job.error, MemoryError) else self._fallback
        try:
            job.image, job.residual = classical_image(job.problem, method, self._checking(job))
            job.method = method.value
        except Exception:  # it was cancelled, or memory is short: the measured data alone are sent
            job.image = None

    def _checking(self, job: SliceJob) -> Callable[[], None]:
        """Return what gives a job up where nobody waits for it or its deadline has passed."""

        def check() -> None:
            if job.cancelled or self._closed or time.monotonic() > job.deadline:
                raise _CancelledError

        return check

    def _make_reconstructor(
        self, request: Request, streams: int, graph: str = DEFAULT_GRAPH
    ) -> Reconstructor:
        if isinstance(request.method, Classical):
            raise SamplingError(f"{request.configuration} has no sampler")
        return Reconstructor(
            self._model,
            request.method,
            request.seed,
            graph=graph,
            samples=request.samples,
            deviations=False,
            open_graph=lambda name: self._open_graph(name, streams),
        )

    def _open_graph(self, name: str, streams: int) -> Engine:
        with self._opening:
            if (name, streams) not in self._engines:
                self._engines[name, streams] = open_engine(
                    self._model, name, self._backend, self._threads, self._precision, streams
                )
            return self._engines[name, streams]


class _CancelledError(Exception):
    """Raised where nobody waits for the slice any more."""
