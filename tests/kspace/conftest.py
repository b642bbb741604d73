from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from hdf5_samples import N_COILS, N_COLUMNS, N_ROWS, N_SLICES, complex_noise


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes an HDF5 file with a good `kspace`, in which datasets are replaced, added or (None) left out."""

    def make(**datasets: Any) -> Path:
        path = tmp_path / "scan.h5"
        contents = {"kspace": complex_noise((N_SLICES, N_COILS, N_ROWS, N_COLUMNS)), **datasets}
        with h5py.File(path, "w") as file:
            for name, values in contents.items():
                if values is not None:
                    file[name] = values
        return path

    return make
