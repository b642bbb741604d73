"""What a network computes in: half precision at export where it may; a mean folded into its convolution.

And convolutions rounded as an engine on the CPU does it, to measure what that costs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)
from torch.overrides import TorchFunctionMode

from sbim_deploy.errors import InputError
from sbim_deploy.export.network import ConvMeanPool, ScoreNetwork
from sbim_deploy.export.scores import ScaledScore


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
    if isinstance(network, ScaledScore):
        return ScaledScore(in_precision(network.network, dtype), network.scale).eval()
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


class RoundedConvolutions(nn.Module):
    """A network whose convolutions, but the first and the last, take and give bfloat16, and all else FP32.

    That is what :mod:`sbim_deploy.engines.bfloat16` has OpenVINO compute on processors with bfloat16; here it
    is emulated on any: products of rounded numbers are summed in FP32, and the sums rounded.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self._n_convolutions: int | None = None

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score of x (n, channels, H, W) at sigma (n,)."""
        if self._n_convolutions is None:
            with _Rounding(0) as counting:
                self.network(x, sigma)
            self._n_convolutions = counting.n_seen
        with _Rounding(self._n_convolutions):
            score: Tensor = self.network(x, sigma)
        return score


class _Rounding(TorchFunctionMode):
    """Rounds the convolutions from the second to the last but one of ``n`` to bfloat16."""

    def __init__(self, n: int):
        super().__init__()
        self.n, self.n_seen = n, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in (F.conv1d, F.conv2d, F.conv3d):
            return func(*args, **kwargs)
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, args, strict=False)) | kwargs
        if given.get("groups", 1) != 1:
            return func(**given)
        self.n_seen += 1
        if not 1 < self.n_seen < self.n:
            return func(**given)
        bias = given.pop("bias", None)
        given["input"], given["weight"] = _to_bfloat16(given["input"]), _to_bfloat16(given["weight"])
        convolved = _to_bfloat16(func(**given))
        return convolved if bias is None else convolved + bias.view(-1, *[1] * (convolved.ndim - 2))


def _to_bfloat16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(x.dtype)
