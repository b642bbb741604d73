"""Computes wide 3 x 3 convolutions with half the multiplications, for OpenVINO's CPU plugin.

The plugin runs them directly. Here they become the minimal filtering algorithm F(4, 3) along the rows, which
makes four rows of output from six of input by six products of row and kernel in place of twelve (A. Lavin and
S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308, section 4.3, in one
dimension). A product is a 1 x 3 convolution over columns and channels, which the plugin
runs at the processor's full rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import opset13 as ov

# The rows of a tile's output.
TILE = 4
# The transforms are for the points 0, infinity, 1, -1, 2, -2. The products of the first two are added first:
# the plugin computes the last product of a sum into the sum, and then changing its order of axes costs time.
INPUT_TRANSFORM = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, 4, 0, -5, 0, 1],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
    ]
)
KERNEL_TRANSFORM = np.array([[6, 0, 0], [0, 0, 24], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4]]) / 24
OUTPUT_TRANSFORM = np.array(
    [
        [1, 0, 1, 1, 1, 1],
        [0, 0, 1, -1, 2, -2],
        [0, 0, 1, 1, 4, 4],
        [0, 1, 1, -1, 8, -8],
    ]
)

# The work of the transforms grows with the channels, that of the products with their square. The score of
# benchmarks/published_size.py took 0.85 of the time of direct convolutions from 256 channels on, and 0.92
# from 128 on (384 x 384, two cores of a Xeon with AVX-512).
MIN_CHANNELS = 256
# A shorter convolution of one image takes longer to compile this way than some thirty calls gain.
MIN_MULTIPLICATIONS = 2e9
# The image may end within the last tile, whose other rows are computed for nothing: at most this much in all.
MAX_PADDED = 1.25

# Operations whose result is the same in any order of axes.
ELEMENTWISE = frozenset(
    ["Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Exp", "Elu", "Relu", "Sigmoid", "Swish"]
)
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def shorten_convolutions(model: Any) -> int:
    """Replace the convolutions that gain by it in an OpenVINO model of fixed shapes, and return how many.

    FP32 stays FP32: the result differs by rounding, a few 1e-6 of its norm. Operations that follow element by
    element are moved to channels last too, since changing the order of axes can take as long as is gained.
    """
    n_replaced = 0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Loop":
            n_replaced += shorten_convolutions(node.get_function())
        elif kind == "Convolution" and _gains(node):
            _replace(node, _convolve_by_rows(node), node.output(0).get_shape())
            n_replaced += 1
        elif kind in ELEMENTWISE:
            _move_to_channels_last(node)
    return n_replaced


def _gains(node: Any) -> bool:
    """Tell whether a convolution is 3 x 3 of known weights, keeps the size, and is wide and long enough."""
    image, kernel = node.input(0), node.input_value(1)
    if kernel.get_node().get_type_name() != "Constant" or image.get_partial_shape().is_dynamic:
        return False
    n_out, n_in, *extent = kernel.get_shape()
    if kernel.get_element_type().to_dtype() != np.float32 or extent != [3, 3]:
        return False
    attributes = node.get_attributes()
    dilation = attributes["dilations"][0]
    same = [dilation, dilation]
    around = [list(attributes[name]) for name in ("dilations", "pads_begin", "pads_end")]
    if around != [same, same, same] or list(attributes["strides"]) != [1, 1]:
        return False
    _, _, rows, columns = image.get_shape()
    return bool(
        min(n_in, n_out) >= MIN_CHANNELS
        and 9 * n_in * n_out * rows * columns >= MIN_MULTIPLICATIONS
        and TILE * dilation * _n_tiles(rows, dilation) <= MAX_PADDED * rows
    )


def _n_tiles(rows: int, dilation: int) -> int:
    return -(-rows // (TILE * dilation))


def _convolve_by_rows(node: Any) -> Any:
    """Return the result of a convolution, (batch, pixels, channels).

    Rows that are ``dilation`` apart belong together, so a tile's rows are blocks of ``dilation`` rows.
    """
    weights = node.input_value(1).get_node().get_data()
    batch, n_in, rows, columns = node.input(0).get_shape()
    n_out, dilation = weights.shape[0], node.get_attributes()["dilations"][0]
    n_tiles = _n_tiles(rows, dilation)
    padded = TILE * dilation * n_tiles

    image = _reshape(_channels_last(node.input_value(0)), [batch, rows, columns, n_in])
    image = _pad_rows(image, 0, padded - rows)
    tiles = _reshape(image, [batch, n_tiles, TILE, dilation * columns * n_in])
    blocks = [
        _reshape(block, [batch, n_tiles * dilation, columns, n_in])
        for block in ov.split(tiles, _integers(2), TILE).outputs()
    ]
    # Before its four blocks a tile takes the last of the tile above, after them the first of the one below.
    end = n_tiles * dilation
    above = _cut_rows(_pad_rows(blocks[-1], dilation, 0), 0, end)
    below = _cut_rows(_pad_rows(blocks[0], 0, dilation), dilation, end + dilation)
    blocks = [above, *blocks, below]

    kernels = np.tensordot(KERNEL_TRANSFORM.astype(np.float32), weights, (1, 2))
    products = [
        ov.convolution(
            ov.transpose(_combination(row, blocks), _integers(TO_FIRST)),
            ov.constant(np.ascontiguousarray(kernel[:, :, None])),
            [1, 1],
            [0, dilation],
            [0, dilation],
            [1, dilation],
        )
        for row, kernel in zip(INPUT_TRANSFORM, kernels, strict=True)
    ]
    outputs = [ov.transpose(_combination(row, products), _integers(TO_LAST)) for row in OUTPUT_TRANSFORM]
    shape = [batch, n_tiles, 1, dilation * columns * n_out]
    joined = ov.concat([_reshape(output, shape) for output in outputs], 2)
    joined = _cut_rows(_reshape(joined, [batch, padded, columns, n_out]), 0, rows)
    return _reshape(joined, [batch, rows * columns, n_out])


def _combination(weights: NDArray[Any], nodes: Sequence[Any]) -> Any:
    """Return the sum of weight times node."""
    terms = [
        node if weight == 1 else ov.multiply(node, ov.constant(np.float32(weight)))
        for weight, node in zip(weights, nodes, strict=True)
        if weight
    ]
    total = terms[0]
    for term in terms[1:]:
        total = ov.add(total, term)
    return total


def _pad_rows(image: Any, before: int, after: int) -> Any:
    """Return an image, channels last, with rows of zeros before and after."""
    if not before and not after:
        return image
    start, end = _integers([0, before, 0, 0]), _integers([0, after, 0, 0])
    return ov.pad(image, start, end, "constant", ov.constant(np.float32(0)))


def _cut_rows(image: Any, start: int, stop: int) -> Any:
    """Return some rows of an image, channels last."""
    return ov.slice(image, _integers([start]), _integers([stop]), _integers([1]), _integers([1]))


def _reshape(node: Any, shape: Sequence[int]) -> Any:
    return ov.reshape(node, _integers(shape), False)


def _integers(values: int | Sequence[int]) -> Any:
    return ov.constant(np.array(values, dtype=np.int64))


def _replace(node: Any, channels_last: Any, shape: Sequence[int]) -> None:
    """Let the readers of a node's image, which has ``shape``, read another (batch, pixels, channels)."""
    readers = node.output(0).get_target_inputs()
    batch, n, rows, columns = shape
    channels_first = ov.transpose(_reshape(channels_last, [batch, rows, columns, n]), _integers(TO_FIRST))
    for reader in readers:
        reader.replace_source_output(channels_first.output(0))


