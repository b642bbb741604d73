"""Measures how far an array is from the one that it should equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Parity:
    """The differences of an array from its reference, absolute unless said otherwise."""

    name: str
    relative_l2: float
    cosine: float
    max_abs: float
    mean_abs: float
    p99_abs: float
    n_nonfinite: int
    worst_index: tuple[int, ...]
    tolerance: float
    passed: bool


def compare(name: str, got: NDArray[Any], expected: NDArray[Any], tolerance: float) -> Parity:
    """Compare arrays of one shape; they pass with a relative L2 difference of at most ``tolerance``.

    Raises:
        ValueError: the shapes differ.
    """
    if got.shape != expected.shape:
        raise ValueError(f"{name}: got shape {got.shape}, expected {expected.shape}")
    n_nonfinite = int(np.count_nonzero(~np.isfinite(got)))
    double = np.complex128 if np.iscomplexobj(got) else np.float64
    a, b = np.nan_to_num(got, posinf=0, neginf=0).astype(double), expected.astype(double)
    difference = np.abs(a - b)
    norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    relative = float(np.linalg.norm(difference)) / norm_b if norm_b else float(difference.any())
    worst = np.unravel_index(int(difference.argmax()), difference.shape)
    return Parity(
        name=name,
        relative_l2=relative,
        cosine=float(np.vdot(a, b).real) / (norm_a * norm_b) if norm_a and norm_b else 0.0,
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        p99_abs=float(np.percentile(difference, 99)),
        n_nonfinite=n_nonfinite,
        worst_index=tuple(int(i) for i in worst),
        tolerance=tolerance,
        passed=n_nonfinite == 0 and relative <= tolerance,
    )
