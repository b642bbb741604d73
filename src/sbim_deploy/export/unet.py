"""Unconditional UNets of a variance-preserving schedule, from a folder as diffusers writes it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict, get_type_hints

import torch
from diffusers import UNet2DModel
from msgspec import Meta
from torch import Tensor, nn

from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import Blueprint, in_json
from sbim_deploy.export.checkpoint import CHECK, NetworkConfig, read_checkpoint
from sbim_deploy.export.diffusers_folder import CONFIG_NAME, EMA_OPTIONS, UnetPlace
from sbim_deploy.export.scores import LANGEVIN_STEP, Prediction, StepEmbedding, VarianceExploding, betas_of
from sbim_deploy.io.documents import convert, read_object, real, whole
from sbim_deploy.models.folder import VP, NoiseLevels
from sbim_deploy.samplers.schedules import Sigmas, variance_preserving

ARCHITECTURE = "UNet2DModel"
PICKLE_NAME = "diffusion_pytorch_model.bin"
SCHEDULER_NAME = "scheduler_config.json"
MAX_WEIGHTS_BYTES = 4 * 1024**3

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


def describe_unet(place: UnetPlace) -> Blueprint:
    """Return the ``UNet2DModel`` of 2 channels that a folder describes, on its schedule.

    Raises:
        InputError: a file is missing, is not what it must be, or asks for what is not supported.
    """
    config_path = place.folder / CONFIG_NAME
    if not config_path.is_file():
        raise InputError(
            f"{place.pipeline}: neither config.json nor unet/config.json is there: expected a folder that "
            "diffusers wrote, or name a checkpoint (.pth)"
        )
    unet, options = _build(config_path)
    sigmas, prediction = _read_schedule(place.pipeline)
    begin, end = float(sigmas[0]), float(sigmas[-1])
    config = NetworkConfig(
        ngf=options["block_out_channels"][0],
        channels=2,
        sigma_begin=begin,
        sigma_end=end,
        n_levels=sigmas.size,
        step_lr=LANGEVIN_STEP * end**2,
    )
    built: Any = unet.config
    known = sorted(
        get_type_hints(_UNetOptions).keys() - {"_class_name", "in_channels", "out_channels", "dropout"}
    )
    others = {name: built[name] for name in known} | {"prediction_type": prediction}
    return Blueprint(
        score_of(unet, sigmas, prediction),
        unet,
        config,
        ARCHITECTURE,
        _size_multiple(options),
        NoiseLevels(begin, end, sigmas.size, VP, tuple(sigmas.tolist())),
        str(config_path),
        sigmas,
        in_json(others),
    )


def read_unet_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the weights of a UNet from the one file of safetensors that diffusers writes.

    Raises:
        InputError: it is not there, too large, or is something else.
    """
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
    checkpoint = read_checkpoint(path)
    return checkpoint.raw or checkpoint.ema or {}


def score_of(unet: nn.Module, sigmas: Sigmas, prediction: Prediction) -> VarianceExploding:
    """Return the score of a ``UNet2DModel`` that was, or will be, trained on these levels."""
    return VarianceExploding(_Prediction(unet), sigmas, prediction)


class _Prediction(nn.Module):
    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet
        config = unet.config
        unet.time_proj = StepEmbedding(
            config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        predicted: Tensor = self.unet(x, t, return_dict=False)[0]
        return predicted


def _build(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network without storage for its weights, and the options that it was built with."""
    stored = read_object(path, CHECK)
    taken = convert(stored, _UNetOptions, str(path), CHECK)
    options = {name: value for name, value in taken.items() if name != "_class_name"}
    # What begins with _ says who wrote the file, not what the network is.
    unknown = [
        name
        for name in stored
        if name not in {*taken, *_UNET_IGNORED, *EMA_OPTIONS} and not name.startswith("_")
    ]
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
            betas_of(
                stored["beta_schedule"],
                stored["beta_start"],
                stored["beta_end"],
                stored["num_train_timesteps"],
            )
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return sigmas, stored.get("prediction_type", "epsilon")
