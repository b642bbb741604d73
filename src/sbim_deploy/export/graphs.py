"""The graphs of a model folder: the score, steps and plans fused around it, and their common weights.

``python -m sbim_deploy.export.graphs FOLDER`` joins a folder's network with the updates again, after
:mod:`sbim_deploy.export.update_graphs` has written others.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data
from torch import nn

from sbim_deploy.export.tracing import Sample, trace
from sbim_deploy.export.update_graphs import read_update
from sbim_deploy.export.updates import make_updates
from sbim_deploy.io.documents import convert, read_object
from sbim_deploy.models.folder import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    WAY_OUT,
    Dtype,
    GraphEntry,
    ModelManifest,
    TensorEntry,
    describe_file,
    write_manifest,
)
from sbim_deploy.samplers.choice import DDS_N_CG

STATE, LOOP_STATE = "x", "x_of_row"
CONSTANT_INPUTS = ("maps", "encoding", "row_encoding", "mask", "backprojection", "map_set")
ROWS = "rows"
DTYPES: dict[int, Dtype] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT64: "int64",
}


def fuse_step(score: onnx.ModelProto, update: onnx.ModelProto) -> onnx.ModelProto:
    """Return one step as a graph: the network, and the update that takes its output named ``score``.

    Inputs that both have are one input.
    """
    update = _with_prefix(update, "update.")
    inputs = {value.name: value for value in (*score.graph.input, *update.graph.input)}
    del inputs["score"]
    inputs.update({value.name: value for value in score.graph.input})
    graph = helper.make_graph(
        [*score.graph.node, *update.graph.node],
        "step",
        list(inputs.values()),
        list(update.graph.output),
        [*score.graph.initializer, *update.graph.initializer],
    )
    return _model(graph, score)


def fuse_plan(step: onnx.ModelProto) -> onnx.ModelProto:
    """Return the whole plan as a graph: a loop over steps that ends with the x of the last.

    It takes the step's inputs; those that change from step to step get an axis of steps in front.
    """
    inner = _renamed_input(step.graph, STATE, LOOP_STATE)
    changing = [value for value in inner.input if value.name not in (*CONSTANT_INPUTS, LOOP_STATE)]
    body_inputs = [
        helper.make_tensor_value_info("row", TensorProto.INT64, []),
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        next(value for value in inner.input if value.name == LOOP_STATE),
    ]
    gathers = [
        helper.make_node("Gather", [f"{value.name}_of_rows", "row"], [value.name], axis=0)
        for value in changing
    ]
    passed_on = helper.make_node("Identity", ["go_on"], ["still_go_on"])
    body = helper.make_graph(
        [*gathers, *inner.node, passed_on],
        "row",
        body_inputs,
        [helper.make_tensor_value_info("still_go_on", TensorProto.BOOL, []), *inner.output],
    )
    outer = [
        helper.make_node("Shape", [f"{changing[0].name}_of_rows"], ["n_rows_1d"], start=0, end=1),
        helper.make_node("Squeeze", ["n_rows_1d"], ["n_rows"]),
        helper.make_node("Loop", ["n_rows", "always", STATE], ["image"], body=body),
    ]
    output = helper.make_tensor_value_info("image", TensorProto.FLOAT, _shape(inner.output[0]))
    always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
    constant = [value for value in step.graph.input if value.name in (*CONSTANT_INPUTS, STATE)]
    rows = [
        helper.make_tensor_value_info(f"{value.name}_of_rows", TensorProto.FLOAT, [ROWS, *_shape(value)])
        for value in changing
    ]
    graph = helper.make_graph(
        outer, "reconstruct", [*constant, *rows], [output], [*inner.initializer, always]
    )
    return _model(graph, step)


def _renamed_input(graph: onnx.GraphProto, old: str, new: str) -> onnx.GraphProto:
    """Return the graph with an input renamed: a loop's names must not be those of what surrounds it."""
    renamed = onnx.GraphProto()
    renamed.CopyFrom(graph)
    for value in renamed.input:
        if value.name == old:
            value.name = new
    for node in renamed.node:
        node.input[:] = [new if name == old else name for name in node.input]
    return renamed


