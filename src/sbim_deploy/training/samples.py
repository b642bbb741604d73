"""Writes a page of held-out slices to look at: ``python -m sbim_deploy.training.samples OUTPUT.png``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sbim_deploy.io.atomic import replacing
from sbim_deploy.training.brains import held_out_pool
from sbim_deploy.training.held_out import run_writer

N_ROWS, N_COLUMNS, SIZE = 8, 8, 128
WHITE = 1.15


def write_samples(path: Path) -> None:
    """Write the magnitudes of the first 64 held-out slices."""
    pages = np.abs(held_out_pool(N_ROWS * N_COLUMNS, SIZE)).reshape(N_ROWS, N_COLUMNS, SIZE, SIZE)
    page = pages.transpose(0, 2, 1, 3).reshape(N_ROWS * SIZE, N_COLUMNS * SIZE)
    gray = np.round(255 * np.clip(page / WHITE, 0, 1)).astype(np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(gray).save(file, format="png", optimize=True)


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    return run_writer(write_samples, ".png", "sbim_deploy.training.samples", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
