"""Networks with pretrained weights, from any of the layouts that are read."""

from __future__ import annotations

from pathlib import Path

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.export.checkpoint import (
    LoadedNetwork,
    architecture_of,
    build_network,
    read_checkpoint,
    read_config,
)
from sbim_deploy.export.network import ARCHITECTURES
from sbim_deploy.models.folder import NoiseLevels


def load_network(path: Path, config_path: Path | None = None, ema: bool | None = None) -> LoadedNetwork:
    """Load a checkpoint in the published layout, with its YAML, or a folder that diffusers wrote.

    ``ema`` None takes the EMA weights where the checkpoint has them.

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
    return _load_ncsnv2(path, config_path, ema)


def _load_ncsnv2(path: Path, config_path: Path, ema: bool | None) -> LoadedNetwork:
    config = read_config(config_path)
    checkpoint = read_checkpoint(path)
    if ema and checkpoint.ema is None:
        raise InputError(f"{path}: it has no EMA weights: leave --ema out, or use --raw")
    use_ema = checkpoint.ema is not None if ema is None else ema
    weights = checkpoint.ema if use_ema and checkpoint.ema is not None else checkpoint.raw
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
            f'{folder}: {error.name} is not installed: pip install "sbim-deploy[export,vp]"'
        ) from error
    return load_unet(folder)
