"""Batches of slices, reconstructed side by side where the engine has streams, and given back in order."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import ClassicalReconstructor, OnResidual, Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction

INTERRUPTIBLE_S = 0.5  # Windows hears of Ctrl-C between waits alone
Reconstruct = Reconstructor | ClassicalReconstructor
Done = tuple[list[Reconstruction], float]
"""The results of a batch, and the seconds that they took."""


def reconstruct_batches(
    reconstruct: Reconstruct,
    batches: Iterable[Sequence[SliceProblem]],
    on_calls: Callable[[int], None] | None = None,
    on_residual: OnResidual | None = None,
) -> Generator[Done, None, None]:
    """Reconstruct batches, and yield their results in the order of the batches.

    With one stream that is done here, one batch after the other. With several each has a thread, while this
    one prepares batches, as many ahead as there are streams. ``on_calls`` hears of so many more network
    calls, over all slices of a batch; it and ``on_residual`` are called in the streams' threads, one at a
    time.

    What a batch raises stops those after it, each after the call that is being computed, and is raised when
    those before it are done. An interrupt, or what ``batches`` raises, stops all. What is finished by then is
    yielded first, so that it can be kept. Who stops iterating has to close the iterator, which stops all too.
    """
    if reconstruct.streams > 1:
        yield from _Streams(reconstruct, on_calls, on_residual).run(batches)
        return
    for batch in batches:
        before = time.perf_counter()
        on_step = None if on_calls is None else _call_counter(on_calls, len(batch))
        results = reconstruct(batch, on_step, on_residual)
        yield results, time.perf_counter() - before


class _Streams:
    """The threads of a run, which stop together."""

    def __init__(
        self,
        reconstruct: Reconstruct,
        on_calls: Callable[[int], None] | None,
        on_residual: OnResidual | None,
    ):
        self._reconstruct = reconstruct
        self._on_calls, self._on_residual = on_calls, on_residual
        self._end: float = math.inf  # batches from this number on are stopped
        self._ending, self._telling = threading.Lock(), threading.Lock()

    def run(self, batches: Iterable[Sequence[SliceProblem]]) -> Iterator[Done]:
        n_streams = self._reconstruct.streams
        begun: deque[Future[Done]] = deque()
        with ThreadPoolExecutor(n_streams, thread_name_prefix="stream") as threads:
            try:
                for number, batch in enumerate(batches):
                    begun.append(threads.submit(self._work, number, batch))
                    while begun and (begun[0].done() or len(begun) >= 2 * n_streams):
                        yield self._first(begun)
                while begun:
                    yield self._first(begun)
            except GeneratorExit:
                self._stop(begun, threads)
                raise
            except BaseException:
                self._stop(begun, threads)
                for each in begun:
                    if not each.cancelled() and each.exception() is None:
                        yield each.result()
                raise

    def _first(self, begun: deque[Future[Done]]) -> Done:
        """Wait for the first batch; it is the first until it is there, whatever interrupts the waiting."""
        while not begun[0].done():
            wait([begun[0]], timeout=INTERRUPTIBLE_S)
        done = begun[0].result()
        begun.popleft()
        return done

    def _stop(self, begun: deque[Future[Done]], threads: ThreadPoolExecutor) -> None:
        self._end_at(0)
        for each in begun:
            each.cancel()
        threads.shutdown(wait=True)

    def _end_at(self, number: int) -> None:
        with self._ending:
            self._end = min(self._end, number)

    def _work(self, number: int, batch: Sequence[SliceProblem]) -> Done:
        try:
            return self._reconstruct_batch(number, batch)
        except BaseException:
            self._end_at(number)
            raise

    def _reconstruct_batch(self, number: int, batch: Sequence[SliceProblem]) -> Done:
        count = None if self._on_calls is None else _call_counter(self._on_calls, len(batch))

        def check() -> None:
            if number >= self._end:
                raise _StoppedError

        def on_step(n_calls: int) -> None:
            check()
            if count is not None:
                with self._telling:
                    count(n_calls)

        def on_residual(index: int, steps_done: int, residual: float) -> None:
            assert self._on_residual is not None
            with self._telling:
                self._on_residual(index, steps_done, residual)

        check()
        before = time.perf_counter()
        hook = None if self._on_residual is None else on_residual
        return self._reconstruct(batch, on_step, hook), time.perf_counter() - before


class _StoppedError(Exception):
    """Raised in a stream whose batch is not wanted any more."""


def _call_counter(on_calls: Callable[[int], None], n_slices: int) -> Callable[[int], None]:
    counted = 0

    def on_step(n_calls: int) -> None:
        nonlocal counted
        on_calls((n_calls - counted) * n_slices)
        counted = n_calls

    return on_step
