"""EDM's preconditioned networks, with the parameter names of checkpoints of NVIDIA's EDM and of InverseBench.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv:2206.00364):
the preconditioning of table 1 around a DDPM++ (Song et al. 2021, arXiv:2011.13456, appendix H) or around the
UNet of Dhariwal and Nichol 2021 (arXiv:2105.05233, section 3), as its appendix F.2 describes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)

from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import Blueprint, in_json
from sbim_deploy.export.checkpoint import CHECK, NetworkConfig
from sbim_deploy.export.scores import LANGEVIN_STEP, StepEmbedding, attend
from sbim_deploy.io.documents import Count, NonNegative, Positive, convert, whole
from sbim_deploy.models.folder import Channels, NoiseLevels, Width

# Of table 1, from which and to which its samplers go. Training draws sigma from all of it, so that the levels
# are as many as somebody takes steps; NCSNv2's are as close.
SIGMA_MAX, SIGMA_MIN, N_LEVELS = 80.0, 0.002, 2000
BOX_FILTER = 0.25
# Its relatives, such as VPPrecond, have the same networks, and other products around them.
Preconditioned = Annotated[
    str, Meta(pattern=r"^(.*\.)?EDMPrecond\Z", extra={"expected": "a class EDMPrecond"})
]


@dataclass(frozen=True)
class Family:
    """In what the two networks differ.

    ``head_width`` None is one head. ``modulates`` tells that the embedded noise level scales and shifts the
    second norm, where it else is added before it. ``projects`` tells that shortcuts to another grid have
    weights. ``last_attends`` tells that of a level's decoder blocks the last alone attends.
    """

    channel_mult: tuple[int, ...]
    model_channels: int
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    head_width: int | None
    modulates: bool
    shortcut_scale: float
    norm_eps: float
    projects: bool
    last_attends: bool


FAMILIES = {
    "DhariwalUNet": Family((1, 2, 3, 4), 192, 3, (32, 16, 8), 64, True, 1.0, 1e-5, False, False),
    "SongUNet": Family((1, 2, 2, 2), 128, 4, (16,), None, False, math.sqrt(0.5), 1e-6, True, True),
}


class GroupNorm(nn.GroupNorm):
    """A group norm of 32 groups, or of fewer that have 4 channels each."""

    def __init__(self, channels: int, eps: float):
        super().__init__(min(32, channels // 4), channels, eps)


class Block(nn.Module):
    """Two convolutions around a shortcut that hear the noise level, and attention behind them.

    ``resample`` is "up", "down" or "": the first convolution and the shortcut change the grid by 2.
    """

    def __init__(
        self, family: Family, n_in: int, n_out: int, n_embedding: int, attends: bool, resample: str = ""
    ):
        super().__init__()
        self.n_in, self.resample, self.family = n_in, resample, family
        self.norm0 = GroupNorm(n_in, family.norm_eps)
        self.conv0 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.affine = nn.Linear(n_embedding, 2 * n_out if family.modulates else n_out)
        self.norm1 = GroupNorm(n_out, family.norm_eps)
        self.conv1 = nn.Conv2d(n_out, n_out, 3, padding=1)
        projects = n_in != n_out or (bool(resample) and family.projects)
        self.skip = nn.Conv2d(n_in, n_out, 1) if projects else nn.Identity()
        self.n_heads = 0 if not attends else n_out // family.head_width if family.head_width else 1
        if self.n_heads:
            self.norm2 = GroupNorm(n_out, family.norm_eps)
            self.qkv = nn.Conv2d(n_out, 3 * n_out, 1)
            self.proj = nn.Conv2d(n_out, n_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (n, n_in, H, W) and (n, n_embedding) to (n, n_out, H', W')."""
        h = self.conv0(_resampled(F.silu(self.norm0(x)), self.resample))
        told = self.affine(embedding)[:, :, None, None]
        if self.family.modulates:
            scale, shift = told.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + told)
        h = self.conv1(F.silu(h)) + self.skip(_resampled(x, self.resample))
        h = h * self.family.shortcut_scale
        return self._attended(h) * self.family.shortcut_scale if self.n_heads else h

    def _attended(self, x: Tensor) -> Tensor:
        n, channels, rows, columns = x.shape
        # The queries, keys and values of a channel lie side by side.
        parts = self.qkv(self.norm2(x)).reshape(n, self.n_heads, channels // self.n_heads, 3, rows * columns)
        seen = attend(*parts.unbind(3)).reshape(n, channels, rows, columns)
        total: Tensor = x + self.proj(seen)
        return total


def _resampled(x: Tensor, resample: str) -> Tensor:
    if resample == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.avg_pool2d(x, 2) if resample == "down" else x


class EdmUNet(nn.Module):
    """F(x, c_noise) of a family: (n, channels, H, W) and (n,) to (n, channels, H, W).

    Levels have the names of their grids where images are ``resolution`` wide; other sizes work, of multiples
    of 2 to the power of the levels but one.
    """

    def __init__(self, name: str, options: _EdmOptions):
        super().__init__()
        family = FAMILIES[name]
        width, resolution = options.get("model_channels", family.model_channels), options["img_resolution"]
        factors = options.get("channel_mult", family.channel_mult)
        n_blocks = options.get("num_blocks", family.num_blocks)
        attending = options.get("attn_resolutions", family.attn_resolutions)
        n_embedding = width * options.get("channel_mult_emb", 4)
        song = name == "SongUNet"
        self.song = song
        self.map_noise = StepEmbedding(width, cosines_first=not song, shift=1.0 if song else 0.0)
        self.map_layer0 = nn.Linear(width, n_embedding)
        self.map_layer1 = nn.Linear(n_embedding, n_embedding)

        channels = options["img_channels"]
        grids = [resolution >> level for level in range(len(factors))]
        here = width if song else width * factors[0]
        self.enc = nn.ModuleDict()
        self.enc[f"{grids[0]}x{grids[0]}_conv"] = nn.Conv2d(channels, here, 3, padding=1)
        widths = [here]
        for level, (grid, factor) in enumerate(zip(grids, factors, strict=True)):
            if level:
                self.enc[f"{grid}x{grid}_down"] = Block(family, here, here, n_embedding, False, "down")
                widths.append(here)
            for index in range(n_blocks):
                block = Block(family, here, width * factor, n_embedding, grid in attending)
                self.enc[f"{grid}x{grid}_block{index}"] = block
                here = width * factor
                widths.append(here)

        self.dec = nn.ModuleDict()
        for level, (grid, factor) in reversed([*enumerate(zip(grids, factors, strict=True))]):
            if level == len(factors) - 1:
                self.dec[f"{grid}x{grid}_in0"] = Block(family, here, here, n_embedding, True)
                self.dec[f"{grid}x{grid}_in1"] = Block(family, here, here, n_embedding, False)
            else:
                self.dec[f"{grid}x{grid}_up"] = Block(family, here, here, n_embedding, False, "up")
            for index in range(n_blocks + 1):
                attends = grid in attending and (index == n_blocks or not family.last_attends)
                block = Block(family, here + widths.pop(), width * factor, n_embedding, attends)
                self.dec[f"{grid}x{grid}_block{index}"] = block
                here = width * factor

        norm, conv = GroupNorm(here, family.norm_eps), nn.Conv2d(here, channels, 3, padding=1)
        self.last = ("out_norm", "out_conv")
        if song:
            finest = f"{grids[0]}x{grids[0]}"
            self.dec[f"{finest}_aux_norm"], self.dec[f"{finest}_aux_conv"] = norm, conv
            self.last = (f"dec.{finest}_aux_norm", f"dec.{finest}_aux_conv")
        else:
            self.out_norm, self.out_conv = norm, conv

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Return F of a scaled noisy image and its embedded noise level."""
        embedding = F.silu(self.map_layer0(self.map_noise(c_noise).to(x.dtype)))
        embedding = F.silu(self.map_layer1(embedding))
        passed: list[Tensor] = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            passed.append(x)
        for block in self.dec.values():
            if isinstance(block, Block):
                if x.shape[1] != block.n_in:
                    x = torch.cat([x, passed.pop()], dim=1)
                x = block(x, embedding)
        norm, conv = map(self.get_submodule, self.last)
        predicted: Tensor = conv(F.silu(norm(x)))
        return predicted


class EdmScore(nn.Module):
    """The score of a network F under EDM's preconditioning.

    With D = c_skip x + c_out F(c_in x, ln(sigma) / 4) of table 1, (D - x) / sigma^2 is
    sigma_data F / (sigma v) - x / v^2, where v^2 = sigma^2 + sigma_data^2: nothing in it cancels.
    """

    def __init__(self, model: nn.Module, sigma_data: float):
        super().__init__()
        self.model, self.sigma_data = model, sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score of ``x`` at the noise levels ``sigma``."""
        c_noise, sigma = sigma.log() / 4, sigma[:, None, None, None]
        variance = sigma.square() + self.sigma_data**2
        deviation = variance.sqrt()
        predicted: Tensor = self.model(x / deviation, c_noise)
        return self.sigma_data / (sigma * deviation) * predicted - x / variance


class _EdmOptions(TypedDict, total=False):
    """The options of EDMPrecond and of its network that are supported, with their values."""

    model_type: Required[Literal["DhariwalUNet", "SongUNet"]]
    img_resolution: Required[Annotated[int, whole(1, 65536)]]
    img_channels: Required[Channels]
    label_dim: Literal[0]
    model_channels: Width
    channel_mult: Annotated[list[Annotated[int, whole(1, 64)]], Meta(min_length=1, max_length=10)]
    channel_mult_emb: Annotated[int, whole(1, 64)]
    num_blocks: Annotated[int, whole(1, 64)]
    attn_resolutions: list[Count]
    sigma_data: Positive
    sigma_min: NonNegative
    sigma_max: Annotated[float, Meta(gt=0, extra={"expected": "a number above 0"})]
    embedding_type: Literal["positional"]
    encoder_type: Literal["standard"]
    decoder_type: Literal["standard"]
    channel_mult_noise: Literal[1]
    resample_filter: list[Literal[1]]
    class_name: Preconditioned
    _target_: Preconditioned


# What training alone uses, and names; a network computes in float32 whatever it was trained in.
_IGNORED = {"network", "note", "dropout", "label_dropout", "augment_dim", "use_fp16"}


def describe_edm(stored: Mapping[str, Any], config_path: Path) -> Blueprint:
    """Return the network that the options of an EDMPrecond make.

    Raises:
        InputError: options that are not supported, or that make none.
    """
    options = convert(dict(stored), _EdmOptions, str(config_path), CHECK)
    unknown = [name for name in stored if name not in {*options, *_IGNORED}]
    if unknown:
        raise InputError(f"{config_path}: unknown options {', '.join(map(str, unknown))[:200]}; {CHECK}")
    name = options["model_type"]
    if len(options.get("resample_filter", [1, 1])) != 2:
        raise InputError(f"{config_path}: resample_filter is {options['resample_filter']}, expected [1, 1]")
    sigma_data = options.get("sigma_data", 0.5)
    try:
        with torch.device("meta"):
            network = EdmScore(EdmUNet(name, options), sigma_data)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{config_path}: its options make no network ({reason}); {CHECK}") from error
    family = FAMILIES[name]
    # A network whose options say where it ends is asked nothing beyond.
    begin = min(SIGMA_MAX, options.get("sigma_max", SIGMA_MAX))
    end = max(SIGMA_MIN, options.get("sigma_min", SIGMA_MIN))
    factors = options.get("channel_mult", family.channel_mult)
    config = NetworkConfig(
        ngf=options.get("model_channels", family.model_channels),
        channels=options["img_channels"],
        sigma_begin=begin,
        sigma_end=end,
        n_levels=N_LEVELS,
        step_lr=LANGEVIN_STEP * end**2,
    )
    others = {
        "img_resolution": options["img_resolution"],
        "channel_mult": [*factors],
        "channel_mult_emb": options.get("channel_mult_emb", 4),
        "num_blocks": options.get("num_blocks", family.num_blocks),
        "attn_resolutions": [*options.get("attn_resolutions", family.attn_resolutions)],
        "sigma_data": sigma_data,
    }
    return Blueprint(
        network,
        network.model,
        config,
        name,
        1 << (len(factors) - 1),
        NoiseLevels(begin, end, N_LEVELS),
        str(config_path),
        options=in_json(others),
        parameters=_without_filters,
    )


def _without_filters(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return the parameters alone: the filters that change the grid are fixed, and 2 x 2 means."""
    parameters = {}
    for name, tensor in weights.items():
        if name.endswith(".resample_filter"):
            if tensor.shape != (1, 1, 2, 2) or not bool((tensor == BOX_FILTER).all()):
                raise InputError(f"{source}: {name} is no 2 x 2 mean, the only filter that is supported")
        elif name != "map_augment.weight":  # of augmentations, which are none at sampling
            parameters[name] = tensor
    return parameters
