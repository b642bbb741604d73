from __future__ import annotations

from typing import Any

import numpy as np

N_SLICES, N_COILS, N_ROWS, N_COLUMNS = 3, 2, 8, 6


def complex_noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, np.dtype[np.complex64]]:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)).astype(np.complex64)
