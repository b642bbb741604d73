"""NCSNv2's score networks, with the parameter names of the published checkpoints.

A RefineNet of residual blocks with InstanceNorm++ (Song and Ermon 2020, "Improved Techniques for Training
Score-Based Generative Models", arXiv:2006.09011, appendix A). It is unconditional but for a division by
sigma, so it takes sigma itself in place of a level's index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)


@dataclass(frozen=True)
class Stage:
    """Two residual blocks: the factor of ngf that they end with, and how the first one goes down."""

    name: str
    width: int
    down: bool = False
    dilation: int = 1


@dataclass(frozen=True)
class Architecture:
    """A member of the family: its stages from fine to coarse, its refinements from coarse to fine.

    ``refinements`` are (name, width factor); each takes one stage's output and the refinement before it.
    """

    stages: tuple[Stage, ...]
    refinements: tuple[tuple[str, int], ...]
    size_multiple: int


ARCHITECTURES = {
    "NCSNv2": Architecture(
        stages=(
            Stage("res1", 1),
            Stage("res2", 2, down=True),
            Stage("res3", 2, down=True, dilation=2),
            Stage("res4", 2, down=True, dilation=4),
        ),
        refinements=(("refine1", 2), ("refine2", 2), ("refine3", 1), ("refine4", 1)),
        size_multiple=2,
    ),
    "NCSNv2Deeper": Architecture(
        stages=(
            Stage("res1", 1),
            Stage("res2", 2, down=True),
            Stage("res3", 2, down=True),
            Stage("res4", 4, down=True, dilation=2),
            Stage("res5", 4, down=True, dilation=4),
        ),
        refinements=(("refine1", 4), ("refine2", 2), ("refine3", 2), ("refine4", 1), ("refine5", 1)),
        size_multiple=4,
    ),
    "NCSNv2Deepest": Architecture(
        stages=(
            Stage("res1", 1),
            Stage("res2", 2, down=True),
            Stage("res3", 2, down=True),
            Stage("res31", 2, down=True),
            Stage("res4", 4, down=True, dilation=2),
            Stage("res5", 4, down=True, dilation=4),
        ),
        refinements=(
            ("refine1", 4),
            ("refine2", 2),
            ("refine31", 2),
            ("refine3", 2),
            ("refine4", 1),
            ("refine5", 1),
        ),
        size_multiple=8,
    ),
}


class ScoreNetwork(nn.Module):
    """A score network s(x, sigma): (n, channels, H, W) and (n,) to (n, channels, H, W).

    H and W are multiples of the architecture's ``size_multiple``. Inputs are images of unit scale with
    noise of standard deviation sigma in each channel; ``centred_input`` says that the network sees 2 x - 1
    (the published configurations: neither ``rescaled`` nor ``logit_transform``).
    """

    def __init__(self, architecture: Architecture, ngf: int, channels: int, centred_input: bool = True):
        super().__init__()
        self.stage_names = [stage.name for stage in architecture.stages]
        self.refine_names = [name for name, _ in architecture.refinements]
        self.centred_input = centred_input
        self.begin_conv = nn.Conv2d(channels, ngf, 3, padding=1)
        self.normalizer = InstanceNormPlus(ngf)
        self.end_conv = nn.Conv2d(ngf, channels, 3, padding=1)

        width = ngf
        stage_widths = []
        for stage in architecture.stages:
            end = stage.width * ngf
            first = ResidualBlock(width, end, down=stage.down, dilation=stage.dilation)
            second = ResidualBlock(end, end, down=False, dilation=stage.dilation)
            self.add_module(stage.name, nn.ModuleList([first, second]))
            width = end
            stage_widths.append(end)

        coarser: list[int] = []
        last = self.refine_names[-1]
        for (name, factor), stage_width in zip(architecture.refinements, reversed(stage_widths), strict=True):
            self.add_module(name, RefineBlock([stage_width, *coarser], factor * ngf, end=name == last))
            coarser = [factor * ngf]

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score of ``x`` at the noise levels ``sigma``."""
        h = self.begin_conv(2 * x - 1 if self.centred_input else x)
        levels = []
        for name in self.stage_names:
            for block in self.get_submodule(name).children():
                h = block(h)
            levels.append(h)
        coarser: list[Tensor] = []
        for name, level in zip(self.refine_names, reversed(levels), strict=True):
            coarser = [self.get_submodule(name)([level, *coarser])]
        h = self.end_conv(F.elu(self.normalizer(coarser[0])))
        scores: Tensor = h / sigma[:, None, None, None]
        return scores


