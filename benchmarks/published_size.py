"""A network of the published size with random weights, to measure speed where there is no checkpoint.

    python benchmarks/published_size.py -o published [--ngf 128]

Writes a folder with checkpoint.pth and config.yaml in the published layout and their export in model/: about
a minute and 2.5 GB of memory. Its images mean nothing; its time and memory are those of real weights. Then
`sbim-deploy bench published/model --size 384x384 --coils 15`. Needs the extra export.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

from sbim_deploy.export.checkpoint import Checkpoint, write_checkpoint
from sbim_deploy.export.model import export_model
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork

ARCHITECTURE = "NCSNv2Deepest"
SIGMA_BEGIN, SIGMA_END, N_LEVELS = 232, 0.0066, 2311
CONFIG = {
    "data": {"channels": 2, "logit_transform": False, "rescaled": False, "dataset": "random weights"},
    "model": {
        "sigma_begin": SIGMA_BEGIN,
        "sigma_end": SIGMA_END,
        "num_classes": N_LEVELS,
        "ema": False,
        "normalization": "InstanceNorm++",
        "nonlinearity": "elu",
        "sigma_dist": "geometric",
        "spec_norm": False,
    },
    "sampling": {"step_lr": 0.0000009, "n_steps_each": 3, "mse": 5.0, "start_iter": 1155},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--ngf", type=int, default=128)
    arguments = parser.parse_args()

    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    weights = ScoreNetwork(ARCHITECTURES[ARCHITECTURE], arguments.ngf, channels=2).state_dict()
    sigmas = torch.from_numpy(np.geomspace(SIGMA_BEGIN, SIGMA_END, N_LEVELS)).float()
    checkpoint, config = folder / "checkpoint.pth", folder / "config.yaml"
    write_checkpoint(checkpoint, Checkpoint({**weights, "sigmas": sigmas}, None, {}, 0, 0))
    config.write_text(
        yaml.safe_dump({**CONFIG, "model": {**CONFIG["model"], "ngf": arguments.ngf}}), encoding="utf-8"
    )
    manifest = export_model(checkpoint, config, folder / "model", force=True)
    print(f"{folder / 'model'}: {manifest.architecture}, ngf {manifest.ngf}, random weights")


if __name__ == "__main__":
    main()
