import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from huge_graph import X, write_huge_graph

from sbim_deploy.engines import openvino as backend
from sbim_deploy.engines.comparison import compare
from sbim_deploy.engines.engine import TensorSpec
from sbim_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sbim_deploy.engines.openvino import OpenVinoEngine
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.models.backends import tensor_specs
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.recon.channels import to_channels
from sbim_deploy.recon.parity import noisy_phantom, tolerance

SCORE = DEMO_FOLDER / "score.onnx"
INPUTS, _ = tensor_specs(load_model("demo").manifest, "score")


@pytest.fixture(scope="module")
def engines():
    pytest.importorskip("openvino", reason="OpenVINO is not installed: its engine is not tested")
    return OpenVinoEngine(SCORE, INPUTS), OnnxRuntimeEngine(SCORE)


def noisy(shape, sigma, batch=1):
    images = [to_channels(noisy_phantom(shape, sigma, seed)) for seed in range(batch)]
    return {"x": np.stack(images), "sigma": np.full(batch, sigma, np.float32)}


def test_it_says_what_runs_the_graph_and_with_which_inputs(engines):
    openvino, onnxruntime = engines
    assert openvino.description["backend"] == "openvino"
    assert openvino.description["version"]
    assert openvino.description["device"]
    assert openvino.inputs == onnxruntime.inputs


@pytest.mark.parametrize("sigma", [50, 0.7, 0.01])
@pytest.mark.parametrize(("shape", "batch"), [((64, 64), 1), ((24, 40), 3), ((64, 64), 2), ((8, 8), 1)])
def test_it_computes_what_onnxruntime_computes(engines, sigma, shape, batch):
    got, expected = (engine.run(noisy(shape, sigma, batch))["score"] for engine in engines)
    parity = compare("score", got, expected, tolerance(sigma))
    assert parity.passed, parity


def test_it_computes_in_single_precision_whatever_the_processor_prefers(engines):
    openvino, _ = engines
    compiled = openvino._compiled_for(noisy((16, 16), 1.0)).model
    precision = compiled.get_property("INFERENCE_PRECISION_HINT")
    assert precision.to_dtype() == np.float32


def test_shapes_come_and_go_and_few_are_kept(engines):
    openvino, _ = engines
    first = openvino.run(noisy((16, 16), 1.0))["score"]
    for size in (24, 32, 40):
        openvino.run(noisy((size, 16), 1.0))
    assert len(openvino._compiled) == backend.MAX_COMPILED
    np.testing.assert_array_equal(openvino.run(noisy((16, 16), 1.0))["score"], first)


def test_what_a_run_returns_is_not_overwritten_by_the_next(engines):
    openvino, _ = engines
    first = openvino.run(noisy((16, 16), 1.0))["score"]
    kept = first.copy()
    openvino.run(noisy((16, 16), 2.0))
    np.testing.assert_array_equal(first, kept)


def test_one_thread_computes_the_same(engines):
    openvino, _ = engines
    inputs = noisy((32, 32), 1.0)
    one = OpenVinoEngine(SCORE, INPUTS, threads=1).run(inputs)["score"]
    assert compare("score", one, openvino.run(inputs)["score"], tolerance(1.0)).passed


@pytest.mark.usefixtures("engines")
def test_streams_compute_calls_of_several_threads_at_once_each_as_one_thread_does():
    one, two = OpenVinoEngine(SCORE, INPUTS, threads=1), OpenVinoEngine(SCORE, INPUTS, threads=3, streams=2)
    assert (one.description["streams"], one.description["threads"]) == ("1", "1")
    assert (two.description["streams"], two.description["threads"]) == ("2", "2")
    slices = [{**noisy((32, 32), 1.0), "x": noisy((32, 32), 1.0, batch=6)["x"][[i]]} for i in range(6)]

    def twice(engine, inputs):
        recurrence = engine.recur("x", "score", inputs)
        recurrence.advance({})
        recurrence.advance({})
        return engine.run(inputs)["score"], recurrence.read()

    expected = [twice(one, inputs) for inputs in slices]
    with ThreadPoolExecutor(3) as threads:
        got = list(threads.map(lambda inputs: twice(two, inputs), slices))
    np.testing.assert_array_equal(got, expected)
    (compiled,) = two._compiled.values()
    assert compiled.model.get_property("NUM_STREAMS") == 2
    assert compiled.model.get_property("INFERENCE_NUM_THREADS") == 2


