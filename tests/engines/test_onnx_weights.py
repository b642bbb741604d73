"""The weights of a model are on a GPU once, whatever graphs are open: with the real package, on the CPU."""

import gc
import shutil
import sys

import fake_onnxruntime
import numpy as np
import onnxruntime
import pytest

from sbim_deploy.engines import onnx_weights
from sbim_deploy.engines.onnx_weights import external_tensors, share_weights
from sbim_deploy.engines.onnxruntime import CUDA, OnnxRuntimeEngine
from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import DEMO_FOLDER

X = np.random.default_rng(0).standard_normal((1, 2, 16, 16), dtype=np.float32)
SCORE_INPUTS = {"x": X, "sigma": np.ones(1, np.float32)}


@pytest.fixture
def runtime(monkeypatch):
    gc.collect()  # engines of other tests, whose weights would be shared
    fake = fake_onnxruntime.FakeRuntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def weights_of(placed):
    """The arrays with more than one axis that were put on a GPU, but for the state of recurrences."""
    return [shape for _, shape in placed if len(shape) == 4]


def test_the_graphs_of_a_model_have_one_copy_of_the_weights_on_each_gpu(runtime):
    score = OnnxRuntimeEngine(DEMO_FOLDER / "score.onnx", backend=CUDA)
    assert len(weights_of(runtime.arrays)) == 113
    step = OnnxRuntimeEngine(DEMO_FOLDER / "step-proximal.onnx", backend=CUDA)
    whole = OnnxRuntimeEngine(DEMO_FOLDER / "reconstruct-guided-2d.onnx", backend=CUDA)
    assert len(weights_of(runtime.arrays)) == 113
    for engine in (score, step, whole):
        assert engine.description["weights"] == "113 on the GPU once for all graphs of the model"
    OnnxRuntimeEngine(DEMO_FOLDER / "score.onnx", backend=CUDA, device_index=1)
    assert len(weights_of(runtime.arrays)) == 2 * 113


def test_other_weights_are_another_copy_and_what_no_engine_uses_goes(runtime, tmp_path):
    engine = OnnxRuntimeEngine(DEMO_FOLDER / "score.onnx", backend=CUDA)
    shutil.copy(DEMO_FOLDER / "score.onnx", tmp_path)
    weights = np.fromfile(DEMO_FOLDER / "weights.bin", np.float32)
    (-weights).tofile(tmp_path / "weights.bin")
    other = OnnxRuntimeEngine(tmp_path / "score.onnx", backend=CUDA)
    assert len(weights_of(runtime.arrays)) == 2 * 113
    ours, others = (each.run(SCORE_INPUTS)["score"] for each in (engine, other))
    assert np.linalg.norm(ours - others) > 0.01 * np.linalg.norm(ours)
    assert len(onnx_weights._in_use) == 2
    recurrence = engine.recur("x", "score", SCORE_INPUTS)
    del engine, other
    gc.collect()
    assert len(onnx_weights._in_use) == 1  # of the recurrence, which runs the session still
    recurrence.advance({})
    np.testing.assert_array_equal(recurrence.read(), ours)


def test_a_session_of_the_real_package_uses_what_it_is_given_in_place():
    """A change of the one copy is a change of both graphs, since neither made its own."""

    class OnTheCpu:
        class OrtValue:
            @staticmethod
            def ortvalue_from_numpy(array, device, index):
                return onnxruntime.OrtValue.ortvalue_from_numpy(np.array(array))

    sessions, kept = [], []
    for graph in ("score", "step-guided"):
        options = onnxruntime.SessionOptions()
        # The CPU's own layouts of weights, which are copies, begin above this level; CUDA has none.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        path = DEMO_FOLDER / f"{graph}.onnx"
        weights, count = share_weights(OnTheCpu, options, path.read_bytes(), DEMO_FOLDER, 0)
        assert count == 113
        kept += weights
        sessions.append(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    assert kept[0] is kept[1]
    sizes = {"batch": 1, "coil": 2, "8*h": 16, "8*w": 16, "line": 8}
    rng = np.random.default_rng(1)
    inputs = [
        {
            node.name: rng.standard_normal([sizes.get(size, size) for size in node.shape], dtype=np.float32)
            for node in session.get_inputs()
        }
        for session in sessions
    ]
    for each in inputs:
        each["sigma"] = np.ones(1, np.float32)

    def outputs():
        return [session.run(None, each)[0] for session, each in zip(sessions, inputs, strict=True)]

    before = outputs()
    for value in kept[0]._values.values():
        value.update_inplace(-value.numpy())
    for was, now in zip(before, outputs(), strict=True):
        assert np.linalg.norm(now - was) > 1e-3 * np.linalg.norm(was)


def test_what_lies_outside_of_the_graph_is_found_with_its_place():
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph to look into")
    path = DEMO_FOLDER / "step-guided.onnx"
    expected = {
        tensor.name: (tuple(tensor.dims), {entry.key: entry.value for entry in tensor.external_data})
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    found = external_tensors(path.read_bytes())
    assert found.keys() == expected.keys()
    for name, (shape, where) in expected.items():
        assert (found[name].shape, found[name].file) == (shape, where["location"])
        assert found[name].offset == int(where["offset"])
        assert found[name].dtype == np.float32


def graph_with(element, location):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph to make")
    tensor = onnx.TensorProto(name="w", data_type=element, dims=[2])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    graph = onnx.GraphProto(name="g", initializer=[tensor])
    return onnx.ModelProto(graph=graph).SerializeToString()


@pytest.mark.parametrize(
    ("element", "location", "is_shared"),
    [(1, "w.bin", True), (10, "w.bin", True), (16, "w.bin", False), (1, "../w.bin", False)],
)
def test_bfloat16_and_files_elsewhere_are_left_to_the_session(element, location, is_shared):
    assert bool(external_tensors(graph_with(element, location))) == is_shared


def test_weights_that_are_cut_off_are_refused(runtime, tmp_path):
    shutil.copy(DEMO_FOLDER / "score.onnx", tmp_path)
    stored = (DEMO_FOLDER / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(stored[:4096])
    with pytest.raises(InputError, match=r"cannot load it: weights\.bin ends within its tensors"):
        OnnxRuntimeEngine(tmp_path / "score.onnx", backend=CUDA)
