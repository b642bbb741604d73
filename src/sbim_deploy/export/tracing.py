"""What PyTorch's exporter makes of a module, with names for the sizes that stay free."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from sbim_deploy.errors import InputError

Inputs = Mapping[str, tuple[Tensor, dict[int, Any]]]
"""Tensors to trace with by the names of inputs, each with the names of its free axes."""


class Sample:
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

    def of(self, names: Sequence[str], channels: int = 2) -> Inputs:
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


def trace(module: nn.Module, inputs: Sequence[Inputs], output: str, opset: int) -> onnx.ModelProto:
    """Trace a module that takes the first of ``inputs`` one by one and each of the others as a tuple.

    Raises:
        InputError: the module does what ONNX does not have, or what depends on values; with the operation.
    """
    try:
        # Of a module that fails the exporter prints all that it has traced.
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()), _without_logs():
            model = _trace(module, inputs, output, opset)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(f"the network cannot be traced: {_operation(error)}") from error
    _strip_origins(model)
    return model


def _operation(error: Exception) -> str:
    """Return the operation that an error of the exporter is about, and what is wrong with it."""
    text = str(error)
    if found := re.search(r"op='([\w.]+)'", text):
        return f"ONNX has no operator for {found[1]}: write it with others"
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = str(cause).strip().partition("\n")[0][:200]
    if found := re.search(r'raised this error:\s+File "(.*?)", line (\d+), in \w+\s+(\S.*)', str(cause)):
        place, line, code = found.groups()
        return f"{code.strip()[:120]} ({Path(place).name}, line {line}) is no fixed operation: {reason}"
    return f"{type(cause).__name__}: {reason}"


@contextmanager
def _without_logs() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _trace(module: nn.Module, inputs: Sequence[Inputs], output: str, opset: int) -> onnx.ModelProto:
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
