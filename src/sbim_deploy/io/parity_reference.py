"""PyTorch's own outputs, kept in the model folder so that any machine can check its backend without it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.records import FloatArray

REFERENCE_NAME = "reference.npz"
MAX_REFERENCE_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class ParityReference:
    """Inputs x (n, channels, rows, columns) and sigma (n,), and the score that PyTorch gave for them."""

    x: FloatArray
    sigma: FloatArray
    score: FloatArray

    def __post_init__(self) -> None:
        """Raise InputError where the three do not fit."""
        arrays = (self.x, self.sigma, self.score)
        fits = self.x.ndim == 4 and self.score.shape == self.x.shape and self.sigma.shape == self.x.shape[:1]
        if not fits or any(array.dtype != np.float32 for array in arrays):
            raise InputError(
                f"x, sigma and score are {[(str(array.dtype), array.shape) for array in arrays]}, expected "
                "float32 (n, channels, rows, columns), (n,) and as x"
            )


def write_reference(folder: Path, reference: ParityReference) -> None:
    """Write the reference into a model folder."""
    with replacing(folder / REFERENCE_NAME) as temporary:
        np.savez_compressed(temporary, x=reference.x, sigma=reference.sigma, score=reference.score)


def read_reference(folder: Path) -> ParityReference:
    """Read the reference of a model folder.

    Raises:
        InputError: it is missing, too large or damaged.
    """
    path = folder / REFERENCE_NAME
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_REFERENCE_BYTES:
            raise InputError(f"{path}: {size} bytes unpacked, expected at most {MAX_REFERENCE_BYTES}")
        with np.load(path, allow_pickle=False) as stored:
            return ParityReference(*(stored[name] for name in ("x", "sigma", "score")))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({reason}): export the model again") from error
