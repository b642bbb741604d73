"""Writes the held-out slices that ship in the wheel: ``python -m sbim_deploy.training.held_out OUTPUT``.

OUTPUT is an .npz that holds ``magnitude`` (16, 256, 256), uint16, and ``scale`` (16,), float32: a slice is
``magnitude * scale``. Its 99th percentile is 1. The same versions of numpy and scipy write the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.training.brains import held_out_slice
from sbim_deploy.training.tissues import load_tissues

# Chosen by eye to show plenty of brain in every contrast (the first four: T1, T2, FLAIR, proton density):
# ten axial, three sagittal and three coronal.
INDICES = (50, 67, 31, 87, 19, 59, 18, 65, 78, 25, 29, 33, 99, 10, 37, 34)
SIZE = 256
N_QUANTA = 4095


def quantised_slice(index: int) -> tuple[NDArray[np.uint16], np.float32]:
    """Return a held-out slice's magnitude in quanta (256, 256), and the quantum."""
    magnitude = np.abs(held_out_slice(load_tissues(), index, SIZE))
    scale = np.float32(magnitude.max() / N_QUANTA)
    return np.round(magnitude / scale).astype(np.uint16), scale


def write_held_out(path: Path) -> None:
    """Write all of the slices."""
    magnitudes, scales = zip(*map(quantised_slice, INDICES), strict=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, magnitude=np.stack(magnitudes), scale=np.stack(scales))


def run_writer(write: Callable[[Path], None], suffix: str, module: str, arguments: list[str]) -> int:
    """Run a module that writes one file, given its name as the only argument, and return its exit code."""
    try:
        if len(arguments) != 1 or not arguments[0].endswith(suffix):
            raise InputError(
                f"got the arguments {arguments}, expected one {suffix}: python -m {module} OUTPUT{suffix}"
            )
        write(Path(arguments[0]))
    except SbimDeployError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    return run_writer(write_held_out, ".npz", "sbim_deploy.training.held_out", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
