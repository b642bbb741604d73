"""The UNet of guided-diffusion, with the parameter names of its checkpoints; DDS publishes such a prior.

Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis" (arXiv:2105.05233, section 3 and
appendix), of a variance-preserving process, with the learned variance of Nichol and Dhariwal 2021
(arXiv:2102.09672), which a score does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)

from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import Blueprint, in_json
from sbim_deploy.export.checkpoint import CHECK, NetworkConfig
from sbim_deploy.export.scores import LANGEVIN_STEP, StepEmbedding, VarianceExploding, attend, betas_of
from sbim_deploy.io.documents import convert, real, whole
from sbim_deploy.models.folder import VP, Channels, NoiseLevels, Width
from sbim_deploy.samplers.schedules import variance_preserving

ARCHITECTURE = "UNetModel"
# The factors of the width that a size stands for, where channel_mult is left out.
FACTORS_OF_SIZE = {
    64: [1, 2, 3, 4],
    128: [1, 1, 2, 3, 4],
    256: [1, 1, 2, 2, 4, 4],
    320: [1, 1, 2, 2, 4, 4],
}
N_GROUPS = 32


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; the embedded step scales and shifts the second norm.

    ``resample`` is "up", "down" or "": what comes in changes its grid by 2 before it is convolved.
    """

    def __init__(self, n_in: int, n_out: int, n_embedding: int, resample: str = ""):
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(N_GROUPS, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(n_embedding, 2 * n_out))
        self.out_layers = nn.Sequential(
            # Its third place is the dropout's, which only training has.
            nn.GroupNorm(N_GROUPS, n_out),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(n_out, n_out, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (n, n_in, H, W) and (n, n_embedding) to (n, n_out, H', W')."""
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        total: Tensor = self.skip_connection(self._resampled(x)) + self.out_layers[1:](h)
        return total

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x


class Attention(nn.Module):
    """Attention over pixels, added to what comes in: (n, channels, H, W) to the same shape."""

    def __init__(self, channels: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.GroupNorm(N_GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x and what its pixels see of each other."""
        n, channels, rows, columns = x.shape
        pixels = self.norm(x).reshape(n, channels, rows * columns)
        # The queries, keys and values of a head lie side by side.
        parts = self.qkv(pixels).reshape(n, self.n_heads, 3, channels // self.n_heads, rows * columns)
        seen = self.proj_out(attend(*parts.unbind(2)).reshape(n, channels, rows * columns))
        total: Tensor = x + seen.reshape(n, channels, rows, columns)
        return total


class Stage(nn.ModuleList):
    """Layers in a row, of which the residual blocks hear the step."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (n, channels, H, W) to what the last layer gives."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class GuidedDiffusionUNet(nn.Module):
    """Epsilon of x and the step t: (n, channels, H, W) and (n,) to (n, channels, H, W).

    H and W are multiples of 2 to the power of the levels but one.
    """

    def __init__(self, options: _Model, factors: list[int]):
        super().__init__()
        width, n_blocks = options["num_channels"], options["num_res_blocks"]
        self.channels = options["in_channels"]
        n_embedding = 4 * width
        attending = _attending(options)
        head_width, n_heads = options.get("num_head_channels", -1), options.get("num_heads", 1)

        def attention(channels: int) -> Attention:
            return Attention(channels, n_heads if head_width == -1 else channels // head_width)

        self.embedding = StepEmbedding(width, cosines_first=True, shift=0.0)
        self.time_embed = nn.Sequential(
            nn.Linear(width, n_embedding), nn.SiLU(), nn.Linear(n_embedding, n_embedding)
        )
        here = width * factors[0]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(self.channels, here, 3, padding=1)])])
        widths = [here]
        for level, factor in enumerate(factors):
            for _ in range(n_blocks):
                layers: list[nn.Module] = [ResidualBlock(here, factor * width, n_embedding)]
                here = factor * width
                if 1 << level in attending:
                    layers.append(attention(here))
                self.input_blocks.append(Stage(layers))
                widths.append(here)
            if level < len(factors) - 1:
                self.input_blocks.append(Stage([ResidualBlock(here, here, n_embedding, "down")]))
                widths.append(here)
        self.middle_block = Stage(
            [ResidualBlock(here, here, n_embedding), attention(here), ResidualBlock(here, here, n_embedding)]
        )
        self.output_blocks = nn.ModuleList()
        for level, factor in reversed([*enumerate(factors)]):
            for index in range(n_blocks + 1):
                layers = [ResidualBlock(here + widths.pop(), factor * width, n_embedding)]
                here = factor * width
                if 1 << level in attending:
                    layers.append(attention(here))
                if level and index == n_blocks:
                    layers.append(ResidualBlock(here, here, n_embedding, "up"))
                self.output_blocks.append(Stage(layers))
        n_out = self.channels * (2 if options.get("learn_sigma", False) else 1)
        self.out = nn.Sequential(
            nn.GroupNorm(N_GROUPS, here), nn.SiLU(), nn.Conv2d(here, n_out, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network sees; what it says of the variance is left out."""
        return self.predict(x, t)[:, : self.channels]

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Return all that the network gives: epsilon, and the variance's part where it learned one."""
        embedding = self.time_embed(self.embedding(t).to(x.dtype))
        passed = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            passed.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, passed.pop()], dim=1), embedding)
        predicted: Tensor = self.out(x)
        return predicted