def _model(graph: onnx.GraphProto, like: onnx.ModelProto) -> onnx.ModelProto:
    return helper.make_model(
        graph, opset_imports=list(like.opset_import), ir_version=like.ir_version, producer_name="sbim-deploy"
    )


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def _with_prefix(model: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """Return the model with everything but its inputs and outputs renamed."""
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    graph = renamed.graph
    kept = {value.name for value in (*graph.input, *graph.output)}

    def new(names: Iterable[str]) -> list[str]:
        return [name if name in kept or not name else prefix + name for name in names]

    for node in graph.node:
        node.input[:], node.output[:] = new(node.input), new(node.output)
        node.name = prefix + node.name
    for tensor in graph.initializer:
        tensor.name = prefix + tensor.name
    return renamed


WEIGHTS_NAME = "weights.bin"
DEFAULT_OPSET = 20
MIN_EXTERNAL_BYTES = 1024
ALIGNMENT = 64


def export_graphs(
    network: nn.Module, folder: Path, channels: int, size_multiple: int, opset: int
) -> dict[str, GraphEntry]:
    """Write the graphs and their weights into ``folder`` and return what the graphs take and give, by name.

    Batch, coils, lines, height and width are free; height and width are multiples of ``size_multiple``.
    The fused graphs are written for networks of 2 channels.
    """
    score = trace(network, [Sample(size_multiple).of(["x", "sigma"], channels)], "score", opset)
    return _write_graphs(score, folder, channels, size_multiple)


def join_again(folder: Path) -> None:
    """Join the network of a model folder with the updates that ship, where those have changed.

    The network, its weights and its stored outputs stay as they are.

    Raises:
        InputError: it is no model folder.
    """
    stored = read_object(folder / MANIFEST_NAME, WAY_OUT)
    score = onnx.load(folder / "score.onnx")
    graphs = _write_graphs(score, folder, stored["channels"], stored["size_multiple"])
    changed = {"format_version": FORMAT_VERSION, "graphs": {name: asdict(graphs[name]) for name in graphs}}
    manifest = convert({**stored, **changed}, ModelManifest, str(folder / MANIFEST_NAME), WAY_OUT)
    files = {name: describe_file(folder / name) for name in manifest.files}
    write_manifest(folder, replace(manifest, files=files))


def _write_graphs(
    score: onnx.ModelProto, folder: Path, channels: int, size_multiple: int
) -> dict[str, GraphEntry]:
    models = {"score": score}
    if channels == 2:
        for kind in make_updates(DDS_N_CG):
            models[f"step-{kind}"] = step = fuse_step(score, read_update(kind, size_multiple))
            models[f"reconstruct-{kind}"] = fuse_plan(step)
    for model in models.values():
        onnx.checker.check_model(model)
    _share_weights(list(models.values()), folder / WEIGHTS_NAME)
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    return {
        name: GraphEntry(_tensors(model.graph.input), _tensors(model.graph.output))
        for name, model in models.items()
    }


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> dict[str, TensorEntry]:
    return {
        value.name: TensorEntry(DTYPES[value.type.tensor_type.elem_type], _shape(value)) for value in values
    }


def _share_weights(models: Sequence[onnx.ModelProto], path: Path) -> None:
    """Move the models' initializers to one file, where equal ones stand once."""
    offsets: dict[bytes, int] = {}
    with path.open("wb") as file:
        for model in models:
            for tensor in model.graph.initializer:
                data = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(data) < MIN_EXTERNAL_BYTES:
                    continue
                digest = hashlib.sha256(data).digest()
                if digest not in offsets:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offsets[digest] = file.tell()
                    file.write(data)
                tensor.raw_data = data
                set_external_data(tensor, path.name, offset=offsets[digest], length=len(data))
                tensor.ClearField("raw_data")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        join_again(Path(argument))
