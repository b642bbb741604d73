"""Half precision, decided at export: which parts of a network compute in it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sbim_deploy.errors import InputError
from sbim_deploy.export.network import ScoreNetwork

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def in_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the network with convolutions of ``dtype``, and FP32 where half precision costs most.

    FP32 stay the inputs and outputs, the norms with their statistics and the activations after them, the
    division by sigma, and the first and the last convolution: the one reads noise of sigma on an image of 1,
    the other writes what is divided by sigma, and both are small. Residual sums take the wider of their
    inputs: FP32 in the finest stage, ``dtype`` below.

    Raises:
        InputError: half precision of a network that is no NCSNv2, which this does not know.
    """
    if dtype == torch.float32:
        return network
    if not isinstance(network, ScoreNetwork):
        raise InputError(f"dtype is {dtype}: expected fp32, half precision is for NCSNv2 networks alone")
    network = copy.deepcopy(network)
    outer = (network.begin_conv, network.end_conv)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and child not in outer:
                setattr(module, name, _HalfConv2d(child, dtype))
    return network


class _HalfConv2d(nn.Module):
    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype):
        super().__init__()
        self.conv, self.dtype = conv.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(x.to(self.dtype))
        return convolved
