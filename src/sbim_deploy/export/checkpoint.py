"""Checkpoints: which of a file's tensors are a network's weights, and which of the sets is taken.

The published layout, which is written too, is a list [state dict with ``module.`` prefixes, optimiser state,
epoch, step, EMA weights without the prefix], the last where ``model.ema`` is true. Others are found by the
one parameter that each network has under a name of its own. Among the first are an NCSNv2's noise levels
``sigmas`` (L,), largest first, which are no parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sbim_deploy.errors import InputError
from sbim_deploy.export.weight_files import read_tensors
from sbim_deploy.export.weight_sets import (
    describe,
    find_levels,
    find_sets,
    find_unnamed_average,
    find_unread_average,
    one_set,
    progress_of,
)
from sbim_deploy.io.atomic import replacing

UNET_WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
CHECK = "check that it is the config of this network"

NETWORKS = "NCSNv2, EDM's, guided-diffusion's, UNet2DModel"
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class NetworkConfig:
    """What a checkpoint's config says: the network, its noise levels, and how it was sampled.

    ``ema`` is None where it does not say whether the checkpoint has EMA weights.
    """

    ngf: int
    channels: int
    sigma_begin: float
    sigma_end: float
    n_levels: int
    centred_input: bool = True
    ema: bool | None = None
    anatomy: str = "unknown"
    dataset: str = "unknown"
    step_lr: float = 5e-5
    n_steps_each: int = 3
    data_weight: float = 5.0
    start_level: int = 0

    def __post_init__(self) -> None:
        """Refuse levels that do not fall, and a start beyond the last."""
        if self.start_level >= self.n_levels:
            raise InputError(
                f"start_iter is {self.start_level}: expected less than the number of levels, {self.n_levels}"
            )
        if not 0 < self.sigma_end < self.sigma_begin:
            raise InputError(
                f"sigma_begin and sigma_end are {self.sigma_begin:g} and {self.sigma_end:g}: "
                "expected 0 < sigma_end < sigma_begin"
            )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights by their names in the network, without what wrappers put before them.

    ``raw`` is empty where there are EMA weights alone; ``ema`` is None where there are none, and
    ``unread_ema`` then names what may be some and cannot be told. ``levels`` are the noise levels and the
    variances that it holds, by their places.
    """

    raw: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Any]
    epoch: int
    step: int
    levels: Mapping[str, Tensor] = field(default_factory=dict)
    unread_ema: str | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of a network from any layout in which it is certain which they are.

    Raises:
        InputError: the file holds none, or several sets of which nothing tells which is meant; or it is
            none that :func:`sbim_deploy.export.weight_files.read_tensors` reads.
    """
    path = Path(path)
    content = read_tensors(path)
    sets = [*find_sets(content, path)]
    raw, ema = (one_set([each for each in sets if each.averaged == averaged], path) for averaged in (0, 1))
    if raw is None and ema is None:
        raise InputError(
            f"{path}: holds no weights of a network that export takes ({NETWORKS}), got "
            f"{describe(content)}; another network becomes a model with --module (docs/networks.md)"
        )
    averaged = ema.weights if ema else find_unnamed_average(content, raw)
    optimizer, *counts = progress_of(content)
    epoch, step = (value if isinstance(value, int) else 0 for value in counts)
    return Checkpoint(
        raw.weights if raw else {},
        averaged,
        optimizer if isinstance(optimizer, Mapping) else {},
        epoch,
        step,
        levels=find_levels(content),
        unread_ema=None if averaged is not None else find_unread_average(content),
    )


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


def choose_weights(
    checkpoint: Checkpoint, path: Path, ema: bool | None, config: NetworkConfig, config_path: Path
) -> tuple[Mapping[str, Tensor], bool]:
    """Return the weights that are asked for, and whether they are the EMA's.

    ``ema`` None takes the EMA weights where there are any.

    Raises:
        InputError: there are none of that kind; or nothing is asked for, and the config says something else
            than the checkpoint.
    """
    if ema is None:
        if config.ema and checkpoint.ema is None:
            raise InputError(
                f"{config_path}: ema is true, and {path} has no EMA weights that can be told: give --raw to "
                "take the others, or name the checkpoint that has them"
            )
        if config.ema is False and checkpoint.ema is not None and checkpoint.raw:
            raise InputError(
                f"{config_path}: ema is false, and {path} has EMA weights beside the others: say which with "
                "--ema or --raw"
            )
        if checkpoint.unread_ema is not None:
            raise InputError(
                f"{path}: {checkpoint.unread_ema} may be EMA weights, and does not fit the others by its "
                "names: give --raw to take the others, or save the average as a state dict"
            )
    if ema and checkpoint.ema is None:
        raise InputError(f"{path}: it has no EMA weights: leave --ema out, or use --raw")
    if ema is False and not checkpoint.raw:
        raise InputError(f"{path}: it has EMA weights alone: leave --raw out")
    if checkpoint.ema is None or ema is False:
        return checkpoint.raw, False
    return checkpoint.ema, True


def check_weights(
    parameters: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path, says: str
) -> None:
    """Check that parameters are finite numbers, with the names and shapes that a config ``says``.

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
        if tensor.dtype not in WEIGHT_DTYPES:
            raise InputError(
                f"{source}: {name} is of {str(tensor.dtype).removeprefix('torch.')}, expected floating-point "
                "weights: save the network's own state_dict(), neither quantised nor packed"
            )
        if not torch.isfinite(tensor.float()).all():
            raise InputError(f"{source}: {name} holds NaN or infinite weights")
