"""Denoising and sliced score matching (Dimos 2022, p. 15) on the same network, batches and steps.

    python benchmarks/objectives.py [--steps 300] [--size 32] [--ngf 8] [--batch 8]

Prints for each the time of a core that a step takes, as a ratio, and the held-out denoising loss of the
averaged weights. Neither is compiled. Needs the extra train.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from sbim_deploy.export.checkpoint import NetworkConfig
from sbim_deploy.training.settings import TrainSettings
from sbim_deploy.training.trainer import train


def step_time_and_loss(
    objective: Literal["dsm", "ssm"], arguments: argparse.Namespace
) -> tuple[float, float, float]:
    """Return the median of a step's processor time in seconds, and the held-out loss before and after."""
    steps, size = arguments.steps, arguments.size
    times: list[float] = []
    held_out: list[float] = []

    def record(_step: int, _loss: float, mean: float | None) -> None:
        times.append(time.process_time())
        if mean is not None:
            held_out.append(mean)

    settings = TrainSettings(
        iterations=steps,
        objective=objective,
        sizes=(size,),
        batch=arguments.batch,
        learning_rate=1e-3,
        ema_rate=0.98,
        pool_size=1000,
        compile=False,
        log_interval=1,
        held_out_interval=steps,
        checkpoint_interval=steps,
    )
    config = NetworkConfig(arguments.ngf, 2, sigma_begin=50, sigma_end=0.01, n_levels=500)
    with tempfile.TemporaryDirectory() as folder:
        train(config, settings, Path(folder), on_progress=record)
    durations = [after - before for before, after in pairwise(times)]
    return median(durations), held_out[0], held_out[-1]


def main() -> None:
    """Print a row for each objective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {"steps": 300, "size": 32, "ngf": 8, "batch": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| objective | a step's time, dsm = 1 | held-out loss before | after |\n|---|---|---|---|")
    first = 0.0
    for objective in ("dsm", "ssm"):
        seconds, before, after = step_time_and_loss(objective, arguments)
        first = first or seconds
        print(f"| {objective} | {seconds / first:.2f} | {before:.4f} | {after:.4f} |", flush=True)


if __name__ == "__main__":
    main()