class InstanceNormPlus(nn.Module):
    """InstanceNorm++: an instance norm that gives back, scaled by alpha, what it took of the means."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels).normal_(1, 0.02))
        self.gamma = nn.Parameter(torch.empty(channels).normal_(1, 0.02))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, channels, H, W); statistics of half-precision inputs are taken in FP32."""
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        means = x.mean(dim=(2, 3))
        centred = means - means.mean(dim=-1, keepdim=True)
        # Written out because torch.var has no ONNX operator with the unbiased denominator.
        variance = centred.square().sum(dim=-1, keepdim=True) / (means.shape[-1] - 1)
        means = centred / torch.sqrt(variance + 1e-5)
        shift = self.gamma * self.alpha * means + self.beta
        return self.gamma[:, None, None] * F.instance_norm(x) + shift[..., None, None]


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a shortcut, halving the grid when ``down`` without dilation."""

    def __init__(self, in_channels: int, out_channels: int, down: bool, dilation: int):
        super().__init__()
        halve = down and dilation == 1
        middle = in_channels if down else out_channels

        def conv(n_in: int, n_out: int) -> nn.Conv2d:
            return nn.Conv2d(n_in, n_out, 3, padding=dilation, dilation=dilation)

        self.normalize1 = InstanceNormPlus(in_channels)
        self.conv1 = conv(in_channels, middle)
        self.normalize2 = InstanceNormPlus(middle)
        self.conv2 = ConvMeanPool(middle, out_channels, 3) if halve else conv(middle, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if halve:
            self.shortcut = ConvMeanPool(in_channels, out_channels, 1)
        elif dilation > 1 and (down or in_channels != out_channels):
            self.shortcut = conv(in_channels, out_channels)
        elif in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, H, W) to (n, out_channels, H or H / 2, W or W / 2)."""
        h = self.conv1(F.elu(self.normalize1(x)))
        h = self.conv2(F.elu(self.normalize2(h)))
        total: Tensor = self.shortcut(x) + h
        return total


class ConvMeanPool(nn.Module):
    """A convolution, then the mean of each 2 x 2 block."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, H, W) to (n, out_channels, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(x), 2)


class RefineBlock(nn.Module):
    """RefineNet's block: adapt each input, fuse them at the finest grid, pool in a chain, refine."""

    def __init__(self, in_channels: Sequence[int], channels: int, end: bool):
        super().__init__()
        self.adapt_convs = nn.ModuleList([ResidualConvs(width, n_blocks=2) for width in in_channels])
        if len(in_channels) > 1:
            self.msf = Fusion(in_channels, channels)
        self.crp = ChainedPooling(channels)
        self.output_convs = ResidualConvs(channels, n_blocks=3 if end else 1)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Map a stage's output, and the coarser refinement if there is one, to the stage's grid."""
        adapted = [adapt(x) for adapt, x in zip(self.adapt_convs, inputs, strict=True)]
        h = self.msf(adapted) if len(adapted) > 1 else adapted[0]
        refined: Tensor = self.output_convs(self.crp(h))
        return refined


class ResidualConvs(nn.ModuleDict):
    """``n_blocks`` residual blocks of two activated 3 x 3 convolutions without bias."""

    def __init__(self, channels: int, n_blocks: int):
        super().__init__()
        self.n_blocks = n_blocks
        for block in range(1, n_blocks + 1):
            for stage in (1, 2):
                self[f"{block}_{stage}_conv"] = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, H, W) to the same shape."""
        for block in range(1, self.n_blocks + 1):
            h = self[f"{block}_1_conv"](F.elu(x))
            x = x + self[f"{block}_2_conv"](F.elu(h))
        return x


class Fusion(nn.Module):
    """Multi-resolution fusion: each input to the first one's grid, then the sum."""

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(width, channels, 3, padding=1) for width in in_channels])

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Sum the inputs at the first one's grid."""
        fused: Tensor = self.convs[0](inputs[0])
        for conv, x in zip(list(self.convs)[1:], inputs[1:], strict=True):
            h = conv(x)
            if h.shape[2:] != fused.shape[2:]:
                h = F.interpolate(h, size=fused.shape[2:], mode="bilinear", align_corners=True)
            fused = fused + h
        return fused


class ChainedPooling(nn.Module):
    """Chained residual pooling: a 5 x 5 maximum and a convolution, twice, each added to the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, H, W) to the same shape."""
        x = F.elu(x)
        path = x
        for conv in self.convs:
            path = conv(F.max_pool2d(path, 5, stride=1, padding=2))
            x = x + path
        return x