@pytest.mark.usefixtures("engines")
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system does not tell a process's cores"
)
def test_the_caller_keeps_the_cores_that_it_may_run_on():
    """Or two processes of one thread each would share the first core, and leave the second idle."""
    before = os.sched_getaffinity(0)
    OpenVinoEngine(SCORE, INPUTS, threads=1).run(noisy((16, 16), 1.0))
    assert os.sched_getaffinity(0) == before


def test_wrong_inputs_are_refused_at_the_door(engines):
    openvino, _ = engines
    good = noisy((16, 16), 1.0)
    for changes, message in [
        ({"x": good["x"].astype(np.float64)}, "'x' has dtype float64, expected float32"),
        ({"sigma": np.ones(2, np.float32)}, "'sigma' has batch = 2, but input 'x' has 1"),
        ({"x": good["x"][:, :1]}, r"'x' has shape \(1, 1, 16, 16\)"),
        ({"x": good["x"][:, :, :4]}, "the graph does not take the shapes"),
    ]:
        with pytest.raises(ValueError, match=message):
            openvino.run({**good, **changes})
    np.testing.assert_array_equal(openvino.run(good)["score"].shape, (1, 2, 16, 16))


def test_a_damaged_graph_is_an_input_error(engines, tmp_path, capfd):
    damaged = tmp_path / "score.onnx"
    for content in (SCORE.read_bytes()[:5000], b""):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="OpenVINO cannot load it"):
            OpenVinoEngine(damaged, INPUTS)
    shutil.copy(SCORE, damaged)  # and one whose weights are not beside it
    with pytest.raises(InputError, match=r"weights\.bin"):
        OpenVinoEngine(damaged, INPUTS)
    with pytest.raises(InputError, match="OpenVINO cannot load it"):
        OpenVinoEngine(tmp_path / "nowhere.onnx", INPUTS)
    assert capfd.readouterr().err == ""


def test_a_graph_that_takes_more_memory_than_there_is_is_one_line(tmp_path):
    path = write_huge_graph(tmp_path / "score.onnx")
    engine = OpenVinoEngine(path, {"x": TensorSpec("x", np.dtype(np.float32), ("n", 2))})
    for run in (lambda: engine.run(X), lambda: engine.recur("x", "y", X).advance({})):
        with pytest.raises(InputError, match=r"OpenVINO cannot run it on x \(1, 2\)") as caught:
            run()
        assert "\n" not in str(caught.value)


def test_without_openvino_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[openvino\]"'):
        OpenVinoEngine(SCORE, INPUTS)


def test_a_recurrence_equals_the_same_runs_one_by_one_and_leaves_its_inputs_alone(engines):
    openvino, _ = engines
    inputs = noisy((16, 24), 1.0, batch=2)
    before = {name: array.copy() for name, array in inputs.items()}
    recurrence = openvino.recur("x", "score", inputs)
    expected, kept = inputs["x"], None
    for row in range(4):
        sigma = np.full(2, 1.0 + row, np.float32)
        recurrence.advance({"sigma": sigma})
        expected = openvino.run({"x": expected, "sigma": sigma.copy()})["score"]
        sigma.fill(np.nan)  # what was given may be overwritten
        state = recurrence.read()
        np.testing.assert_array_equal(state, expected)
        if kept is None:
            kept = state, state.copy()
    np.testing.assert_array_equal(*kept)  # and what was read stays
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])


def test_the_state_of_a_recurrence_can_be_given_anew(engines):
    openvino, _ = engines
    inputs = noisy((16, 16), 1.0)
    recurrence = openvino.recur("x", "score", inputs)
    for _ in range(2):
        recurrence.advance({"x": inputs["x"]})
        np.testing.assert_array_equal(recurrence.read(), openvino.run(inputs)["score"])


def test_a_recurrence_refuses_inputs_unlike_those_that_it_began_with(engines):
    openvino, _ = engines
    inputs = noisy((16, 16), 1.0)
    recurrence = openvino.recur("x", "score", inputs)
    with pytest.raises(ValueError, match=r"'sigma' is float32 \(2,\), expected float32 \(1,\)"):
        recurrence.advance({"sigma": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="'z' is unknown"):
        recurrence.advance({"z": inputs["x"]})
    with pytest.raises(ValueError, match="missing"):
        openvino.recur("x", "score", {"x": inputs["x"]})
