"""Puts ELU back into a graph that writes it as max(x, exp(min(x, 0)) - 1), for ONNX Runtime's CUDA.

The export writes it out for the other engines. Here each of the four operations would read and write an image
in the GPU's memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sbim_deploy.engines.onnx_bytes import (
    DATA_TYPE,
    FLOATS,
    GRAPH_OF_ATTRIBUTE,
    GRAPH_OF_MODEL,
    INITIALIZER,
    NODE,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_NAME,
    NODE_OPERATOR,
    NODE_OUTPUT,
    OUTPUT,
    RAW_DATA,
    TENSOR_NAME,
    Bytes,
    fields,
    texts,
    varint,
    written,
)


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
    for number, _, value in fields(whole):
        if number == GRAPH_OF_MODEL:
            _count_readers(value, readers)
    made, count = bytearray(), 0
    for number, raw, value in fields(whole):
        if number == GRAPH_OF_MODEL:
            graph, n = _rewritten(value, readers, {})
            made += written(number, graph)
            count += n
        else:
            made += raw
    return bytes(made), count


def _rewritten(graph: Bytes, readers: Counter[str], outer: Mapping[str, float]) -> tuple[bytes, int]:
    known = _Graph(scalars=dict(outer))
    for number, _, value in fields(graph):
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
    for number, raw, value in fields(graph):
        if number != NODE:
            made += raw
            continue
        node = _node(value)
        if node.outputs and node.outputs[0] in argument_of:
            x = argument_of[node.outputs[0]]
            parts = ((NODE_INPUT, x), (NODE_OUTPUT, node.outputs[0]), (NODE_NAME, node.name))
            named = (*parts, (NODE_OPERATOR, "Elu"))
            made += written(NODE, b"".join(written(each, text.encode()) for each, text in named))
        elif not (node.outputs and node.outputs[0] in dead):
            inside, n = _with_rewritten_graphs(value, readers, known.scalars)
            made += written(NODE, inside) if n else raw
            count += n
    return bytes(made), count


def _with_rewritten_graphs(
    node: Bytes, readers: Counter[str], outer: Mapping[str, float]
) -> tuple[bytes, int]:
    """Return a node with the graphs of its attributes rewritten, such as a loop's body, and how many Elus."""
    made, count = bytearray(), 0
    for number, raw, value in fields(node):
        if number != NODE_ATTRIBUTE:
            made += raw
            continue
        attribute = bytearray()
        for inner_number, inner_raw, inner_value in fields(value):
            if inner_number == GRAPH_OF_ATTRIBUTE:
                graph, n = _rewritten(inner_value, readers, outer)
                attribute += written(inner_number, graph)
                count += n
            else:
                attribute += inner_raw
        made += written(number, bytes(attribute))
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
    for number, _, value in fields(graph):
        if number == OUTPUT:
            readers.update(texts(value, 1))
        elif number == NODE:
            readers.update(_node(value).inputs)
            for kind, _, attribute in fields(value):
                if kind == NODE_ATTRIBUTE:
                    for inner, _, body in fields(attribute):
                        if inner == GRAPH_OF_ATTRIBUTE:
                            _count_readers(body, readers)


def _node(node: Bytes) -> _Node:
    operator, name = (next(iter(texts(node, each)), "") for each in (NODE_OPERATOR, NODE_NAME))
    return _Node(operator, texts(node, NODE_INPUT), texts(node, NODE_OUTPUT), name)


def _scalar(tensor: Bytes) -> dict[str, float]:
    """Return the value of a tensor of one element, by its name; nothing of others."""
    found: dict[int, Bytes] = {number: value for number, _, value in fields(tensor)}
    dtype = FLOATS.get(varint(found[DATA_TYPE], 0)[0]) if DATA_TYPE in found else None
    raw = bytes(found.get(RAW_DATA, b""))
    if dtype is None or len(raw) != dtype.itemsize:
        return {}
    return {bytes(found[TENSOR_NAME]).decode(): float(np.frombuffer(raw, dtype)[0])}
