"""Checkpoints of the published layout with random weights."""

from pathlib import Path

import numpy as np
import torch

from sbim_deploy.export.checkpoint import Checkpoint, write_checkpoint
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork

CONFIG = {
    "data": {"channels": 2, "logit_transform": False, "rescaled": False, "dataset": "random weights"},
    "model": {
        "ngf": 4,
        "sigma_begin": 232,
        "sigma_end": 0.0066,
        "num_classes": 2311,
        "ema": True,
        "normalization": "InstanceNorm++",
        "nonlinearity": "elu",
        "sigma_dist": "geometric",
        "spec_norm": False,
    },
    "sampling": {"step_lr": 0.00005, "n_steps_each": 3, "mse": 5.0, "start_iter": 1155},
}


def random_weights(architecture: str, seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ScoreNetwork(ARCHITECTURES[architecture], ngf=4, channels=2).state_dict()


def write_random_checkpoint(path: Path, architecture: str = "NCSNv2Deepest", ema: bool = True) -> Path:
    """A checkpoint as NCSNv2's training writes it: the sigmas among the weights, Adam's state, an EMA."""
    raw = random_weights(architecture, 1)
    sigmas = torch.from_numpy(np.geomspace(232, 0.0066, 2311)).float()
    optimizer = {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    shadow = random_weights(architecture, 2) if ema else None
    write_checkpoint(path, Checkpoint({**raw, "sigmas": sigmas}, shadow, optimizer, 12, 100_000))
    return path
