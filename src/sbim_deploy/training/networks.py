"""What can be trained: a kind of network with its noise schedule, its score and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.export.checkpoint import Checkpoint, NetworkConfig, write_checkpoint
from sbim_deploy.export.ncsnv2 import architecture_of, build_network
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.export.weight_sets import SIGMAS_KEY, UNET_PARAMETER
from sbim_deploy.samplers.schedules import Sigmas, geometric
from sbim_deploy.training.settings import Schedule

CHECKPOINT_NAME = "checkpoint.pth"
PIPELINE_NAME = "pipeline"
START = Path("the start checkpoint")  # the name that errors give it
NEW_ARCHITECTURE = "NCSNv2Deepest"


class Kind(Protocol):
    """A kind of network on the levels of its schedule.

    ``sigmas`` are the levels, largest first; rows and columns are multiples of ``size_multiple``.
    """

    @property
    def name(self) -> str:
        """The architecture's name."""

    @property
    def sigmas(self) -> Sigmas:
        """The levels (L,)."""

    @property
    def size_multiple(self) -> int:
        """What rows and columns are multiples of."""

    def new(self) -> nn.Module:
        """Return a network with weights from PyTorch's generator."""

    def load(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the network whose parameters ``weights`` are, or raise InputError."""

    def score(self, network: nn.Module) -> nn.Module:
        """Return the score of such a network: (n, 2, H, W) and (n,) to (n, 2, H, W)."""

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write what a run continues from, and what export takes."""


@dataclass(frozen=True)
class Exploding:
    """An NCSNv2 on geometric levels, which is its own score."""

    config: NetworkConfig
    name: str

    @property
    def sigmas(self) -> Sigmas:
        """The levels of the config."""
        return geometric(self.config.sigma_begin, self.config.sigma_end, self.config.n_levels)

    @property
    def size_multiple(self) -> int:
        """The architecture's."""
        return ARCHITECTURES[self.name].size_multiple

    def new(self) -> nn.Module:
        """Return a network of the config."""
        config = self.config
        return ScoreNetwork(ARCHITECTURES[self.name], config.ngf, config.channels, config.centred_input)

    def load(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return a network of the config with these weights."""
        return build_network(self.config, weights, START)

    def score(self, network: nn.Module) -> nn.Module:
        """Return the network itself."""
        return network

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write the published layout.

        NCSNv2's own classes keep the levels in a buffer, and load strictly.
        """
        raw = {**checkpoint.raw, SIGMAS_KEY: torch.from_numpy(self.sigmas).float()}
        write_checkpoint(folder / CHECKPOINT_NAME, replace(checkpoint, raw=raw))


def kind_of(config: NetworkConfig, schedule: Schedule, start: Checkpoint | None) -> Kind:
    """Return the kind that a schedule asks for: of the start's architecture, where there is a start.

    Raises:
        InputError: the start is of the other schedule.
        BackendMissingError: diffusers is not installed.
    """
    is_unet = start is not None and UNET_PARAMETER in start.raw
    if start is not None and is_unet != (schedule == "vp"):
        found, other = ("a UNet2DModel", "vp") if is_unet else ("an NCSNv2", "ve")
        raise InputError(f"{START} holds {found}, the schedule is {schedule}: expected {other}; change one")
    if schedule == "vp":
        try:
            # An extra of its own, whose import takes seconds.
            from sbim_deploy.training.preserving import Preserving
        except ModuleNotFoundError as error:
            raise BackendMissingError(
                f"the schedule vp needs {error.name}, which is not installed: "
                f"{install_command('train', 'vp')}"
            ) from error
        return Preserving(config.ngf)
    return Exploding(config, NEW_ARCHITECTURE if start is None else architecture_of(start.raw, START))
