"""Random contrasts: how bright each tissue is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.training.anatomy import Fractions

# Brightness as in images weighted by T1, T2, proton density and T2 with the fluid's signal nulled.
KINDS: tuple[dict[str, float], ...] = (
    {
        "gray": 0.52,
        "white": 0.78,
        "fluid": 0.18,
        "lesion": 0.42,
        "marrow": 0.6,
        "bone": 0.06,
        "muscle": 0.45,
        "fat": 1.0,
    },
    {
        "gray": 0.62,
        "white": 0.42,
        "fluid": 1.0,
        "lesion": 0.85,
        "marrow": 0.4,
        "bone": 0.05,
        "muscle": 0.22,
        "fat": 0.7,
    },
    {
        "gray": 0.9,
        "white": 0.7,
        "fluid": 1.0,
        "lesion": 1.0,
        "marrow": 0.5,
        "bone": 0.08,
        "muscle": 0.5,
        "fat": 0.8,
    },
    {
        "gray": 0.66,
        "white": 0.5,
        "fluid": 0.12,
        "lesion": 1.0,
        "marrow": 0.3,
        "bone": 0.05,
        "muscle": 0.3,
        "fat": 0.6,
    },
)
JITTER = 0.09
FAT_SUPPRESSION_SHARE = 0.25


def random_magnitude(rng: np.random.Generator, fractions: Fractions) -> NDArray[np.float64]:
    """Weigh the tissues (n, n) by a random kind of contrast, to no particular scale."""
    kind = KINDS[rng.integers(len(KINDS))]
    fat = rng.uniform(0.1, 0.3) if rng.random() < FAT_SUPPRESSION_SHARE else 1.0
    magnitude = np.zeros_like(fractions.gray)
    for tissue, brightness in kind.items():
        suppression = fat if tissue in ("fat", "marrow") else 1.0
        jitter = np.exp(JITTER * rng.standard_normal())
        magnitude += suppression * jitter * brightness * getattr(fractions, tissue)
    return magnitude
