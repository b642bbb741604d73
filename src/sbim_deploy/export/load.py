"""Networks with pretrained weights, from any of the layouts that are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.export.checkpoint import (
    LoadedNetwork,
    architecture_of,
    build_network,
    read_checkpoint,
    read_config,
)
from sbim_deploy.export.edm import load_edm
from sbim_deploy.export.guided_diffusion import load_guided_diffusion
from sbim_deploy.export.network import ARCHITECTURES
from sbim_deploy.io.documents import read_yaml
from sbim_deploy.models.folder import NoiseLevels


def load_network(path: Path, config_path: Path | None = None, ema: bool | None = None) -> LoadedNetwork:
    """Load a checkpoint with its YAML or JSON, or a folder that diffusers wrote.

    The configuration tells which network it is: an NCSNv2, one of EDM's, or guided-diffusion's UNet. ``ema``
    None takes the EMA weights where the checkpoint has them.

    Raises:
        InputError: a file is not what it must be, or EMA weights are asked for and there are none.
        BackendMissingError: diffusers is not installed.
    """
    if path.is_dir():
        if config_path is not None:
            raise InputError(f"{path}: a diffusers folder has its own config.json: leave --config out")
        if ema:
            raise InputError(f"{path}: a diffusers folder holds one set of weights: leave --ema out")
        return _load_unet(path)
    if config_path is None:
        raise InputError(f"{path}: a checkpoint needs the YAML beside it: name it with --config")
    stored = read_yaml(config_path, "export")
    if (edm := _edm_options(stored)) is not None:
        return load_edm(edm, *_chosen_weights(path, ema), config_path, path)
    if isinstance(stored.get("model"), dict) and "num_channels" in stored["model"]:
        return load_guided_diffusion(stored, *_chosen_weights(path, ema), config_path, path)
    return _load_ncsnv2(path, config_path, ema)


def _edm_options(stored: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return an EDMPrecond's options: the document, its ``model`` (InverseBench) or ``network_kwargs``."""
    for options in (stored, stored.get("model"), stored.get("network_kwargs")):
        if isinstance(options, dict) and "model_type" in options:
            return options
    return None


def _chosen_weights(path: Path, ema: bool | None) -> tuple[Mapping[str, Tensor], bool]:
    """Return a checkpoint's weights, and whether they are the EMA's."""
    checkpoint = read_checkpoint(path)
    if ema and checkpoint.ema is None:
        raise InputError(f"{path}: it has no EMA weights: leave --ema out, or use --raw")
    if checkpoint.ema is None or ema is False:
        return checkpoint.raw, False
    return checkpoint.ema, True


def _load_ncsnv2(path: Path, config_path: Path, ema: bool | None) -> LoadedNetwork:
    config = read_config(config_path)
    weights, use_ema = _chosen_weights(path, ema)
    architecture = architecture_of(weights, path)
    return LoadedNetwork(
        build_network(config, weights, path),
        config,
        architecture,
        use_ema,
        ARCHITECTURES[architecture].size_multiple,
        NoiseLevels(config.sigma_begin, config.sigma_end, config.n_levels),
    )


def _load_unet(folder: Path) -> LoadedNetwork:
    try:
        # An extra of its own, whose import takes seconds.
        from sbim_deploy.export.unet import load_unet
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f"{folder}: {error.name} is not installed: {install_command('export', 'vp')}"
        ) from error
    return load_unet(folder)
