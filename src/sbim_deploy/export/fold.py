"""Convolutions that are averaged straight after, as what they are together: one smaller convolution."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)

from sbim_deploy.export.network import ConvMeanPool


def fold_mean_pools(network: nn.Module) -> nn.Module:
    """Return a network that computes the same, to rounding, with less arithmetic.

    The mean of each 2 x 2 block of a 3 x 3 convolution is a 4 x 4 convolution with stride 2, which takes 16
    products where 36 were; a 1 x 1 convolution is taken of the means, 1 where 4 were.
    """
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ConvMeanPool):
                setattr(module, name, _fold(child.conv))
    return folded


def _fold(conv: nn.Conv2d) -> nn.Module:
    if conv.kernel_size == (1, 1):
        return nn.Sequential(nn.AvgPool2d(2), conv)
    weight = _mean_of_shifts(conv.weight.detach())
    pooled = nn.Conv2d(conv.in_channels, conv.out_channels, weight.shape[-1], stride=2, padding=1)
    pooled.weight, pooled.bias = nn.Parameter(weight), conv.bias
    return pooled


def _mean_of_shifts(weight: Tensor) -> Tensor:
    """Return the mean of a kernel (out, in, k, k) and its shifts by one pixel, (out, in, k + 1, k + 1)."""
    shifts = [F.pad(weight, (left, 1 - left, top, 1 - top)) for left in (0, 1) for top in (0, 1)]
    return torch.stack(shifts).mean(dim=0)
