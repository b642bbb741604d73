"""The graphs of a model folder: the score, rows and plans fused around it, and their common weights."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.external_data_helper import set_external_data
from onnxscript import opset18 as op
from torch import Tensor, nn

from sbim_deploy.export.fuse import fuse_plan, fuse_step
from sbim_deploy.export.updates import (
    BothDirectionsNormal,
    GuidedUpdate,
    PhaseEncodeNormal,
    ProximalUpdate,
)

WEIGHTS_NAME = "weights.bin"
DEFAULT_OPSET = 20
MIN_EXTERNAL_BYTES = 1024
ALIGNMENT = 64

_Inputs = Mapping[str, tuple[Tensor, dict[int, Any]]]


def make_updates(n_cg: int) -> dict[str, GuidedUpdate | ProximalUpdate]:
    """Return the updates by the names that their graphs end with."""
    return {
        "guided": GuidedUpdate(PhaseEncodeNormal()),
        "proximal": ProximalUpdate(PhaseEncodeNormal(), n_cg),
        "guided-2d": GuidedUpdate(BothDirectionsNormal()),
        "proximal-2d": ProximalUpdate(BothDirectionsNormal(), n_cg),
    }


def export_graphs(
    network: nn.Module, folder: Path, channels: int, size_multiple: int, n_cg: int, opset: int
) -> list[str]:
    """Write the graphs and their weights into ``folder`` and return the files' names.

    Batch, coils, lines, height and width are free; height and width are multiples of ``size_multiple``.
    The fused graphs are written for networks of 2 channels.
    """
    sample = _Sample(size_multiple)
    score = _trace(network, [sample.of(["x", "sigma"], channels)], "score", opset)
    models = {"score": score}
    if channels == 2:
        for kind, update in make_updates(n_cg).items():
            inputs = [sample.of(["score", *update.inputs]), sample.of(update.operator.inputs)]
            traced = _trace(update, inputs, "x_next", opset)
            models[f"step-{kind}"] = step = fuse_step(score, traced)
            models[f"reconstruct-{kind}"] = fuse_plan(step)
    for model in models.values():
        onnx.checker.check_model(model)
    _share_weights(list(models.values()), folder / WEIGHTS_NAME)
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    return [WEIGHTS_NAME, *(f"{name}.onnx" for name in models)]


class _Sample:
    """Tensors to trace with, and the names of their free sizes."""

    def __init__(self, size_multiple: int):
        size = 8 * size_multiple
        batch, coil, line, row_line, h, w = (
            torch.export.Dim(name, min=1) for name in ("batch", "coil", "line", "row_line", "h", "w")
        )
        self._sizes: Mapping[Any, int] = {
            batch: 2,
            coil: 3,
            line: 5,
            row_line: 7,
            size_multiple * h: size,
            size_multiple * w: size + size_multiple,
        }
        rows, columns = list(self._sizes)[-2:]
        self._shapes = {
            "maps": (batch, coil, 2, rows, columns),
            "encoding": (batch, 2, columns, line),
            "row_encoding": (batch, 2, rows, row_line),
            "mask": (batch, row_line, line),
        }
        self._images = ("x", "score", "z", "backprojection")
        self._image, self._number = (batch, rows, columns), (batch,)

    def of(self, names: Sequence[str], channels: int = 2) -> _Inputs:
        """Return a tensor of its own for each input: one given twice is traced as one input."""
        batch, rows, columns = self._image
        made = {}
        for name in names:
            image = (batch, channels, rows, columns)
            shape = image if name in self._images else self._shapes.get(name, self._number)
            free = {axis: size for axis, size in enumerate(shape) if not isinstance(size, int)}
            made[name] = (
                torch.ones([size if isinstance(size, int) else self._sizes[size] for size in shape]),
                free,
            )
        return made


def _trace(module: nn.Module, inputs: Sequence[_Inputs], output: str, opset: int) -> onnx.ModelProto:
    """Trace a module that takes the first of ``inputs`` one by one and each of the others as a tuple."""
    tensors, shapes = (
        (
            *(pair[i] for pair in inputs[0].values()),
            *(tuple(pair[i] for pair in rest.values()) for rest in inputs[1:]),
        )
        for i in (0, 1)
    )
    with warnings.catch_warnings():
        # torch.export's own use of what it deprecates; nothing of it is ours to mend.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tensors,
            input_names=[name for part in inputs for name in part],
            output_names=[output],
            opset_version=opset,
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
            custom_translation_table={torch.ops.aten.elu.default: _elu},
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _strip_origins(model)
    return model


def _elu(x: Any, *_: float) -> Any:
    """Write ELU as max(x, exp(min(x, 0)) - 1).

    ONNX Runtime runs that faster than its own Elu, which also breaks the blocked layout of convolutions, and
    TensorRT-RTX 1.7 cannot compile an Elu within a Loop.
    """
    zero: Any = op.CastLike(op.Constant(value_float=0.0), x)  # type: ignore[type-var]
    one: Any = op.CastLike(op.Constant(value_float=1.0), x)  # type: ignore[type-var]
    return op.Max(x, op.Sub(op.Exp(op.Min(x, zero)), one))


def _strip_origins(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they hold the paths of the machine that exported."""
    graph = model.graph
    records: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info]
    for record in [*records, *graph.initializer]:
        del record.metadata_props[:]
        record.doc_string = ""


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
