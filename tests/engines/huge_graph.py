"""A graph of a few bytes with a constant of four terabytes, which an engine opens and cannot run."""

from pathlib import Path

import numpy as np


def write_huge_graph(path: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"], value=ones),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    size = numpy_helper.from_array(np.array([10**12], np.int64), "size")
    graph = helper.make_graph(nodes, "huge", [x], [y], [size])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


X = {"x": np.ones((1, 2), np.float32)}
