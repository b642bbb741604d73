"""Unconditional UNets of a variance-preserving schedule, from a folder as diffusers writes it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict, get_args

import numpy as np
import torch
from diffusers import UNet2DModel
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)

from sbim_deploy.errors import InputError
from sbim_deploy.export.checkpoint import (
    CHECK,
    LoadedNetwork,
    NetworkConfig,
    check_weights,
    unet_folder,
    weights_file,
)
from sbim_deploy.io.documents import convert, read_object, real, whole
from sbim_deploy.models.folder import VP, NoiseLevels
from sbim_deploy.samplers.schedules import Sigmas, variance_preserving

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


class VarianceExploding(nn.Module):
    """A score s(x, sigma): (n, channels, H, W) and (n,) to (n, channels, H, W), as the samplers take it.

    ``network(x_VP, t)`` predicts the noise, the velocity (Salimans and Ho 2022, arXiv:2202.00512, appendix D)
    or the image at step t of a schedule; ``sigmas`` are that schedule's levels, largest first.
    """

    def __init__(self, network: nn.Module, sigmas: Sigmas, prediction: str):
        super().__init__()
        self.network, self.prediction = network, prediction
        knots = torch.from_numpy(sigmas[::-1].astype(np.float32))
        if not bool((knots[1:] > knots[:-1]).all()):
            raise InputError(f"{len(sigmas)} levels lie too close together for single precision")
        rates = 1 / (knots[1:].double() / knots[:-1].double()).log()
        self.register_buffer("knots", knots, persistent=False)
        # Steps per unit of log sigma, none beyond the last level.
        self.register_buffer("rates", torch.cat([rates, torch.zeros(1)]).float(), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score of ``x`` at the noise levels ``sigma``."""
        t, sigma = self.timestep(sigma), sigma[:, None, None, None]
        shrink = 1 / torch.sqrt(1 + sigma.square())  # sqrt(a_t); sqrt(1 - a_t) is sigma shrink
        x_vp = x * shrink
        predicted: Tensor = self.network(x_vp, t)
        if self.prediction == "sample":
            return (predicted - x) / sigma.square()
        if self.prediction == "v_prediction":
            predicted = shrink * (predicted + sigma * x_vp)
        return -predicted / sigma

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the step of each sigma, (n,) to (n,), linear in the log-SNR between the schedule's steps.

        A step's own sigma gives it exactly; levels beyond the schedule give its ends.
        """
        knots, rates = self.get_buffer("knots"), self.get_buffer("rates")
        index = (sigma[:, None] >= knots[1:]).sum(dim=1)
        passed = torch.log(sigma / knots[index]) * rates[index]
        return index + passed.clamp(min=0)


ARCHITECTURE = "UNet2DModel"
PICKLE_NAME = "diffusion_pytorch_model.bin"
SCHEDULER_NAME = "scheduler_config.json"
MAX_WEIGHTS_BYTES = 4 * 1024**3
# Of Jalal et al. 2021, who step 5e-5 (sigma / 0.0066)^2: a model of other levels takes the same steps.
LANGEVIN_STEP = 5e-5 / 0.0066**2

Width = Annotated[int, whole(1, 4096)]
Fraction = Annotated[float, real(0, 1)]
Blocks = Meta(min_length=1, max_length=8)


class _UNetOptions(TypedDict, total=False):
    """The options of a network that are supported, with their values."""

    _class_name: Required[Literal["UNet2DModel"]]
    in_channels: Required[Literal[2]]
    out_channels: Required[Literal[2]]
    block_out_channels: Required[Annotated[list[Width], Blocks]]
    down_block_types: Required[Annotated[list[Literal["DownBlock2D", "AttnDownBlock2D"]], Blocks]]
    up_block_types: Required[Annotated[list[Literal["UpBlock2D", "AttnUpBlock2D"]], Blocks]]
    mid_block_type: Literal["UNetMidBlock2D", None]
    time_embedding_type: Literal["positional"]
    class_embed_type: Literal[None]
    num_class_embeds: Literal[None]
    resnet_time_scale_shift: Literal["default", "scale_shift"]
    downsample_type: Literal["conv", "resnet"]
    upsample_type: Literal["conv", "resnet"]
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"]
    center_input_sample: bool
    flip_sin_to_cos: bool
    add_attention: bool
    freq_shift: Fraction
    mid_block_scale_factor: Annotated[float, real(1e-3, 1e3)]
    dropout: Fraction
    norm_eps: Fraction
    layers_per_block: Annotated[int, whole(1, 16)]
    downsample_padding: Literal[0, 1]
    norm_num_groups: Width
    attention_head_dim: Width | None
    attn_norm_num_groups: Width | None
    time_embedding_dim: Annotated[int, whole(1, 65536)] | None


# The size of its training images, and the steps of an embedding that is refused.
_UNET_IGNORED = ("sample_size", "num_train_timesteps")


class _SchedulerOptions(TypedDict, total=False):
    """What is read of a schedule's options, which are more."""

    num_train_timesteps: Required[Annotated[int, whole(2, 10_000)]]
    beta_schedule: Required[Literal["linear", "scaled_linear", "squaredcos_cap_v2"]]
    beta_start: Required[Fraction]
    beta_end: Required[Fraction]
    prediction_type: Prediction
    trained_betas: Literal[None]
    rescale_betas_zero_snr: Literal[False]


