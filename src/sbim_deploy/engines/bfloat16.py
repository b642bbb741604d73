"""Rounds the convolutions of an OpenVINO model to bfloat16, and nothing else.

The CPU plugin's own setting is for a whole model: it rounds the image that comes in, the norms' sums and the
data consistency to 8 bits as well, which costs a score at a noise level of 0.01 a tenth of its norm. The first
convolution reads the image and the last one writes the score: both stay in FP32, as they do in an export.
"""

from __future__ import annotations

from typing import Any

from openvino import opset13 as ov


def round_convolutions(model: Any) -> int:
    """Let a network's convolutions, but the first and the last, take and give bfloat16; return how many do."""
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


def _round(node: Any) -> None:
    readers = node.output(0).get_target_inputs()
    image, kernel = (ov.convert(value, "bf16") for value in node.input_values())
    attributes = node.get_attributes()
    settings = [attributes[name] for name in ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")]
    rounded = ov.convert(ov.convolution(image, kernel, *settings), node.get_element_type())
    for reader in readers:
        reader.replace_source_output(rounded.output(0))
