import dataclasses
import os
import time

import numpy as np
import pytest

from sbim_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sbim_deploy.errors import InputError, SamplingError, SbimDeployError
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.recon.fused import GUIDED_NUMBERS
from sbim_deploy.runs import bench
from sbim_deploy.runs.bench import (
    Case,
    TimedEngine,
    alone,
    check_case,
    machine,
    measure_backend,
    peak_memory_mb,
)
from sbim_deploy.samplers.choice import SamplerChoice

SMALL = Case((32, 24), 2, SamplerChoice(steps=2))


def test_the_parts_of_a_reconstruction_add_up():
    measured = measure_backend(DEMO_FOLDER, "onnxruntime", SMALL)
    assert measured.backend == "onnxruntime"
    assert measured.network_calls == 2
    assert measured.recon_engine_s + measured.outside_ms / 1000 == pytest.approx(measured.recon_s)
    assert measured.outside_percent == pytest.approx(measured.outside_ms / measured.recon_s / 10)
    assert 0 < measured.outside_percent < 100
    assert all(value > 0 for value in (measured.load_s, measured.first_call_ms, measured.score_ms))
    assert measured.step_ms is not None


def test_a_step_is_measured_in_a_recurrence_as_a_reconstruction_runs_it(monkeypatch):
    calls = []

    class Counting(Slow):
        def run(self, inputs):
            raise AssertionError("a call by itself uploads all inputs and downloads the image")

        def advance(self, changed):
            calls.append(sorted(changed))
            time.sleep(0.004)

        def read(self):
            calls.append("read")

    monkeypatch.setattr(bench, "STEPS_S", 0.04)
    model, problem = load_model(DEMO_FOLDER), bench.phantom_problem((32, 24), 2, 4.0, seed=0)
    seconds = bench._measure_step(model, Counting(), problem)
    assert seconds == pytest.approx(0.004, rel=0.5)
    assert calls[:4] == [sorted([*GUIDED_NUMBERS, "z"])] * 3 + ["read"]
    last = calls[::-1].index("read", 1) - 1
    assert 1 < last <= 16  # many steps between two looks at the state


def test_the_memory_of_the_gpu_is_that_of_this_process(monkeypatch, tmp_path):
    command = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench.gpu_memory_mb() is None
    command.write_text(f"#!/bin/sh\necho '17, 900'\necho '{os.getpid()}, 1234'\necho '{os.getpid()}, 6'\n")
    command.chmod(0o755)
    assert bench.gpu_memory_mb() == 1240
    command.write_text(f"#!/bin/sh\necho '{os.getpid()}, [N/A]'\n")
    assert bench.gpu_memory_mb() is None
    command.write_text("#!/bin/sh\nexit 9\n")
    assert bench.gpu_memory_mb() is None


class Slow:
    """An engine, and its recurrence, of known seconds."""

    def __init__(self):
        self.description = {"backend": "slow"}

    def run(self, inputs):
        time.sleep(0.02)
        return dict(inputs)

    def recur(self, state, output, inputs):
        return self

    def advance(self, changed):
        time.sleep(0.02)

    def read(self):
        time.sleep(0.01)
        return np.ones(1)


def test_a_timed_engine_adds_up_runs_and_recurrences_and_nothing_else():
    engine = TimedEngine(Slow())
    assert engine.run({"x": np.ones(1)}).keys() == {"x"}
    recurrence = engine.recur("x", "y", {})
    time.sleep(0.1)
    recurrence.advance({})
    recurrence.read()
    assert 0.05 <= engine.seconds < 0.1


def test_a_timed_engine_computes_what_the_engine_computes():
    engine = OnnxRuntimeEngine(DEMO_FOLDER / "score.onnx")
    inputs = {"x": np.ones((1, 2, 16, 16), np.float32), "sigma": np.ones(1, np.float32)}
    np.testing.assert_array_equal(TimedEngine(engine).run(inputs)["score"], engine.run(inputs)["score"])
    recurrence = TimedEngine(engine).recur("x", "score", inputs)
    recurrence.advance({})
    np.testing.assert_array_equal(recurrence.read(), engine.run(inputs)["score"])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"size": (8, 128)}, "size is 8x128: expected 16 to 1024"),
        ({"coils": 0}, "coils is 0: expected 1 to 256"),
    ],
)
def test_cases_out_of_range_are_refused(case, message):
    with pytest.raises(InputError, match=message):
        Case(**case)


def test_a_case_that_the_model_does_not_take_is_refused():
    model = load_model("demo")
    with pytest.raises(InputError, match=r"size is 36x32: .* takes multiples of 8"):
        check_case(model, Case((36, 32)))
    with pytest.raises(InputError, match="500 noise levels"):
        check_case(model, Case(choice=SamplerChoice("sbim", 600)))
    grey = dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, channels=1))
    with pytest.raises(InputError, match="has 1 channels, expected 2"):
        check_case(grey, Case())


def fail():
    raise SamplingError("diverged")


def die():
    import os

    os._exit(9)


def test_a_process_of_its_own_hands_back_results_and_errors():
    assert alone(machine) == machine()
    peak = alone(peak_memory_mb)
    assert peak is None or peak < (peak_memory_mb() or 0)
    with pytest.raises(SamplingError, match="diverged"):
        alone(fail)
    with pytest.raises(SbimDeployError, match="process was ended"):
        alone(die)
