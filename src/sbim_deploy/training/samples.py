"""Writes a page of held-out slices: ``python -m sbim_deploy.training.samples OUTPUT.png [LABEL_MAPS]``.

The slices are the template's, or of the heads in LABEL_MAPS, a folder of label maps.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.training.brains import Anatomies, held_out_pool
from sbim_deploy.training.held_out import run_writer
from sbim_deploy.training.label_maps import volume_files

N_ROWS, N_COLUMNS, SIZE = 8, 8, 128
WHITE = 1.15


def write_samples(anatomies: Anatomies, path: Path) -> None:
    """Write the magnitudes of the first 64 held-out slices."""
    slices = np.abs(held_out_pool(N_ROWS * N_COLUMNS, SIZE, anatomies))
    pages = slices.reshape(N_ROWS, N_COLUMNS, SIZE, SIZE)
    page = pages.transpose(0, 2, 1, 3).reshape(N_ROWS * SIZE, N_COLUMNS * SIZE)
    gray = np.round(255 * np.clip(page / WHITE, 0, 1)).astype(np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(gray).save(file, format="png", optimize=True)


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    output, folders = arguments[:1], arguments[1:]

    def write(path: Path) -> None:
        if len(folders) > 1:
            raise InputError(f"got the folders {folders}, expected one of label maps at most")
        heads = volume_files(Path(folders[0]), "label maps of heads") if folders else ()
        write_samples(Anatomies(heads, template_share=0), path)

    return run_writer(write, ".png", "sbim_deploy.training.samples", output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
