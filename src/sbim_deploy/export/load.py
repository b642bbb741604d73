"""Networks with pretrained weights, from any of the layouts that are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.export.blueprint import Blueprint, LoadedNetwork, check_levels, fill
from sbim_deploy.export.checkpoint import CHECK, choose_weights, read_checkpoint
from sbim_deploy.export.diffusers_folder import CONFIG_NAME, find_unet
from sbim_deploy.export.edm import describe_edm
from sbim_deploy.export.guided_diffusion import describe_guided_diffusion
from sbim_deploy.export.ncsnv2 import describe_ncsnv2, read_config
from sbim_deploy.export.weight_sets import kind_of
from sbim_deploy.io.documents import read_yaml


@dataclass(frozen=True)
class Opened:
    """A checkpoint and its configuration, each good in itself: the network, and the weights for it.

    ``file`` is where the weights are, ``config_path`` what the blueprint is made of, ``levels`` are the noise
    levels that the checkpoint holds, by their places.
    """

    blueprint: Blueprint
    weights: Mapping[str, Tensor]
    ema: bool
    file: Path
    config_path: Path
    levels: Mapping[str, Tensor]


def load_network(path: Path, config_path: Path | None = None, ema: bool | None = None) -> LoadedNetwork:
    """Load a checkpoint with its YAML or JSON, or a folder that diffusers wrote.

    The configuration tells which network it is: an NCSNv2, one of EDM's, or guided-diffusion's UNet. ``ema``
    None takes the EMA weights where the checkpoint has them.

    Raises:
        InputError: a file is not what it must be, the two do not fit, or EMA weights are asked for and there
            are none.
        BackendMissingError: diffusers is not installed.
    """
    return load_opened(open_checkpoint(path, config_path, ema))


def load_opened(opened: Opened) -> LoadedNetwork:
    """Return the network with its weights.

    Raises:
        InputError: the noise levels are not those of the configuration, or the weights not of this network.
    """
    check_levels(opened.blueprint, opened.levels, opened.file, opened.config_path)
    return fill(opened.blueprint, opened.weights, opened.ema, opened.file)


def weights_file(path: Path, ema: bool | None) -> Path:
    """Return the file of the weights: the checkpoint itself, or the one of a set in a folder of diffusers.

    Raises:
        InputError: the folder has no such set.
    """
    return find_unet(path, ema).weights if path.is_dir() else path


def open_checkpoint(path: Path, config_path: Path | None, ema: bool | None) -> Opened:
    """Read a checkpoint and its configuration, and choose between its weights.

    Raises:
        InputError: what :func:`load_network` raises, but for weights of another network.
        BackendMissingError: diffusers is not installed.
    """
    if path.is_dir():
        if config_path is not None:
            raise InputError(f"{path}: a diffusers folder has its own config.json: leave --config out")
        return _open_unet(path, ema)
    if config_path is None:
        raise InputError(f"{path}: a checkpoint needs the YAML beside it: name it with --config")
    stored = read_yaml(config_path, "export")
    blueprint = None
    if (options := _edm_options(stored)) is not None:
        blueprint = describe_edm(options, config_path)
    elif isinstance(stored.get("model"), dict) and "num_channels" in stored["model"]:
        blueprint = describe_guided_diffusion(stored, config_path)
    config = read_config(config_path) if blueprint is None else blueprint.config
    checkpoint = read_checkpoint(path)
    weights, averaged = choose_weights(checkpoint, path, ema, config, config_path)
    if blueprint is None:
        blueprint = describe_ncsnv2(config, weights, path)
    elif (found := kind_of(weights)) != (described := kind_of(blueprint.held.state_dict())):
        raise InputError(f"{path}: holds {found}, and {config_path} describes {described}; {CHECK}")
    return Opened(blueprint, weights, averaged, path, config_path, checkpoint.levels)


def _edm_options(stored: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return an EDMPrecond's options: the document, its ``model`` (InverseBench) or ``network_kwargs``."""
    for options in (stored, stored.get("model"), stored.get("network_kwargs")):
        if isinstance(options, dict) and "model_type" in options:
            return options
    return None


def _open_unet(folder: Path, ema: bool | None) -> Opened:
    try:
        # An extra of its own, whose import takes seconds.
        from sbim_deploy.export.unet import describe_unet, read_unet_weights
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f"{folder}: {error.name} is not installed: {install_command('export', 'vp')}"
        ) from error
    place = find_unet(folder, ema)
    blueprint, weights = describe_unet(place), read_unet_weights(place.weights)
    return Opened(blueprint, weights, place.ema, place.weights, place.folder / CONFIG_NAME, {})
