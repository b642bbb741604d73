"""What an ONNX file says of its inputs and outputs, for engines that forget the names of its free sizes.

Of the protocol-buffer encoding only what leads there is read: ModelProto.graph (7), GraphProto.input (11)
and output (12), ValueInfoProto.name (1) and type (2), TypeProto.tensor_type (1), its elem_type (1) and shape
(2), TensorShapeProto.dim (1), dim_value (1) and dim_param (2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sbim_deploy.engines.engine import TensorSpec
from sbim_deploy.errors import InputError

DTYPES = {1: np.float32, 7: np.int64, 10: np.float16}
INPUT, OUTPUT = 11, 12
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Value = int | memoryview


def read_inputs(path: Path) -> dict[str, TensorSpec]:
    """Return the graph's inputs by name.

    Raises:
        InputError: the file cannot be read, or is no ONNX graph.
    """
    return _read(path, INPUT)


def read_outputs(path: Path) -> dict[str, TensorSpec]:
    """Return the graph's outputs by name.

    Raises:
        InputError: the file cannot be read, or is no ONNX graph.
    """
    return _read(path, OUTPUT)


def _read(path: Path, number: int) -> dict[str, TensorSpec]:
    try:
        data = memoryview(path.read_bytes())
        tensors = [_spec(value) for value in _parts(_part(data, 7), number)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, LookupError) as error:
        raise InputError(f"{path}: damaged, or not an ONNX graph: export the model again") from error
    if not tensors:
        what = "inputs" if number == INPUT else "outputs"
        raise InputError(f"{path}: damaged, or not an ONNX graph: it has no {what}")
    return {spec.name: spec for spec in tensors}


def _spec(value_info: memoryview) -> TensorSpec:
    name = str(_part(value_info, 1), "utf-8")
    tensor = _part(_part(value_info, 2), 1)
    element = next(value for number, value in _fields(tensor) if number == 1)
    shape = tuple(
        _size(dimension, f"{name}, axis {axis}") for axis, dimension in enumerate(_parts(_part(tensor, 2), 1))
    )
    assert isinstance(element, int)
    return TensorSpec(name, np.dtype(DTYPES[element]), shape)


def _size(dimension: memoryview, unnamed: str) -> int | str:
    for number, value in _fields(dimension):
        if number == 1 and isinstance(value, int):
            return value
        if number == 2 and isinstance(value, memoryview):
            return str(value, "utf-8")
    return unnamed


def _part(message: memoryview, wanted: int) -> memoryview:
    return _parts(message, wanted)[0]


def _parts(message: memoryview, wanted: int) -> list[memoryview]:
    return [value for number, value in _fields(message) if number == wanted and isinstance(value, memoryview)]


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Walk a message: the number and the value of each field."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"unknown kind of field {kind}")
        if at + length > len(message):
            raise ValueError("the message ends within a field")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
