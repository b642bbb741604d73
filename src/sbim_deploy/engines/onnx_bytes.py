"""A graph's bytes, which are Protocol Buffers: the few fields of them that engines read and write.

They go by their numbers in onnx.proto3 of ONNX 1.18: the package that writes graphs is none that runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Bytes = memoryview

GRAPH_OF_MODEL = 7
NODE, INITIALIZER, OUTPUT = 1, 5, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
GRAPH_OF_ATTRIBUTE = 6
SIZES, DATA_TYPE, TENSOR_NAME, RAW_DATA, EXTERNAL = 1, 2, 8, 9, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
# Elements of tensors that numpy has too; ONNX Runtime's CUDA has an Elu for both.
FLOATS: Mapping[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}


def fields(message: Bytes) -> Iterator[tuple[int, Bytes, Bytes]]:
    """Yield (number, all its bytes, its value) of each field of a message."""
    at = 0
    while at < len(message):
        begin = at
        key, at = varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value_at, (_, end) = at, varint(message, at)
        elif kind == LENGTH:
            length, value_at = varint(message, at)
            end = value_at + length
        elif kind in (FIXED64, FIXED32):
            value_at, end = at, at + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError(f"a field of kind {kind} is none of ONNX")
        if end > len(message):
            raise ValueError("the graph ends within a field")
        yield key >> 3, message[begin:end], message[value_at:end]
        at = end


def texts(message: Bytes, wanted: int) -> tuple[str, ...]:
    """Return the texts of the fields of a number."""
    return tuple(bytes(value).decode() for number, _, value in fields(message) if number == wanted)


def varint(message: Bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a byte, and where it ends."""
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("the graph ends within a number")


def written(number: int, value: bytes) -> bytes:
    """Return a field of bytes."""
    return _varint_of(number << 3 | LENGTH) + _varint_of(len(value)) + value


def _varint_of(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
