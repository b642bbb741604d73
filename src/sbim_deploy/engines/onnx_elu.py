"""Puts ELU back into a graph that writes it as max(x, exp(min(x, 0)) - 1), for ONNX Runtime's CUDA.

The export writes it out for the other engines. Here each of the four operations would read and write an image
in the GPU's memory. A graph's bytes are Protocol Buffers, of which this reads and writes the few fields that
it needs, by their numbers in onnx.proto3 of ONNX 1.18: the package that writes graphs is none that runs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Bytes = memoryview

GRAPH_OF_MODEL = 7
NODE, INITIALIZER, OUTPUT = 1, 5, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
GRAPH_OF_ATTRIBUTE = 6
DATA_TYPE, TENSOR_NAME, RAW_DATA = 2, 8, 9
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
# Elements that ONNX Runtime's CUDA has an Elu for.
FLOATS: Mapping[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str


@dataclass
class _Graph:
    """What is known of a graph: its nodes by output, its scalars, and who else reads a name."""

    producers: dict[str, _Node] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)


def put_elu_back(model: bytes) -> tuple[bytes, int]:
    """Return the graph with ``Elu`` in place of each written out one, in loops too, and how many there were.

    Raises:
        ValueError: the bytes are no graph.
    """
    whole = memoryview(model)
    readers: Counter[str] = Counter()
    for number, _, value in _fields(whole):
        if number == GRAPH_OF_MODEL:
            _count_readers(value, readers)
    made, count = bytearray(), 0
    for number, raw, value in _fields(whole):
        if number == GRAPH_OF_MODEL:
            graph, n = _rewritten(value, readers, {})
            made += _written(number, graph)
            count += n
        else:
            made += raw
    return bytes(made), count


def _rewritten(graph: Bytes, readers: Counter[str], outer: Mapping[str, float]) -> tuple[bytes, int]:
    known = _Graph(scalars=dict(outer))
    for number, _, value in _fields(graph):
        if number == NODE:
            node = _node(value)
            known.producers.update(dict.fromkeys(node.outputs, node))
        elif number == INITIALIZER:
            known.scalars.update(_scalar(value))
    argument_of = {
        node.outputs[0]: x
        for node in known.producers.values()
        if (x := _argument(node, known, readers)) is not None
    }
    dead = {name for output in argument_of for name in _inner(known.producers[output], known)}
    made, count = bytearray(), len(argument_of)
    for number, raw, value in _fields(graph):
        if number != NODE:
            made += raw
            continue
        node = _node(value)
        if node.outputs and node.outputs[0] in argument_of:
            x = argument_of[node.outputs[0]]
            parts = ((NODE_INPUT, x), (NODE_OUTPUT, node.outputs[0]), (NODE_NAME, node.name))
            texts = (*parts, (NODE_OPERATOR, "Elu"))
            made += _written(NODE, b"".join(_written(each, text.encode()) for each, text in texts))
        elif not (node.outputs and node.outputs[0] in dead):
            inside, n = _with_rewritten_graphs(value, readers, known.scalars)
            made += _written(NODE, inside) if n else raw
            count += n
    return bytes(made), count


def _with_rewritten_graphs(
    node: Bytes, readers: Counter[str], outer: Mapping[str, float]
) -> tuple[bytes, int]:
    """Return a node with the graphs of its attributes rewritten, such as a loop's body, and how many Elus."""
    made, count = bytearray(), 0
    for number, raw, value in _fields(node):
        if number != NODE_ATTRIBUTE:
            made += raw
            continue
        attribute = bytearray()
        for inner_number, inner_raw, inner_value in _fields(value):
            if inner_number == GRAPH_OF_ATTRIBUTE:
                graph, n = _rewritten(inner_value, readers, outer)
                attribute += _written(inner_number, graph)
                count += n
            else:
                attribute += inner_raw
        made += _written(number, bytes(attribute))
    return bytes(made), count


def _argument(node: _Node, graph: _Graph, readers: Counter[str]) -> str | None:
    """Return the x of max(x, exp(min(x, 0)) - 1) where a node is that, and nobody reads what is within it."""
    inner = _inner(node, graph)
    if len(inner) != 3 or any(readers[name] != 1 for name in inner):
        return None
    difference, _, least = (graph.producers[name] for name in inner)
    x, zero = least.inputs
    if node.inputs[0] != x or graph.scalars.get(zero) != 0 or graph.scalars.get(difference.inputs[1]) != 1:
        return None
    return x


def _inner(node: _Node, graph: _Graph) -> tuple[str, ...]:
    """Return the outputs of Sub, Exp and Min, one within the other, of which a node takes the maximum."""
    if node.operator != "Max" or len(node.inputs) != 2:
        return ()
    names, name = [], node.inputs[1]
    for operator, n_inputs in (("Sub", 2), ("Exp", 1), ("Min", 2)):
        found = graph.producers.get(name)
        if found is None or found.operator != operator or len(found.inputs) != n_inputs:
            return ()
        names.append(name)
        name = found.inputs[0]
    return tuple(names)


def _count_readers(graph: Bytes, readers: Counter[str]) -> None:
    """Add who reads a name, in the graphs within this one too."""
    for number, _, value in _fields(graph):
        if number == OUTPUT:
            readers.update(_texts(value, 1))
        elif number == NODE:
            readers.update(_node(value).inputs)
            for kind, _, attribute in _fields(value):
                if kind == NODE_ATTRIBUTE:
                    for inner, _, body in _fields(attribute):
                        if inner == GRAPH_OF_ATTRIBUTE:
                            _count_readers(body, readers)


def _node(node: Bytes) -> _Node:
    operator, name = (next(iter(_texts(node, each)), "") for each in (NODE_OPERATOR, NODE_NAME))
    return _Node(operator, _texts(node, NODE_INPUT), _texts(node, NODE_OUTPUT), name)


def _texts(message: Bytes, wanted: int) -> tuple[str, ...]:
    return tuple(bytes(value).decode() for number, _, value in _fields(message) if number == wanted)


def _scalar(tensor: Bytes) -> dict[str, float]:
    """Return the value of a tensor of one element, by its name; nothing of others."""
    found: dict[int, Bytes] = {number: value for number, _, value in _fields(tensor)}
    dtype = FLOATS.get(_varint(found[DATA_TYPE], 0)[0]) if DATA_TYPE in found else None
    raw = bytes(found.get(RAW_DATA, b""))
    if dtype is None or len(raw) != dtype.itemsize:
        return {}
    return {bytes(found[TENSOR_NAME]).decode(): float(np.frombuffer(raw, dtype)[0])}


def _fields(message: Bytes) -> Iterator[tuple[int, Bytes, Bytes]]:
    """Yield (number, all its bytes, its value) of each field of a message."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value_at, (_, end) = at, _varint(message, at)
        elif kind == LENGTH:
            length, value_at = _varint(message, at)
            end = value_at + length
        elif kind in (FIXED64, FIXED32):
            value_at, end = at, at + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError(f"a field of kind {kind} is none of ONNX")
        if end > len(message):
            raise ValueError("the graph ends within a field")
        yield key >> 3, message[begin:end], message[value_at:end]
        at = end


def _varint(message: Bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("the graph ends within a number")


def _written(number: int, value: bytes) -> bytes:
    return _written_varint(number << 3 | LENGTH) + _written_varint(len(value)) + value


def _written_varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
