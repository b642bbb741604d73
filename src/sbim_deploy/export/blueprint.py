"""A network as its configuration says it: what a checkpoint's weights and noise levels must fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sbim_deploy.errors import InputError
from sbim_deploy.export.checkpoint import NetworkConfig, check_weights
from sbim_deploy.export.weight_sets import BETAS_KEY, SIGMAS_KEY
from sbim_deploy.models.folder import VP, ModelManifest, NoiseLevels
from sbim_deploy.samplers.schedules import Sigmas, variance_preserving

# Of levels: what a configuration rounds, and far below what a score would notice.
LEVEL_TOLERANCE = 1e-3
SAME = 1e-9

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with the weights that were chosen, and where it came from.

    ``network`` maps x (n, channels, H, W) and sigma (n,) to the score; H and W are multiples of
    ``size_multiple``. ``image_scale`` is the 99th percentile that the images of its training had. ``options``
    are what else of its configuration shapes it, by name, in JSON.
    """

    network: nn.Module
    config: NetworkConfig
    architecture: str
    ema: bool
    size_multiple: int
    levels: NoiseLevels
    image_scale: float = 1.0
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Blueprint:
    """A network without weights, which has no storage for them yet.

    ``network`` is the score, ``held`` the part of it whose parameters a checkpoint names. ``says`` is what
    says so, for messages. ``schedule`` are the levels of its training, largest first; None for a network
    that is trained at any. ``parameters`` takes the parameters out of the weights of a file.
    """

    network: nn.Module
    held: nn.Module
    config: NetworkConfig
    architecture: str
    size_multiple: int
    levels: NoiseLevels
    says: str
    schedule: Sigmas | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    parameters: Callable[[Weights, Path], Weights] = lambda weights, _source: weights


def fill(blueprint: Blueprint, weights: Weights, ema: bool, source: Path) -> LoadedNetwork:
    """Return the network with weights, which it shares with the caller where they are in single precision.

    Raises:
        InputError: the weights are not of this network.
    """
    parameters = blueprint.parameters(weights, source)
    check_weights(parameters, blueprint.held.state_dict(), source, blueprint.says)
    single = {name: each.float() for name, each in parameters.items()}
    blueprint.held.load_state_dict(single, assign=True)
    return LoadedNetwork(
        blueprint.network.eval(),
        blueprint.config,
        blueprint.architecture,
        ema,
        blueprint.size_multiple,
        blueprint.levels,
        options=blueprint.options,
    )


def in_json(options: Mapping[str, Any]) -> dict[str, str]:
    """Return options as :class:`LoadedNetwork` keeps them."""
    return {name: json.dumps(value) for name, value in options.items()}


def check_levels(blueprint: Blueprint, levels: Weights, source: Path, config_path: Path) -> None:
    """Compare the levels of a configuration with those that the checkpoint holds, to 0.1 %.

    Raises:
        InputError: they differ, with both.
    """
    if blueprint.schedule is None:
        return
    preserving = blueprint.levels.distribution == VP
    for place, stored in levels.items():
        if place.endswith(f"{BETAS_KEY if preserving else SIGMAS_KEY}]"):
            holds = f"{source}: {place} holds"
            check_stored_levels(blueprint.schedule, stored, holds, str(config_path), preserving)


def check_stored_levels(
    said: Sigmas, stored: Tensor, holds: str, says: str, preserving: bool = False
) -> None:
    """Compare levels that a configuration ``says`` with those that something ``holds``.

    Those are in any order, or, of a ``preserving`` process, the variances of its steps.

    Raises:
        InputError: they differ, with both.
    """
    tolerance = LEVEL_TOLERANCE
    if stored.is_floating_point():
        tolerance = max(tolerance, torch.finfo(stored.dtype).eps)
    numbers = stored.double().numpy()
    trained = variance_preserving(numbers) if preserving else np.sort(numbers)[::-1]
    same_size = trained.size == said.size
    if same_size and np.allclose(trained, said, rtol=tolerance, atol=0):
        return
    told = f"{_range(trained)}, and {says} says {_range(said)}"
    ends = same_size and np.allclose(trained[[0, -1]], said[[0, -1]], rtol=tolerance, atol=0)
    if ends:
        worst = int(np.argmax(np.abs(np.log(trained / said))))
        told += f", of which number {worst} is {trained[worst]:g} and {said[worst]:g}"
    raise InputError(
        f"{holds} {told} (compared to {tolerance:.1g}): the network was trained on the former; name the "
        "configuration of its training, or write these levels into a copy of it"
    )


def _range(levels: Sigmas) -> str:
    return f"{levels.size} noise levels from {levels[0]:g} to {levels[-1]:g}" if levels.size else "no levels"


def differences(blueprint: Blueprint, manifest: ModelManifest) -> list[str]:
    """Name what of a configuration is not what a model was exported with, with both values."""
    return [
        f"{name} is {_shown(here)}, in the model {_shown(there)}"
        for name, here, there in _compared(blueprint, manifest)
        if not _same(here, there)
    ]


def _compared(blueprint: Blueprint, manifest: ModelManifest) -> Iterator[tuple[str, object, object]]:
    """Pair what a configuration says with the manifest's, both in the units of training."""
    config, levels, scale = blueprint.config, blueprint.levels, manifest.image_scale
    held, sampling = manifest.noise_levels, manifest.sampling
    yield "architecture", blueprint.architecture, manifest.architecture
    for name in ("ngf", "channels"):
        yield name, getattr(config, name), getattr(manifest, name)
    yield "size_multiple", blueprint.size_multiple, manifest.size_multiple
    yield "sigma_begin", levels.sigma_begin, held.sigma_begin * scale
    yield "sigma_end", levels.sigma_end, held.sigma_end * scale
    yield "number of levels", levels.n_levels, held.n_levels
    yield "distribution of levels", levels.distribution, held.distribution
    yield from _between(levels.vp_sigmas, held.vp_sigmas, scale)
    yield "step_lr", config.step_lr, sampling.step_lr * scale**2
    for name in ("n_steps_each", "data_weight", "start_level"):
        yield name, getattr(config, name), getattr(sampling, name)
    yield "dataset", config.dataset, manifest.training_data
    yield "anatomy", config.anatomy, manifest.anatomy
    if manifest.options:
        for name in sorted(blueprint.options.keys() | manifest.options.keys()):
            yield name, blueprint.options.get(name), manifest.options.get(name)


def _between(
    here: tuple[float, ...], there: tuple[float, ...], scale: float
) -> Iterator[tuple[str, object, object]]:
    """Yield the first level that differs in the middle of schedules that agree in number."""
    if len(here) == len(there):
        pairs = [(one, other * scale) for one, other in zip(here, there, strict=True)]
        number = next((i for i, pair in enumerate(pairs[1:-1], 1) if not _same(*pair)), None)
        if number is not None:
            yield f"level {number}", *pairs[number]


def _same(here: object, there: object) -> bool:
    if isinstance(here, float) and isinstance(there, int | float):
        return math.isclose(here, there, rel_tol=SAME)
    return here == there


def _shown(value: object) -> str:
    if value is None:
        return "not said"
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:200]
