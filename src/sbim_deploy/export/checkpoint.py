"""The published checkpoints and their YAML: read without unpickling code, written in the same layout.

Layout: a list [state dict with ``module.`` prefixes, optimiser state, epoch, step, EMA weights without the
prefix], the last where ``model.ema`` is true. Among the first are the noise levels ``sigmas`` (L,), largest
first, which are no parameter.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Required, TypedDict

import torch
from torch import Tensor, nn

from sbim_deploy.errors import InputError
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.documents import (
    Count,
    Line,
    Natural,
    NonNegative,
    Positive,
    convert,
    read_yaml,
)
from sbim_deploy.models.folder import Channels, Levels, NoiseLevels, Width

UNET_WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
UNET_PARAMETER = "conv_in.weight"  # which no NCSNv2 has
SIGMAS_KEY = "sigmas"
CHECK = "check that it is the config of this network"


@dataclass(frozen=True)
class NetworkConfig:
    """What a checkpoint's config says: the network, its noise levels, and how it was sampled."""

    ngf: int
    channels: int
    sigma_begin: float
    sigma_end: float
    n_levels: int
    centred_input: bool = True
    ema: bool = False
    anatomy: str = "unknown"
    dataset: str = "unknown"
    step_lr: float = 5e-5
    n_steps_each: int = 3
    data_weight: float = 5.0
    start_level: int = 0

    def __post_init__(self) -> None:
        """Refuse levels that do not fall."""
        if not 0 < self.sigma_end < self.sigma_begin:
            raise InputError(
                f"sigma_begin and sigma_end are {self.sigma_begin:g} and {self.sigma_end:g}: "
                "expected 0 < sigma_end < sigma_begin"
            )


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with the weights that were chosen, and where it came from.

    ``network`` maps x (n, channels, H, W) and sigma (n,) to the score; H and W are multiples of
    ``size_multiple``. ``image_scale`` is the 99th percentile that the images of its training had.
    """

    network: nn.Module
    config: NetworkConfig
    architecture: str
    ema: bool
    size_multiple: int
    levels: NoiseLevels
    image_scale: float = 1.0


def weights_file(path: Path) -> Path:
    """Return the file of the weights: the checkpoint itself, or the one in a folder that diffusers wrote."""
    return unet_folder(path) / UNET_WEIGHTS_NAME if path.is_dir() else path


def unet_folder(folder: Path) -> Path:
    """Return where the UNet is in a folder that diffusers wrote: a pipeline's has one for it."""
    return folder / "unet" if (folder / "unet").is_dir() else folder


class _Data(TypedDict, total=False):
    channels: Required[Channels]
    logit_transform: bool
    rescaled: bool
    dataset: Line


class _Network(TypedDict, total=False):
    ngf: Required[Width]
    sigma_begin: Required[Positive]
    sigma_end: Required[Positive]
    num_classes: Required[Levels]
    ema: bool
    normalization: Literal["InstanceNorm++"]
    nonlinearity: Literal["elu"]
    sigma_dist: Literal["geometric"]
    spec_norm: Literal[False]


class _Sampling(TypedDict, total=False):
    step_lr: Positive
    n_steps_each: Count
    mse: NonNegative
    start_iter: Natural


class _Document(TypedDict, total=False):
    """What is read of a checkpoint's YAML, which says more."""

    data: Required[_Data]
    model: Required[_Network]
    sampling: _Sampling
    anatomy: Line


