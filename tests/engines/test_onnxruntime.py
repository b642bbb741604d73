import importlib.metadata
import shutil
import sys

import numpy as np
import pytest

from sbim_deploy.engines import onnxruntime as backend
from sbim_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.recon.model import DEMO_FOLDER

SCORE = DEMO_FOLDER / "score.onnx"


def test_it_says_what_runs_the_graph_and_with_which_inputs():
    engine = OnnxRuntimeEngine(SCORE)
    assert engine.description["provider"] == "CPUExecutionProvider"
    assert engine.description["version"] == importlib.metadata.version("onnxruntime")
    assert engine.inputs["x"].shape == ("batch", 2, "8*h", "8*w")


def test_any_batch_and_any_multiple_of_eight_and_threads_do_not_matter():
    x = np.random.default_rng(0).standard_normal((3, 2, 24, 40), dtype=np.float32)
    sigma = np.array([10, 1, 0.1], np.float32)
    outputs = [
        OnnxRuntimeEngine(SCORE, threads).run({"x": x, "sigma": sigma})["score"] for threads in (None, 1)
    ]
    assert outputs[0].shape == x.shape
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-4)
    alone = OnnxRuntimeEngine(SCORE).run({"x": x[1:2], "sigma": sigma[1:2]})["score"]
    np.testing.assert_allclose(alone[0], outputs[0][1], rtol=1e-3, atol=1e-4)


def test_wrong_inputs_are_refused_at_the_door():
    with pytest.raises(ValueError, match="'x' has dtype float64, expected float32"):
        OnnxRuntimeEngine(SCORE).run({"x": np.zeros((1, 2, 8, 8)), "sigma": np.ones(1, np.float32)})


def test_another_provider_is_never_taken_in_silence():
    with pytest.raises(BackendMissingError, match=r"has no CUDAExecutionProvider.*sbim-deploy\[gpu\]"):
        OnnxRuntimeEngine(SCORE, provider="CUDAExecutionProvider")


def test_a_damaged_graph_is_an_input_error(tmp_path):
    damaged = tmp_path / "score.onnx"
    damaged.write_bytes(SCORE.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot load it"):
        OnnxRuntimeEngine(damaged)
    shutil.copy(SCORE, damaged)  # and one whose weights are not beside it
    with pytest.raises(InputError, match=r"weights\.bin"):
        OnnxRuntimeEngine(damaged)


def test_without_onnxruntime_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match=r'pip install "sbim-deploy\[cpu\]"'):
        OnnxRuntimeEngine(SCORE)


def test_both_distributions_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(backend, "_is_installed", lambda name: True)
    with pytest.raises(BackendMissingError, match="both installed"):
        OnnxRuntimeEngine(SCORE)
