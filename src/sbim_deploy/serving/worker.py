"""The worker runs the one engine that all sessions share, and has a queue of slices."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from sbim_deploy.engines.engine import Engine
from sbim_deploy.errors import DeviceLostError, SamplingError
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import Model
from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.self_check import check_converged
from sbim_deploy.records import ComplexArray
from sbim_deploy.serving.parameters import Request

Prepare = Callable[[Callable[[], None]], SliceProblem]
"""Makes a slice's problem, and calls what it is given between the parts of the work."""

QUEUE_LENGTH = 8
KEPT_RECONSTRUCTORS = 32


class SliceJob:
    """A slice that is to be reconstructed, what came of it, and when; times are those of time.monotonic.

    In the end there is an ``image``, complex64 (rows, columns) in units of k-space, with its ``method`` and
    its ``residual``, or there is none. An ``error`` beside an image says why it is not what was asked for.
    ``doubts`` are the reasons why the image may be wrong. ``problem`` is there from when the slice is
    prepared to when it has an image.
    """

    def __init__(self, prepare: Prepare, request: Request, deadline_s: float):
        self.request = request
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
    """A thread that reconstructs slices one after the other, in the order in which they came.

    Sessions share the graphs, so that a sampler of a session's own costs no more than its plan. An error of
    the engine ends the slice, never the worker: ``fallback`` makes its image, or the measured data alone
    where memory was short. A job is given up at its deadline. An engine that hangs holds the worker up, which
    ``busy_for`` shows. Where the GPU has failed, later slices that need it end with that error at once.
    """

    def __init__(
        self,
        model: Model,
        backend: str,
        threads: int | None,
        fallback: Classical = Classical.L1_WAVELET,
        precision: str | None = None,
    ):
        self._model, self._backend, self._threads, self._precision = model, backend, threads, precision
        self._fallback = fallback
        self._engines: dict[str, Engine] = {}
        self._reconstructor = lru_cache(KEPT_RECONSTRUCTORS)(self._make_reconstructor)
        self._queue: deque[SliceJob] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: float | None = None
        self.lost: DeviceLostError | None = None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self, first: Request) -> dict[str, str]:
        """Open the graph of a first request, begin to work, and return what runs it.

        Raises:
            SbimDeployError: the engine cannot be opened; see :class:`Reconstructor`.
        """
        description = dict(self._reconstructor(first).engine.description)
        self._thread.start()
        return description

    @property
    def queued(self) -> int:
        """The number of slices that wait."""
        return len(self._queue)

    @property
    def busy_for(self) -> float:
        """The seconds that the present slice has taken so far; 0 where there is none."""
        since = self._busy_since
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
        if self._thread.ident is not None:
            self._thread.join(patience_s)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            job.started_at = self._busy_since = time.monotonic()
            try:
                self._reconstruct(job)
            except _CancelledError:
                pass
            except DeviceLostError as error:
                job.error = self.lost = error
                self._fall_back(job)
            except Exception as error:
                job.error = error
                self._fall_back(job)
            finally:
                self._busy_since = None
                job.end()

    def _next(self) -> SliceJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if self._closed:
                return None
            job = self._queue.popleft()
            self._changed.notify_all()
            return job

    def _reconstruct(self, job: SliceJob) -> None:
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
        (result,) = self._reconstructor(job.request)([problem], lambda _steps_done: check())
        check_converged(result.index, result.doubts)
        job.image, job.residual, job.doubts = result.image, result.residual, result.doubts

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

    def _make_reconstructor(self, request: Request) -> Reconstructor:
        if isinstance(request.method, Classical):
            raise SamplingError(f"{request.configuration} has no sampler")
        return Reconstructor(
            self._model,
            request.method,
            request.seed,
            samples=request.samples,
            deviations=False,
            open_graph=self._open_graph,
        )

    def _open_graph(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = open_engine(
                self._model, name, self._backend, self._threads, self._precision
            )
        return self._engines[name]


class _CancelledError(Exception):
    """Raised where nobody waits for the slice any more."""
