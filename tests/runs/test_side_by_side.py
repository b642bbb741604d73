"""Streams by events: who runs beside whom, what comes first, and what an end in the middle leaves."""

import threading
from contextlib import closing

import pytest

from sbim_deploy.errors import SamplingError
from sbim_deploy.runs import side_by_side
from sbim_deploy.runs.side_by_side import reconstruct_batches

WAIT_S = 20


class Fake:
    """Reconstructs numbers: ``do`` is called with a number and the hook of its steps."""

    def __init__(self, streams, do=lambda number, on_step: None):
        self.streams, self._do = streams, do
        self.begun, self.threads = [], set()

    def __call__(self, problems, on_step=None, on_residual=None):
        self.begun.append(problems[0])
        self.threads.add(threading.current_thread())
        self._do(problems[0], on_step)
        if on_residual is not None:
            on_residual(problems[0], 1, 0.5)
        return list(problems)


def batches_of(n, size=1):
    return [[number] * size for number in range(n)]


def wait(event):
    assert event.wait(WAIT_S)


def keep(got, done):
    for results, _ in done:
        got.append(results)


def work_until_stopped(on_step):
    while True:
        on_step(1)


def test_one_stream_works_in_the_thread_of_the_caller_and_prepares_nothing_ahead():
    fake, prepared = Fake(1), []

    def batches():
        for batch in batches_of(3):
            prepared.append(batch)
            yield batch

    for number, (results, seconds) in enumerate(reconstruct_batches(fake, batches())):
        assert results == [number]
        assert seconds >= 0
        assert len(prepared) == number + 1
    assert fake.threads == {threading.current_thread()}


def test_as_many_batches_as_there_are_streams_are_reconstructed_at_once():
    together = threading.Barrier(3)
    fake = Fake(3, lambda _number, _on_step: together.wait(WAIT_S))
    assert [results for results, _ in reconstruct_batches(fake, batches_of(6))] == batches_of(6)
    assert len(fake.threads) == 3
    assert threading.current_thread() not in fake.threads


def test_results_come_in_the_order_of_the_batches_whichever_is_there_first():
    second_is_done = threading.Event()

    def do(number, _on_step):
        if number == 0:
            wait(second_is_done)
        if number == 1:
            second_is_done.set()

    assert [results for results, _ in reconstruct_batches(Fake(2, do), batches_of(5))] == batches_of(5)


def test_calls_and_residuals_of_all_streams_are_told_one_at_a_time():
    together, told, residuals, busy = threading.Barrier(2), [], [], threading.Lock()

    def do(_number, on_step):
        together.wait(WAIT_S)
        for n_calls in range(5):
            on_step(n_calls)

    def tell(what, to):
        assert busy.acquire(blocking=False)
        to.append(what)
        busy.release()

    batches = batches_of(4, size=3)
    done = reconstruct_batches(
        Fake(2, do), batches, lambda n: tell(n, told), lambda *each: tell(each, residuals)
    )
    assert len(list(done)) == 4
    assert sum(told) == 4 * 3 * 4
    assert sorted(residuals) == [(number, 1, 0.5) for number in range(4)]


def test_an_error_in_one_stream_stops_the_others_and_what_is_finished_comes_first():
    third_has_begun = threading.Event()

    def do(number, on_step):
        if number == 0:
            wait(third_has_begun)
            raise SamplingError("slice 0: diverged")
        if number == 2:
            third_has_begun.set()
            work_until_stopped(on_step)

    fake, got = Fake(2, do), []
    with pytest.raises(SamplingError, match="slice 0: diverged"):
        keep(got, reconstruct_batches(fake, batches_of(10)))
    assert got == [[1]]
    assert fake.begun == [0, 1, 2]


def test_what_comes_before_a_batch_that_fails_is_done_first():
    failed = threading.Event()

    def do(number, on_step):
        if number == 0:
            wait(failed)
            on_step(1)
        if number == 1:
            failed.set()
            raise SamplingError("slice 1: diverged")
        if number == 2:
            work_until_stopped(on_step)

    got = []
    with pytest.raises(SamplingError, match="slice 1: diverged"):
        keep(got, reconstruct_batches(Fake(2, do), batches_of(10)))
    assert got == [[0]]


@pytest.mark.parametrize("where", ["in the preparation", "while results are waited for"])
def test_an_interrupt_keeps_what_is_finished_and_stops_the_rest(monkeypatch, where):
    second_is_done = threading.Event()

    def do(number, on_step):
        if number == 0:
            work_until_stopped(on_step)
        second_is_done.set()

    def batches():
        yield from batches_of(2)
        wait(second_is_done)
        if where == "in the preparation":
            raise KeyboardInterrupt
        interrupt_waiting(monkeypatch)

    got = []
    with pytest.raises(KeyboardInterrupt):
        keep(got, reconstruct_batches(Fake(2, do), batches()))
    assert got == [[1]]


def interrupt_waiting(monkeypatch):
    """Let Ctrl-C come as soon as somebody waits for a result."""

    def interrupted(*_arguments, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(side_by_side, "wait", interrupted)


def test_who_stops_iterating_stops_the_streams():
    fake = Fake(2, lambda number, on_step: work_until_stopped(on_step) if number else None)
    with closing(reconstruct_batches(fake, batches_of(5))) as done:
        assert next(done)[0] == [0]
    assert not any(thread.is_alive() for thread in fake.threads)
    assert 4 not in fake.begun


def test_an_error_of_who_is_told_ends_the_run():
    def tell(_n_calls):
        raise BrokenPipeError

    fake = Fake(2, lambda _number, on_step: on_step(1))
    with pytest.raises(BrokenPipeError):
        list(reconstruct_batches(fake, batches_of(3), tell))
