"""ELU that was written out is put back, in graphs and in loops, and computes the same."""

from collections import Counter

import numpy as np
import onnxruntime
import pytest

from sbim_deploy.engines.onnx_elu import put_elu_back
from sbim_deploy.models.folder import DEMO_FOLDER

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph to look into")


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(DEMO_FOLDER))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operators(graph):
    counts = Counter(node.op_type for node in graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                counts += operators(attribute.g)
    return counts


@pytest.mark.parametrize("name", ["score", "step-proximal", "reconstruct-guided"])
def test_every_elu_of_the_network_is_put_back_and_nothing_else_changes(name):
    before = (DEMO_FOLDER / f"{name}.onnx").read_bytes()
    after, count = put_elu_back(before)
    was, now = (operators(onnx.load_from_string(model).graph) for model in (before, after))
    assert count == 91
    assert now - was == Counter(Elu=91)
    assert was - now == Counter(Min=91, Exp=91, Sub=91, Max=91)
    assert {each.name for each in session_of(after).get_inputs()} == {
        each.name for each in session_of(before).get_inputs()
    }


def test_the_score_is_the_same():
    before = (DEMO_FOLDER / "score.onnx").read_bytes()
    inputs = {
        "x": np.random.default_rng(0).standard_normal((2, 2, 16, 24), dtype=np.float32),
        "sigma": np.array([1, 0.1], np.float32),
    }
    expected, got = (session_of(model).run(None, inputs)[0] for model in (before, put_elu_back(before)[0]))
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


def graph_of(minimum="x", ends=("y",), zero=0.0, element=1):
    """max(x, exp(min(x, 0)) - 1), or nearly that."""
    helper = onnx.helper
    dtype = helper.tensor_dtype_to_np_dtype(element)
    constants = [
        helper.make_tensor(name, element, (), np.array(value, dtype).tobytes(), raw=True)
        for name, value in (("zero", zero), ("one", 1.0))
    ]
    nodes = [
        helper.make_node("Min", [minimum, "zero"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Sub", ["b", "one"], ["c"]),
        helper.make_node("Max", ["x", "c"], ["y"]),
    ]
    tensors = {name: helper.make_tensor_value_info(name, element, ["n"]) for name in ("x", "other", *ends)}
    graph = helper.make_graph(
        nodes, "g", [tensors["x"], tensors["other"]], [tensors[end] for end in ends], constants
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 1),
        ({"element": 10}, 1),
        ({"element": 16}, 0),  # ONNX Runtime's CUDA has no Elu in BF16
        ({"minimum": "other"}, 0),
        ({"zero": 0.5}, 0),
        ({"ends": ("y", "b")}, 0),  # somebody else reads what is within
    ],
)
def test_only_elu_itself_is_replaced(changes, count):
    model = graph_of(**changes)
    made, found = put_elu_back(model)
    assert found == count
    if not count:
        assert made == model


def test_bytes_that_are_no_graph_are_refused():
    with pytest.raises(ValueError, match="ends within"):
        put_elu_back((DEMO_FOLDER / "score.onnx").read_bytes()[:5000])
