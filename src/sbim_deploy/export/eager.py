"""PyTorch behind the engine's interface, and a graph's arithmetic: what engines are compared with."""

from __future__ import annotations

import math
import os
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbim_deploy.engines.engine import Arrays, Recurrence
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.export.precision import in_precision
from sbim_deploy.models.folder import Model, load_model
from sbim_deploy.runs.bench import Case, Measurement, measure

EAGER = "pytorch-eager"


GPU_BASELINE = "pytorch-cuda"


@dataclass(frozen=True)
class Way:
    """A way to run the network in PyTorch: half precision is channels-last."""

    name: str
    dtype: torch.dtype = torch.float32
    graph: bool = False
    compiled: bool = False


EAGERLY = Way("eager FP32")
ON_GPU = (
    EAGERLY,
    Way("FP16 channels-last, CUDA graph", torch.float16, graph=True),
    Way("BF16 channels-last, CUDA graph", torch.bfloat16, graph=True),
    Way("FP32 torch.compile", compiled=True),
    Way("FP16 channels-last, torch.compile", torch.float16, compiled=True),
)
"""Of which the fastest is the baseline of backends on a GPU. TF32 is off in all."""


class EagerEngine:
    """A network of a model's architecture and size with random weights, which take the same time."""

    def __init__(self, model: Model, way: Way = EAGERLY, device: str = "cpu"):
        manifest = model.manifest
        if manifest.architecture not in ARCHITECTURES:
            raise BackendMissingError(
                f"{EAGER} measures {', '.join(ARCHITECTURES)}: {manifest.architecture} is not built here"
            )
        architecture = ARCHITECTURES[manifest.architecture]
        network: Any = in_precision(
            ScoreNetwork(architecture, manifest.ngf, manifest.channels).eval(), way.dtype
        )
        if way.dtype != torch.float32:
            network = network.to(memory_format=torch.channels_last)
        self._device, self._way = torch.device(device), way
        self._network: Callable[..., Tensor] = network.to(self._device)
        if way.compiled:
            self._network = torch.compile(self._network)
        self._captured: tuple[Tensor, Tensor, Callable[[], Tensor]] | None = None
        self.description: Mapping[str, str] = {
            "backend": EAGER if device == "cpu" else GPU_BASELINE,
            "version": torch.__version__ if device == "cpu" else f"{torch.__version__} {way.name}",
            "device": device,
        }

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the score."""
        x, sigma = (torch.from_numpy(inputs[name]).to(self._device) for name in ("x", "sigma"))
        with torch.inference_mode():
            score = self._replay(x, sigma) if self._way.graph else self._network(x, sigma)
        return {"score": score.cpu().numpy()}

    def _replay(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score by a graph that was captured for inputs of these shapes."""
        if self._captured is None or self._captured[0].shape != x.shape:
            self._captured = x, sigma, _capture(lambda: self._network(x, sigma))
        held_x, held_sigma, replay = self._captured
        held_x.copy_(x)
        held_sigma.copy_(sigma)
        return replay()

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Refuse: there is nothing of a graph to keep where it runs."""
        raise NotImplementedError("PyTorch eager runs no recurrence")


def measure_eager(folder: Path, case: Case) -> Measurement:
    """Measure PyTorch eager; see :func:`sbim_deploy.runs.bench.measure`."""
    # One for each core, as the engines take, whatever the environment says to OpenMP.
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model(folder)
    return measure(model, case, lambda _graph: EagerEngine(model), "score")


def has_cuda() -> bool:
    """Whether this PyTorch can use a GPU here."""
    return torch.cuda.is_available()


def measure_fastest_on_gpu(folder: Path, case: Case, device_index: int = 0) -> Measurement:
    """Measure PyTorch on a GPU in the fastest of the ways ``ON_GPU``; its ``version`` names it."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = load_model(folder)
    device = f"cuda:{device_index}"
    way = fastest(ON_GPU, lambda way: EagerEngine(model, way, device), case, model.manifest.channels)
    return measure(model, case, lambda _graph: EagerEngine(model, way, device), "score")


def fastest(ways: Sequence[Way], make: Callable[[Way], EagerEngine], case: Case, n_channels: int) -> Way:
    """Return the way whose score call is the fastest; one that fails is none.

    Raises:
        BackendMissingError: every one failed.
    """
    x = np.random.default_rng(0).standard_normal((1, n_channels, *case.size), dtype=np.float32)
    inputs = {"x": x, "sigma": np.ones(1, np.float32)}
    seconds: dict[Way, float] = {}
    failed: list[str] = []
    for way in ways:
        try:
            engine = make(way)
            for _ in range(3):
                engine.run(inputs)
            seconds[way] = min(timeit.repeat(partial(engine.run, inputs), number=1, repeat=5))
        except Exception as error:
            failed.append(f"{way.name}: {' '.join(str(error).split())[:200]}")
    if not seconds:
        raise BackendMissingError(f"PyTorch runs the network in no way on this GPU: {'; '.join(failed)}")
    return min(seconds, key=seconds.__getitem__)


def _capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that replays ``run`` as a CUDA graph and returns what it computed, in its memory."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        score = run()

    def replay() -> Tensor:
        graph.replay()
        return score

    return replay


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