def _move_to_channels_last(node: Any) -> None:
    """Where an operand had its channels last before, compute in that order, and change it afterwards."""
    operands = node.input_values()
    if not any(_is_changed_to_first(operand) for operand in operands):
        return
    if any(operand.get_partial_shape().is_dynamic for operand in operands):
        return
    shape = list(node.output(0).get_shape())
    images = [len(operand.get_shape()) == 4 for operand in operands]
    for operand, is_image in zip(operands, images, strict=True):
        extent = list(operand.get_shape()[2:])
        if extent not in (shape[2:], [1, 1]) if is_image else operand.get_shape():
            return
    for port, operand, is_image in zip(node.inputs(), operands, images, strict=True):
        if is_image:
            port.replace_source_output(_channels_last(operand))
    node.constructor_validate_and_infer_types()
    _replace(node, node, shape)


def _channels_last(output: Any) -> Any:
    """Return an image, (batch, channels, rows, columns), as (batch, pixels, channels).

    It has three axes: of four the plugin may take the last for columns, and change their order in memory.
    """
    if _is_changed_to_first(output):
        return output.get_node().input_value(0).get_node().input_value(0)
    batch, n, rows, columns = output.get_shape()
    return _reshape(ov.transpose(output, _integers(TO_LAST)), [batch, rows * columns, n]).output(0)


def _is_changed_to_first(output: Any) -> bool:
    """Tell whether an image was put there by :func:`_replace`."""
    node = output.get_node()
    if node.get_type_name() != "Transpose" or output.get_partial_shape().is_dynamic:
        return False
    reshape, order = node.input_value(0).get_node(), node.input_value(1).get_node()
    if reshape.get_type_name() != "Reshape" or order.get_type_name() != "Constant":
        return False
    if order.get_data().tolist() != TO_FIRST or reshape.input(0).get_partial_shape().is_dynamic:
        return False
    batch, n, rows, columns = output.get_shape()
    return bool(list(reshape.input(0).get_shape()) == [batch, rows * columns, n])
