"""NCSNv2's checkpoints: their YAML, and the network that it and the names of the weights make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Required, TypedDict

import torch
from torch import Tensor, nn

from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import Blueprint, fill, in_json
from sbim_deploy.export.checkpoint import CHECK, NetworkConfig
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.export.weight_sets import NCSNV2, SIGMAS_KEY, UNET_PARAMETER, kind_of
from sbim_deploy.io.documents import Line, Natural, NonNegative, Positive, convert, read_yaml
from sbim_deploy.models.folder import Channels, Levels, NoiseLevels, StepsEach, Width
from sbim_deploy.samplers.schedules import geometric


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
    nonlinearity: Literal["elu", "ELU"]
    sigma_dist: Literal["geometric"]
    spec_norm: Literal[False]


class _Sampling(TypedDict, total=False):
    step_lr: Positive
    n_steps_each: StepsEach
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
            ema=model.get("ema"),
            anatomy=document.get("anatomy", "unknown"),
            dataset=data.get("dataset", "unknown"),
            step_lr=sampling.get("step_lr", 5e-5),
            n_steps_each=sampling.get("n_steps_each", 3),
            data_weight=sampling.get("mse", 5.0),
            start_level=sampling.get("start_iter", 0),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}; {CHECK}") from None


def describe_ncsnv2(config: NetworkConfig, weights: Mapping[str, Tensor], source: Path) -> Blueprint:
    """Return the member of the family that has the stages of these weights, at the config's width.

    Raises:
        InputError: there is none.
    """
    name = architecture_of(weights, source)
    with torch.device("meta"):  # compared before memory is taken
        network = ScoreNetwork(ARCHITECTURES[name], config.ngf, config.channels, config.centred_input)
    begin, end, n_levels = config.sigma_begin, config.sigma_end, config.n_levels
    return Blueprint(
        network,
        network,
        config,
        name,
        ARCHITECTURES[name].size_multiple,
        NoiseLevels(begin, end, n_levels),
        f"the config (ngf {config.ngf}, {config.channels} channels)",
        geometric(begin, end, n_levels),
        in_json({"data.logit_transform or data.rescaled": not config.centred_input}),
        _without_sigmas,
    )


def build_network(config: NetworkConfig, weights: Mapping[str, Tensor], source: Path) -> nn.Module:
    """Return the network with a copy of ``weights``; their names tell which of the family it is.

    Raises:
        InputError: names or shapes do not fit any member at the config's ngf and channels.
    """
    blueprint = describe_ncsnv2(config, weights, source)
    network = fill(blueprint, weights, False, source).network
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
    return network


def _without_sigmas(weights: Mapping[str, Tensor], _source: Path) -> Mapping[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name != SIGMAS_KEY}


def architecture_of(weights: Mapping[str, Tensor], source: Path) -> str:
    """Name the member of the family that has these stages.

    Raises:
        InputError: none has.
    """
    if not weights:
        raise InputError(f"{source}: holds EMA weights alone, expected the others as well")
    if UNET_PARAMETER in weights:
        raise InputError(
            f"{source}: holds a UNet2DModel, expected an NCSNv2; train writes the former for export into the "
            "folder pipeline beside the checkpoint: name that"
        )
    if (kind := kind_of(weights)) != NCSNV2 and not any(name.startswith("res") for name in weights):
        raise InputError(f"{source}: holds {kind}, expected an NCSNv2; {CHECK}")
    stages = {name.split(".")[0] for name in weights if name.startswith("res")}
    for name, architecture in ARCHITECTURES.items():
        if stages == {stage.name for stage in architecture.stages}:
            return name
    raise InputError(f"{source}: residual stages {sorted(stages)} are none of {', '.join(ARCHITECTURES)}")