class _Model(TypedDict, total=False):
    """The options of create_model that are supported, with their values."""

    image_size: Required[Annotated[int, whole(1, 65536)]]
    in_channels: Required[Channels]
    num_channels: Required[Width]
    num_res_blocks: Required[Annotated[int, whole(1, 64)]]
    attention_resolutions: Required[str | int]
    channel_mult: str
    learn_sigma: bool
    num_heads: Annotated[int, whole(1, 1024)]
    num_head_channels: Annotated[int, whole(-1, 4096)]
    use_scale_shift_norm: Required[Literal[True]]
    resblock_updown: Required[Literal[True]]
    class_cond: Literal[False]
    use_new_attention_order: Literal[False]
    num_heads_upsample: Literal[-1]
    resamp_with_conv: Literal[True]
    type: Literal["openai"]


# What training alone uses, and names; out_channels follow from the others.
_IGNORED = {
    *("out_channels", "dropout", "use_checkpoint", "use_fp16", "ema_rate", "var_type", "model_path"),
    *("ema", "name", "note"),  # a file has one set of weights, whatever averaged them
}


class _Diffusion(TypedDict, total=False):
    beta_schedule: Required[Literal["linear"]]
    beta_start: Required[Annotated[float, real(0, 1)]]
    beta_end: Required[Annotated[float, real(0, 1)]]
    num_diffusion_timesteps: Required[Annotated[int, whole(2, 10_000)]]
    predict_xstart: Literal[False]
    rescale_timesteps: Literal[False]


class _Document(TypedDict, total=False):
    """What is read of a configuration, which says more: of data, of sampling, of training."""

    model: Required[_Model]
    diffusion: Required[_Diffusion]


def describe_guided_diffusion(stored: Mapping[str, Any], config_path: Path) -> Blueprint:
    """Return the network that options of guided-diffusion's create_model make.

    Raises:
        InputError: options that are not supported, or that make none.
    """
    document = convert(dict(stored), _Document, str(config_path), CHECK)
    options, diffusion = document["model"], document["diffusion"]
    unknown = [name for name in stored["model"] if name not in {*options, *_IGNORED}]
    if unknown:
        raise InputError(
            f"{config_path}: unknown options {', '.join(map(str, unknown))[:200]} of model; {CHECK}"
        )
    try:
        factors = _factors(options)
        with torch.device("meta"):
            network = GuidedDiffusionUNet(options, factors)
        sigmas = variance_preserving(
            betas_of(
                diffusion["beta_schedule"],
                diffusion["beta_start"],
                diffusion["beta_end"],
                diffusion["num_diffusion_timesteps"],
            )
        )
    except (ArithmeticError, InputError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{config_path}: its options make no network ({reason}); {CHECK}") from error
    begin, end = float(sigmas[0]), float(sigmas[-1])
    config = NetworkConfig(
        ngf=options["num_channels"],
        channels=options["in_channels"],
        sigma_begin=begin,
        sigma_end=end,
        n_levels=sigmas.size,
        step_lr=LANGEVIN_STEP * end**2,
    )
    others = {
        "model.num_res_blocks": options["num_res_blocks"],
        "model.channel_mult": factors,
        "levels that attend": sorted(_attending(options)),
        "model.num_heads": options.get("num_heads", 1),
        "model.num_head_channels": options.get("num_head_channels", -1),
        "model.learn_sigma": options.get("learn_sigma", False),
    }
    return Blueprint(
        VarianceExploding(network, sigmas, "epsilon"),
        network,
        config,
        ARCHITECTURE,
        1 << (len(factors) - 1),
        NoiseLevels(begin, end, sigmas.size, VP, tuple(sigmas.tolist())),
        str(config_path),
        sigmas,
        in_json(others),
    )


def _factors(options: _Model) -> list[int]:
    """Return the factor of the width at each level, finest first."""
    if given := options.get("channel_mult"):
        factors = _whole_numbers(given, "channel_mult")
        if not 1 <= len(factors) <= 10 or min(factors) < 1 or max(factors) > 64:
            raise ValueError(f"channel_mult is {given!r}")
        return factors
    if options["image_size"] not in FACTORS_OF_SIZE:
        raise ValueError(f"no channel_mult, and image_size {options['image_size']} stands for none")
    return FACTORS_OF_SIZE[options["image_size"]]


def _attending(options: _Model) -> set[int]:
    """Return how many times coarser the levels are that attend."""
    asked = _whole_numbers(str(options["attention_resolutions"]), "attention_resolutions")
    return {options["image_size"] // each for each in asked}


def _whole_numbers(text: str, name: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} is {text[:60]!r}, expected whole numbers between commas") from None
