"""Rounds the convolutions of an OpenVINO model to bfloat16, and nothing else.

The CPU plugin's own setting is for a whole model: it rounds the image that comes in, the norms' sums and the
data consistency to 8 bits as well, which costs a score at a noise level of 0.01 a tenth of its norm. The
first convolution reads the image and the last one writes the score: both stay in FP32, as in an export.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from openvino import Model, Type
from openvino import opset13 as ov


def round_convolutions(model: Any) -> int:
    """Let convolutions, but a network's first and last, take and give bfloat16; return how many do."""
    nodes = model.get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    n_rounded = len(convolutions[1:-1])
    for node in convolutions[1:-1]:
        _round(node)
    for node in nodes:
        if node.get_type_name() == "Loop":
            n_rounded += round_convolutions(node.get_function())
    model.validate_nodes_and_infer_types()
    return n_rounded


def has_bfloat16(model: Any) -> bool:
    """Tell whether a convolution of a model takes bfloat16, as those of a model exported in it do."""
    return any(
        has_bfloat16(node.get_function())
        if node.get_type_name() == "Loop"
        else node.get_type_name() == "Convolution"
        and node.get_input_element_type(0).get_type_name() == "bf16"
        for node in model.get_ordered_ops()
    )


def convolution_kernel(core: Any, settings: dict[Any, Any]) -> str:
    """Return what the CPU plugin computes a bfloat16 convolution with here, such as brgconv_avx512_amx_bf16.

    It ends in the precision: f32 where the processor has no bfloat16.
    """
    image = ov.parameter([1, 32, 32, 32], Type.bf16)
    weights = ov.convert(ov.constant(np.ones((32, 32, 3, 3), np.float32)), "bf16")
    result = ov.convert(ov.convolution(image, weights, [1, 1], [1, 1], [1, 1], [1, 1]), "f32")
    compiled = core.compile_model(Model([result], [image]), "CPU", settings)
    kinds = (node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops())
    return next(
        str(kind["primitiveType"].astype(str))
        for kind in kinds
        if kind["layerType"].astype(str) == "Convolution"
    )


def _round(node: Any) -> None:
    readers = node.output(0).get_target_inputs()
    image = ov.convert(node.input_value(0), "bf16")
    kernel = ov.convert(_rounded(node.input_value(1)), "bf16")
    attributes = node.get_attributes()
    settings = [attributes[name] for name in ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")]
    rounded = ov.convert(ov.convolution(image, kernel, *settings), node.get_element_type())
    for reader in readers:
        reader.replace_source_output(rounded.output(0))


def _rounded(kernel: Any) -> Any:
    """Return a kernel of known weights with each of them at the nearest number of bfloat16, ties to even.

    OpenVINO rounds constants towards zero, otherwise than what it converts in a run: all weights would
    shrink, by 1e-3 on average, and errors of one sign do not average out in an image.
    """
    node = kernel.get_node()
    if node.get_type_name() != "Constant" or kernel.get_element_type() != Type.f32:
        return kernel
    bits = np.ascontiguousarray(node.get_data()).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    nearest = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    return ov.constant(nearest.view(np.float32))
