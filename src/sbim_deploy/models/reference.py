"""PyTorch's own outputs, kept in the model folder so that any machine can check its backend without it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import open_arrays
from sbim_deploy.io.atomic import replacing
from sbim_deploy.records import ComplexArray, FloatArray

REFERENCE_NAME = "reference.npz"
NAMES = ("x", "sigma", "score", "image")
MAX_REFERENCE_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class ParityReference:
    """Inputs x (n, channels, rows, columns) and sigma (n,), and the score that PyTorch gave for them.

    ``image`` is a whole reconstruction with PyTorch's scores in FP32, complex64 (rows, columns); an empty
    array for networks that reconstruct no complex images.
    """

    x: FloatArray
    sigma: FloatArray
    score: FloatArray
    image: ComplexArray

    def __post_init__(self) -> None:
        """Raise InputError where the three do not fit."""
        arrays = (self.x, self.sigma, self.score)
        fits = self.x.ndim == 4 and self.score.shape == self.x.shape and self.sigma.shape == self.x.shape[:1]
        fits = fits and self.image.ndim == 2 and self.image.dtype == np.complex64
        if not fits or any(array.dtype != np.float32 for array in arrays):
            raise InputError(
                f"x, sigma, score and image are "
                f"{[(str(array.dtype), array.shape) for array in (*arrays, self.image)]}, expected float32 "
                "(n, channels, rows, columns), (n,), as x, and complex64 (rows, columns)"
            )


def write_reference(folder: Path, reference: ParityReference) -> None:
    """Write the reference into a model folder."""
    with replacing(folder / REFERENCE_NAME) as temporary:
        np.savez_compressed(temporary, **{name: getattr(reference, name) for name in NAMES})


def read_reference(folder: Path) -> ParityReference:
    """Read the reference of a model folder.

    Raises:
        InputError: it is missing, too large or damaged.
    """
    path = folder / REFERENCE_NAME
    try:
        with open_arrays(path) as file:
            found = [file.arrays[name] for name in NAMES]
            size = sum(math.prod(each.shape) * each.dtype.itemsize for each in found)
            if size > MAX_REFERENCE_BYTES:
                raise InputError(f"{path}: {size} bytes unpacked, expected at most {MAX_REFERENCE_BYTES}")
            return ParityReference(*(each.read(()) for each in found))
    except KeyError as error:
        raise InputError(f"{path}: has no {error}: export the model again") from error
    except InputError as error:
        raise InputError(f"{error}; export the model again") from error
