"""Drops the sums over a slice's images from an OpenVINO model compiled for one image, for the CPU plugin.

A slice with two sets of maps has two images, and a fused graph adds what belongs to one slice by a product
with a matrix of zeros and ones, n x n for a batch of n: 1 where two images have the same slice's number. For
one image that matrix is the number 1, but it is made of an input, so that the plugin would multiply all of
k-space by it in every conjugate-gradient step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Operations that leave the only element of an array as it is.
SAME_ELEMENT = frozenset(["Reshape", "Squeeze", "Unsqueeze", "Transpose"])


def drop_sums_over_one(model: Any) -> int:
    """Take out the products by a 1 x 1 matrix that is always 1, and return how many there were."""
    n_dropped = 0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Loop":
            n_dropped += drop_sums_over_one(node.get_function())
        elif kind == "MatMul" and _is_one(node.input_value(0)) and _keeps_shape(node):
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(node.input_value(1))
            n_dropped += 1
    return n_dropped


def _is_one(value: Any) -> bool:
    """Tell whether a value tells in numbers that the only element of an array equals itself."""
    equal = _origin(value, SAME_ELEMENT | {"Convert"}).get_node()
    if equal.get_type_name() != "Equal" or not _is_single(equal.output(0)):
        return False
    sides = [equal.input_value(i) for i in range(2)]
    one, other = (_origin(side, SAME_ELEMENT) for side in sides)
    return bool(
        all(map(_is_single, sides))
        and one.get_node() == other.get_node()
        and one.get_index() == other.get_index()
    )


def _origin(value: Any, passing: frozenset[str]) -> Any:
    while value.get_node().get_type_name() in passing:
        value = value.get_node().input_value(0)
    return value


def _is_single(value: Any) -> bool:
    shape = value.get_partial_shape()
    return bool(shape.is_static and np.prod(value.get_shape()) == 1)


def _keeps_shape(node: Any) -> bool:
    same = node.output(0).get_partial_shape() == node.input_value(1).get_partial_shape()
    return bool(same) and not node.get_attributes()["transpose_b"]