def load_unet(folder: Path) -> LoadedNetwork:
    """Load a ``UNet2DModel`` of 2 channels: a pipeline's folder, or its own with ``scheduler_config.json``.

    Raises:
        InputError: a file is missing, is not what it must be, or asks for what is not supported.
    """
    config_path, weights_path = unet_folder(folder) / "config.json", weights_file(folder)
    if not config_path.is_file():
        raise InputError(
            f"{folder}: neither config.json nor unet/config.json is there: expected a folder that diffusers "
            "wrote, or name a checkpoint (.pth)"
        )
    unet, options = _build(config_path)
    sigmas, prediction = _read_schedule(folder)
    weights = _read_weights(weights_path)
    check_weights(weights, unet.state_dict(), weights_path, str(config_path))
    unet.load_state_dict(weights, assign=True)
    begin, end = float(sigmas[0]), float(sigmas[-1])
    return LoadedNetwork(
        score_of(unet, sigmas, prediction).eval(),
        NetworkConfig(
            ngf=options["block_out_channels"][0],
            channels=2,
            sigma_begin=begin,
            sigma_end=end,
            n_levels=sigmas.size,
            step_lr=LANGEVIN_STEP * end**2,
        ),
        ARCHITECTURE,
        ema=False,
        size_multiple=_size_multiple(options),
        levels=NoiseLevels(begin, end, sigmas.size, VP, tuple(sigmas.tolist())),
    )


def score_of(unet: nn.Module, sigmas: Sigmas, prediction: Prediction) -> VarianceExploding:
    """Return the score of a ``UNet2DModel`` that was, or will be, trained on these levels."""
    return VarianceExploding(_Prediction(unet), sigmas, prediction)


class _Prediction(nn.Module):
    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet
        config = unet.config
        unet.time_proj = _StepEmbedding(
            config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        predicted: Tensor = self.unet(x, t, return_dict=False)[0]
        return predicted


class _StepEmbedding(nn.Module):
    """The library's embedding of the step, with its frequencies as numbers that every backend shares.

    At step 999 the last bit of a frequency, on which exponentials differ, is 6e-5 of a radian.
    """

    def __init__(self, n_channels: int, cosines_first: bool, shift: float):
        super().__init__()
        self.cosines_first, self.odd = cosines_first, n_channels % 2
        half = n_channels // 2
        exponents = torch.arange(half, dtype=torch.float64) / (half - shift)
        frequencies = torch.exp(-math.log(10_000) * exponents).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        # In single precision whatever the network's: so it was trained.
        angles = t[:, None].float() * self.get_buffer("frequencies").float()
        parts = [torch.sin(angles), torch.cos(angles)]
        embedded = torch.cat(parts[::-1] if self.cosines_first else parts, dim=-1)
        return F.pad(embedded, (0, 1)) if self.odd else embedded


def _build(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network without storage for its weights, and the options that it was built with."""
    stored = read_object(path, CHECK)
    taken = convert(stored, _UNetOptions, str(path), CHECK)
    options = {name: value for name, value in taken.items() if name != "_class_name"}
    # What begins with _ says who wrote the file, not what the network is.
    unknown = [name for name in stored if name not in {*taken, *_UNET_IGNORED} and not name.startswith("_")]
    if unknown:
        raise InputError(
            f"{path}: unknown options {', '.join(unknown)[:200]}: expected those of {ARCHITECTURE}"
        )
    size = _size_multiple(options)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is no network fails below
            unet = UNet2DModel(**options).eval()
            unet(torch.empty(1, 2, size, size), torch.empty(1))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: its options make no network ({reason}); check them") from error
    return unet, options


def _size_multiple(options: dict[str, Any]) -> int:
    """Return what rows and columns are multiples of: every block but the last one halves the grid."""
    return 1 << (len(options["block_out_channels"]) - 1)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        if path.with_name(PICKLE_NAME).exists():
            raise InputError(
                f"{path.parent}: has {PICKLE_NAME}, a pickle, which may run code, and no {path.name}: "
                "save the model again with save_pretrained(..., safe_serialization=True)"
            )
        raise InputError(f"{path}: no such file: expected the weights in one file of safetensors")
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise InputError(f"{path}: {size} bytes, expected at most {MAX_WEIGHTS_BYTES}")
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: truncated or no safetensors ({reason}): fetch it again") from error


def _read_schedule(folder: Path) -> tuple[Sigmas, Prediction]:
    """Return the levels of the schedule, largest first, and what the network predicts."""
    paths = (folder / "scheduler" / SCHEDULER_NAME, folder / SCHEDULER_NAME)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(
            f"{folder}: neither scheduler/{SCHEDULER_NAME} nor {SCHEDULER_NAME} is there: expected the "
            "schedule that the network was trained on, as diffusers' scheduler.save_pretrained writes it"
        )
    stored = convert(read_object(path, CHECK), _SchedulerOptions, str(path), CHECK)
    try:
        sigmas = variance_preserving(
            _betas(
                stored["beta_schedule"],
                stored["beta_start"],
                stored["beta_end"],
                stored["num_train_timesteps"],
            )
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return sigmas, stored.get("prediction_type", "epsilon")


def _betas(schedule: str, start: float, end: float, n_steps: int) -> Sigmas:
    """Return the variances that the steps of diffusers' schedules add, first step first."""
    if schedule == "linear":
        return np.linspace(start, end, n_steps)
    if schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, n_steps) ** 2
    # Nichol and Dhariwal 2021 (arXiv:2102.09672), equation 17, with their cap.
    kept: Sigmas = np.cos((np.linspace(0, 1, n_steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], 0.999)
