"""The held-out denoising loss of score networks, side by side: docs/results.md.

    python benchmarks/prior.py NAME=CHECKPOINT:CONFIG [NAME=CHECKPOINT:CONFIG ...] [--slices 32] [--size 128]
        [--anatomy FOLDER]

Of a folder of diffusers the name is enough: NAME=FOLDER. The slices are the generator's held-out ones,
which training never draws, or of the heads whose label maps are in FOLDER; noise and slices are the same for
every network, and the weights are the EMA's.
Lower is better: a network that knows nothing has 0.5. Needs the extra train.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sbim_deploy.export.load import load_network
from sbim_deploy.training.brains import Anatomies, held_out_pool
from sbim_deploy.training.dsm import held_out_loss, to_channels
from sbim_deploy.training.label_maps import volume_files

SIGMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NAME=CHECKPOINT[:CONFIG]")
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--anatomy", type=Path)
    arguments = parser.parse_args()

    heads = volume_files(arguments.anatomy, "label maps of heads") if arguments.anatomy else ()
    anatomies = Anatomies(heads, template_share=0)
    images = to_channels(torch.from_numpy(held_out_pool(arguments.slices, arguments.size, anatomies)))
    print(f"| network | {' | '.join(f'{sigma:g}' for sigma in SIGMAS)} |\n|---|{'---|' * len(SIGMAS)}")
    for network in arguments.networks:
        name, _, paths = network.partition("=")
        checkpoint, _, config = paths.partition(":")
        loaded = load_network(Path(checkpoint), Path(config) if config else None)
        losses = held_out_loss(loaded.network, images, SIGMAS, seed=0)
        print(f"| {name} | {' | '.join(f'{loss:.4f}' for loss in losses)} |", flush=True)


if __name__ == "__main__":
    main()
