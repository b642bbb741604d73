"""The UNet that is trained on a variance-preserving schedule, in the layout of diffusers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict

import numpy as np
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import save
from torch import Tensor, nn

from sbim_deploy.export.checkpoint import (
    CHECK,
    UNET_WEIGHTS_NAME,
    Checkpoint,
    NetworkConfig,
    check_weights,
    write_checkpoint,
)
from sbim_deploy.export.unet import ARCHITECTURE, score_of
from sbim_deploy.io.atomic import replacing_folder
from sbim_deploy.io.documents import Count, convert, read_yaml
from sbim_deploy.samplers.schedules import Sigmas, variance_preserving
from sbim_deploy.training.networks import CHECKPOINT_NAME, PIPELINE_NAME, START

# DDPM's schedule: Ho et al. 2020 (arXiv:2006.11239), section 4.
N_STEPS, BETA_START, BETA_END = 1000, 1e-4, 0.02
SIGMAS = variance_preserving(np.linspace(BETA_START, BETA_END, N_STEPS))
PIPELINE_FILES = ("scheduler/scheduler_config.json", "unet/config.json", f"unet/{UNET_WEIGHTS_NAME}")
# Blocks from fine to coarse, in units of ngf.
WIDTHS = (1, 2, 2, 4)
MAX_GROUPS, CHANNELS_A_GROUP = 32, 4


class _Data(TypedDict, total=False):
    channels: Required[Count]


class _Network(TypedDict, total=False):
    ngf: Required[Count]


class _Document(TypedDict, total=False):
    """What is read of a YAML for such a network: its schedule is DDPM's."""

    data: Required[_Data]
    model: Required[_Network]


def read_unet_config(path: Path) -> NetworkConfig:
    """Return the width and the channels that a YAML gives, on the levels of DDPM's schedule.

    Raises:
        InputError: the file cannot be read, or lacks them.
    """
    stored = read_yaml(path, "train")
    document = convert(stored.get("langevin_config", stored), _Document, str(path), CHECK)
    return NetworkConfig(
        ngf=document["model"]["ngf"],
        channels=document["data"]["channels"],
        sigma_begin=float(SIGMAS[0]),
        sigma_end=float(SIGMAS[-1]),
        n_levels=N_STEPS,
    )


@dataclass(frozen=True)
class Preserving:
    """A UNet that predicts the noise of DDPM's schedule (Dimos 2022, p. 26-30, 36-37).

    It has no attention, so that it takes images of any size in little memory, as an NCSNv2 does.
    """

    ngf: int
    name: str = ARCHITECTURE
    size_multiple: int = 1 << (len(WIDTHS) - 1)

    @property
    def sigmas(self) -> Sigmas:
        """The levels of the schedule's steps, as the exploding process has them."""
        return SIGMAS

    def new(self) -> Any:
        """Return a network of this width."""
        # Powers of two, so that they divide every block's width.
        groups = math.gcd(MAX_GROUPS * CHANNELS_A_GROUP, self.ngf) // CHANNELS_A_GROUP
        return UNet2DModel(
            in_channels=2,
            out_channels=2,
            block_out_channels=tuple(width * self.ngf for width in WIDTHS),
            down_block_types=("DownBlock2D",) * len(WIDTHS),
            up_block_types=("UpBlock2D",) * len(WIDTHS),
            add_attention=False,
            norm_num_groups=max(1, groups),
        )

    def load(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return a network of this width with these weights."""
        network: nn.Module = self.new()
        check_weights(weights, network.state_dict(), START, f"the config (ngf {self.ngf})")
        network.load_state_dict(weights)
        return network.eval()

    def score(self, network: nn.Module) -> nn.Module:
        """Return the network's score of the exploding process.

        Its loss of denoising score matching is half the mean of |z - eps(x_t, t)|^2 (p. 37): sigma s is -eps.
        """
        return score_of(network, self.sigmas, "epsilon")

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write a checkpoint to continue from, and the averaged weights as a folder of diffusers."""
        write_checkpoint(folder / CHECKPOINT_NAME, checkpoint)
        weights = checkpoint.raw if checkpoint.ema is None else checkpoint.ema
        scheduler: Any = DDPMScheduler(N_STEPS, BETA_START, BETA_END, "linear", clip_sample=False)
        with replacing_folder(folder / PIPELINE_NAME, PIPELINE_FILES) as made:
            scheduler.save_config(made / "scheduler")
            self.new().save_config(made / "unet")
            plain = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
            # The library's own writer of files closes them to everybody else.
            (made / "unet" / UNET_WEIGHTS_NAME).write_bytes(save(plain))
