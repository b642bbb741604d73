import threading
import time
import tracemalloc

import numpy as np
import psutil
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.serving import memory as heap
from sbim_deploy.serving.memory import MemoryBudget, Share, work_bytes


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


@pytest.mark.parametrize(("n_coils", "size"), [(1, 96), (8, 128), (48, 64)])
def test_the_work_on_a_slice_takes_no_more_memory_than_is_kept_free_for_it(n_coils, size):
    mask = line_mask(size, 2.0)
    kspace = simulate_slice(SimulateSettings(16, n_coils, size, 2.0), mask, 0).kspace.astype(np.complex64)
    model = load_model("demo")
    sampler = Reconstructor(
        model, SamplerChoice(steps=1), open_graph=lambda name: open_engine(model, name, "onnxruntime", 1)
    )
    tracemalloc.start()
    try:
        problem = prepare_slice(kspace)
        sampler([problem])
        classical_image(problem, Classical.CG_SENSE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    of_arrays = work_bytes((n_coils, size, size), model.manifest.ngf) - heap.BYTES_OF_SHAPE
    assert peak <= of_arrays + 2**20
