"""TensorRT engines on a CUDA in numpy."""

import gc
import sys

import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import INPUTS, SERIALISED, make_package

from sbim_deploy.engines import cuda
from sbim_deploy.engines.tensorrt import TensorRTEngine
from sbim_deploy.engines.tensorrt_builder import Range

RANGES = {"n": Range(1, 2, 4), "k": Range(1, 3, 64)}


@pytest.fixture
def fake(monkeypatch):
    """Make engines on a fake CUDA: fake(backend, **streams) returns the engine, the CUDA and the package."""

    def make(backend="rtx", cache=None, **streams):
        gc.collect()  # what is freed only now is still the former runtime's
        runtime = FakeCuda(**streams)
        package = make_package(runtime, rtx=backend == "rtx")
        monkeypatch.setattr(cuda, "runtime", lambda: runtime)
        monkeypatch.setitem(sys.modules, package.__name__, package)
        return TensorRTEngine(backend, SERIALISED, INPUTS, RANGES, cache), runtime, package

    gc.freeze()  # what was there before need not be looked at in every collection
    yield make
    gc.collect()
    gc.unfreeze()
