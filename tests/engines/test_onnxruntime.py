import importlib.metadata
import re
import shutil
import sys

import numpy as np
import pytest
from huge_graph import X, write_huge_graph

from sbim_deploy.engines import onnxruntime as backend
from sbim_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.models.folder import DEMO_FOLDER

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
    with pytest.raises(
        BackendMissingError, match=r"has no CUDAExecutionProvider.*" + re.escape(install_command("gpu"))
    ):
        OnnxRuntimeEngine(SCORE, backend="onnxruntime-cuda")


def test_a_damaged_graph_is_an_input_error(tmp_path):
    damaged = tmp_path / "score.onnx"
    damaged.write_bytes(SCORE.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot load it"):
        OnnxRuntimeEngine(damaged)
    shutil.copy(SCORE, damaged)  # and one whose weights are not beside it
    with pytest.raises(InputError, match=r"weights\.bin"):
        OnnxRuntimeEngine(damaged)


def test_a_graph_that_takes_more_memory_than_there_is_is_one_line(tmp_path):
    engine = OnnxRuntimeEngine(write_huge_graph(tmp_path / "score.onnx"))
    with pytest.raises(InputError, match=r"ONNX Runtime cannot run it on x \(1, 2\) .*; take a smaller"):
        engine.run(X)
    with pytest.raises(InputError, match="ONNX Runtime cannot run it") as caught:
        engine.recur("x", "y", X).advance({})
    assert "\n" not in str(caught.value)


def test_without_onnxruntime_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[cpu\]"'):
        OnnxRuntimeEngine(SCORE)


def test_both_distributions_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(backend, "_is_installed", lambda name: True)
    with pytest.raises(BackendMissingError, match="both installed"):
        OnnxRuntimeEngine(SCORE)


def running_mean(tmp_path):
    """A graph without a network: next = weight * previous + new."""
    from onnx import TensorProto, helper

    shape = ["batch", "size"]
    previous, weight, new, following = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape if name != "weight" else ["batch", 1])
        for name in ("previous", "weight", "new", "following")
    )
    nodes = [
        helper.make_node("Mul", ["weight", "previous"], ["kept"]),
        helper.make_node("Add", ["kept", "new"], ["following"]),
    ]
    graph = helper.make_graph(nodes, "mean", [previous, weight, new], [following])
    path = tmp_path / "mean.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
        ).SerializeToString()
    )
    inputs = {
        "previous": np.array([[1, 2], [3, 4]], np.float32),
        "weight": np.array([[0.5], [2]], np.float32),
        "new": np.zeros((2, 2), np.float32),
    }
    return OnnxRuntimeEngine(path), inputs


def test_a_recurrence_equals_the_same_runs_one_by_one_and_leaves_its_inputs_alone(tmp_path):
    engine, inputs = running_mean(tmp_path)
    before = {name: array.copy() for name, array in inputs.items()}
    recurrence = engine.recur("previous", "following", inputs)
    expected = inputs["previous"]
    for row in range(3):
        new = np.full((2, 2), row, np.float32)
        recurrence.advance({"new": new})
        new.fill(np.nan)  # what was given may be overwritten
        expected = engine.run({**inputs, "previous": expected, "new": np.full((2, 2), row, np.float32)})[
            "following"
        ]
        np.testing.assert_array_equal(recurrence.read(), expected)
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])


def test_what_a_recurrence_reads_is_not_overwritten_by_the_next_run(tmp_path):
    engine, inputs = running_mean(tmp_path)
    recurrence = engine.recur("previous", "following", inputs)
    recurrence.advance({})
    first = recurrence.read()
    kept = first.copy()
    recurrence.advance({})
    recurrence.advance({})
    np.testing.assert_array_equal(first, kept)


def test_a_recurrence_refuses_inputs_unlike_those_that_it_began_with(tmp_path):
    engine, inputs = running_mean(tmp_path)
    recurrence = engine.recur("previous", "following", inputs)
    with pytest.raises(ValueError, match=r"'new' is float32 \(1, 2\), expected float32 \(2, 2\)"):
        recurrence.advance({"new": np.zeros((1, 2), np.float32)})
    with pytest.raises(ValueError, match="'z' is unknown"):
        recurrence.advance({"z": inputs["new"]})
    with pytest.raises(ValueError, match="missing"):
        engine.recur("previous", "following", {"previous": inputs["previous"]})