def read_config(path: Path) -> NetworkConfig:
    """Read a YAML in the thesis's flat form or with everything under ``langevin_config``.

    Raises:
        InputError: the file is missing, is no YAML mapping, lacks keys, or has a value that is not supported.
    """
    stored = read_yaml(path, "export")
    document = convert(stored.get("langevin_config", stored), _Document, str(path), CHECK)
    data, model, sampling = document["data"], document["model"], document.get("sampling", {})
    try:
        return NetworkConfig(
            ngf=model["ngf"],
            channels=data["channels"],
            sigma_begin=model["sigma_begin"],
            sigma_end=model["sigma_end"],
            n_levels=model["num_classes"],
            centred_input=not data.get("logit_transform", False) and not data.get("rescaled", False),
            ema=model.get("ema", False),
            anatomy=document.get("anatomy", "unknown"),
            dataset=data.get("dataset", "unknown"),
            step_lr=sampling.get("step_lr", 5e-5),
            n_steps_each=sampling.get("n_steps_each", 3),
            data_weight=sampling.get("mse", 5.0),
            start_level=sampling.get("start_iter", 0),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}; {CHECK}") from None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights without the ``module.`` prefix; ``ema`` is None where there are none."""

    raw: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Any]
    epoch: int
    step: int


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the published layout, tensors only: a pickle that wants to run code is refused.

    Raises:
        InputError: the file is missing, truncated, unsafe, or of another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            # Of pickle protocols; what cannot be read is an error of its own.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: not a checkpoint of tensors alone (loaded with weights_only, so that no code "
            "in it can run); where you trust it, save its network.state_dict() in its own environment, as "
            "docs/priors.md shows, and export that"
        ) from error
    except Exception as error:  # whatever the unpickler meets in it
        raise InputError(f"{path}: truncated or not a PyTorch checkpoint") from error
    if isinstance(content, Mapping) and isinstance(content.get("net"), Mapping):
        # As InverseBench saves it: {"net", "ema", "optimizer", "step"}.
        content = [content["net"], content.get("optimizer"), 0, content.get("step"), content.get("ema")]
    if isinstance(content, Mapping) and content and all(map(torch.is_tensor, content.values())):
        return Checkpoint(_state_dict(content, path), None, {}, 0, 0)
    if not isinstance(content, list) or len(content) < 4 or not isinstance(content[0], Mapping):
        raise InputError(
            f"{path}: expected the published layout [state dict, optimiser, epoch, step(, EMA)], "
            f"got {_describe(content)}"
        )
    ema = content[4] if len(content) > 4 and isinstance(content[4], Mapping) else None
    optimizer = content[1] if isinstance(content[1], Mapping) else {}
    epoch, step = (value if isinstance(value, int) else 0 for value in content[2:4])
    raw = _state_dict(content[0], path)
    return Checkpoint(raw, _state_dict(ema, path) if ema else None, optimizer, epoch, step)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the published layout, to a temporary name first."""
    content: list[Any] = [
        {f"module.{name}": tensor for name, tensor in checkpoint.raw.items()},
        dict(checkpoint.optimizer),
        checkpoint.epoch,
        checkpoint.step,
    ]
    if checkpoint.ema is not None:
        content.append(dict(checkpoint.ema))
    with replacing(path) as temporary:
        torch.save(content, temporary)


def build_network(config: NetworkConfig, weights: Mapping[str, Tensor], source: Path) -> ScoreNetwork:
    """Return the network whose parameters ``weights`` are; their names tell which of the family it is.

    Raises:
        InputError: names or shapes do not fit any member at the config's ngf and channels.
    """
    architecture = ARCHITECTURES[architecture_of(weights, source)]
    with torch.device("meta"):  # compared before memory is taken
        network = ScoreNetwork(architecture, config.ngf, config.channels, config.centred_input)
    parameters = {name: tensor for name, tensor in weights.items() if name != SIGMAS_KEY}
    says = f"the config (ngf {config.ngf}, {config.channels} channels)"
    check_weights(parameters, network.state_dict(), source, says)
    network = ScoreNetwork(architecture, config.ngf, config.channels, config.centred_input)
    network.load_state_dict(parameters)
    return network.eval()


def check_weights(
    parameters: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path, says: str
) -> None:
    """Check that parameters are finite and have the names and shapes ``expected`` by what a config ``says``.

    Raises:
        InputError: they do not, with the first that does not.
    """
    missing = sorted(expected.keys() - parameters.keys())
    unknown = sorted(parameters.keys() - expected.keys())
    if missing or unknown:
        raise InputError(
            f"{source}: {len(missing)} parameters missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
        )
    for name, tensor in parameters.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, {says} makes it "
                f"{tuple(expected[name].shape)}: is it the right config?"
            )
        if not torch.isfinite(tensor).all():
            raise InputError(f"{source}: {name} holds NaN or infinite weights")


def architecture_of(weights: Mapping[str, Tensor], source: Path) -> str:
    """Name the member of the family that has these stages."""
    if UNET_PARAMETER in weights:
        raise InputError(
            f"{source}: holds a UNet2DModel, expected an NCSNv2; train writes the former for export into the "
            "folder pipeline beside the checkpoint: name that"
        )
    stages = {name.split(".")[0] for name in weights if name.startswith("res")}
    for name, architecture in ARCHITECTURES.items():
        if stages == {stage.name for stage in architecture.stages}:
            return name
    raise InputError(f"{source}: residual stages {sorted(stages)} are none of {', '.join(ARCHITECTURES)}")


def _state_dict(weights: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return weights by their names without the prefix, each a plain tensor of numbers."""
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise InputError(
                f"{path}: a parameter is called {name!r:.60}, expected a name; is it a checkpoint?"
            )
        if not torch.is_tensor(tensor):
            raise InputError(f"{path}: {name!r:.60} is a {type(tensor).__name__}, expected a tensor")
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise InputError(
                f"{path}: {name!r:.60} has no plain numbers (a meta, sparse or quantised tensor)"
            )
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def _describe(content: object) -> str:
    if isinstance(content, list):
        return f"a list of {len(content)}"
    if isinstance(content, Mapping):
        return f"a mapping with the keys {sorted(map(str, content))[:4]}"
    return f"a {type(content).__name__}"
