import threading
import time

import numpy as np
import psutil
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.serving import memory as heap
from sbim_deploy.serving.memory import MemoryBudget, Share


def test_what_a_thread_freed_goes_back_to_the_system(monkeypatch):
    trimmer = heap.HeapTrimmer()
    if trimmer._trim is None:
        pytest.skip("the C library has no malloc_trim")
    resident = psutil.Process().memory_info
    kept = []

    def work():
        # Below the size that is mapped on its own; every hundredth stays and keeps the heap's end in use.
        arrays = [np.ones(1000) for _ in range(10_000)]
        kept.extend(arrays[::100])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = resident().rss
    trimmer.trim_when_due()
    assert resident().rss > before - 8 * 1024**2  # not due yet
    monkeypatch.setattr(trimmer, "_due", time.monotonic())
    trimmer.trim_when_due()
    assert resident().rss < before - 30 * 1024**2


def test_what_the_largest_work_needs_stays_free_while_its_session_is_open():
    budget = MemoryBudget(100)
    small, large = Share(budget), Share(budget)
    small.reserve(30)
    large.reserve(60)
    small.hold("slices", 40)
    with pytest.raises(InputError, match="left beside"):
        small.hold("slices", 41)
    large.close()
    small.hold("slices", 70)
    with pytest.raises(InputError, match="the work on a slice would take"):
        Share(budget).reserve(31)
    small.close()
    assert budget.taken == 0
    Share(budget).hold("slices", 100)


def test_more_than_one_slice_is_worked_on_only_while_there_is_room():
    budget = MemoryBudget(100)
    share = Share(budget)
    share.reserve(40)
    share.hold("slices", 30)
    assert budget.begin_work(40)
    assert not budget.has_room([31])
    assert not budget.begin_work(31)
    assert budget.begin_work(30)
    budget.end_work(40)
    assert budget.begin_work(40)
    for work in (30, 40):
        budget.end_work(work)
    assert budget.has_room([40, 30])
    assert budget.begin_work(1000)  # the first, whatever it takes: it was admitted


def test_data_wait_for_slices_beside_another_and_are_refused_only_where_one_alone_is_in_the_way(monkeypatch):
    budget = MemoryBudget(100)
    share = Share(budget)
    share.reserve(40)
    budget.begin_work(40)
    budget.begin_work(40)
    with pytest.raises(InputError, match="left beside"):
        share.hold("slices", 61)  # without waiting
    holding = threading.Thread(target=share.hold, args=("slices", 60))
    holding.start()
    while budget.has_room([0]):
        time.sleep(0.001)
    assert not budget.begin_work(0)  # who waits comes first
    share.release("another slice")  # and others release meanwhile
    budget.end_work(40)
    holding.join(20)
    assert not holding.is_alive()
    assert budget.taken == 60
    budget.begin_work(0)
    monkeypatch.setattr(heap, "MAX_WAIT_S", 0.01)
    share.release("slices")
    budget.begin_work(40)
    with pytest.raises(InputError, match="left beside"):
        share.hold("slices", 60)  # of an engine that hangs
