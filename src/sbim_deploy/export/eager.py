"""PyTorch eager behind the engine's interface, and a graph's arithmetic: what engines are compared with."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from sbim_deploy.engines.engine import Arrays, Recurrence
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.models.folder import Model, load_model
from sbim_deploy.runs.bench import Case, Measurement, measure

EAGER = "pytorch-eager"


class EagerEngine:
    """A network of a model's architecture and size with random weights, which take the same time."""

    def __init__(self, model: Model):
        manifest = model.manifest
        if manifest.architecture not in ARCHITECTURES:
            raise BackendMissingError(
                f"{EAGER} measures {', '.join(ARCHITECTURES)}: {manifest.architecture} is not built here"
            )
        architecture = ARCHITECTURES[manifest.architecture]
        self._network = ScoreNetwork(architecture, manifest.ngf, manifest.channels).eval()
        self.description: Mapping[str, str] = {
            "backend": EAGER,
            "version": torch.__version__,
            "device": "cpu",
        }

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the score."""
        with torch.inference_mode():
            score = self._network(torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["sigma"]))
        return {"score": score.numpy()}

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Refuse: there is nothing of a graph to keep where it runs."""
        raise NotImplementedError("PyTorch eager runs no recurrence")


def measure_eager(folder: Path, case: Case) -> Measurement:
    """Measure PyTorch eager; see :func:`sbim_deploy.runs.bench.measure`."""
    # One for each core, as the engines take, whatever the environment says to OpenMP.
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model(folder)
    return measure(model, case, lambda _graph: EagerEngine(model), "score")


def count_flops(path: Path, inputs: Mapping[str, Sequence[int]]) -> int:
    """Return the additions and multiplications of a graph's convolutions and matrix products.

    ``inputs`` gives the shapes of the inputs, by name. What is left out, the norms and the activations, moves
    more bytes than it computes.

    Raises:
        InputError: the graph cannot be read, or does not tell the shape of a product at these inputs.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        shapes = _shapes(model, inputs)
    except Exception as error:
        raise InputError(f"{path}: cannot count its arithmetic: {' '.join(str(error).split())}") from error
    try:
        return sum(_node_flops(node, shapes) for node in model.graph.node)
    except KeyError as error:
        raise InputError(f"{path}: cannot count its arithmetic: {error} has no fixed shape") from error


def _shapes(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    for value in model.graph.input:
        for size, dimension in zip(inputs[value.name], value.type.tensor_type.shape.dim, strict=True):
            dimension.dim_value = size
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        dimensions = value.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            shapes[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


def _node_flops(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type == "Conv":
        # Each value sums over the weight's input channels and taps.
        return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0
