"""The same arrays in every format that holds arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

MATLAB_73_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64"
COMPOUND = np.dtype([("real", "<f4"), ("imag", "<f4")])


def compound(values: Any) -> Any:
    """Return complex values as the table of real and imaginary parts that MATLAB stores in HDF5."""
    table = np.empty(values.shape, COMPOUND)
    table["real"], table["imag"] = values.real, values.imag
    return table


def write_npy(folder: Path, **arrays: Any) -> Path:
    path = folder / "scan.npy"
    np.save(path, arrays["kspace"])
    return path


def write_npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "scan.npz"
    np.savez_compressed(path, **arrays)
    return path


def write_matlab_6(folder: Path, **arrays: Any) -> Path:
    path = folder / "scan6.mat"
    scipy.io.savemat(path, arrays)
    return path


def write_matlab_7(folder: Path, **arrays: Any) -> Path:
    path = folder / "scan7.mat"
    scipy.io.savemat(path, arrays, do_compression=True)
    return path


def write_matlab_73(folder: Path, **arrays: Any) -> Path:
    """Write as MATLAB does: a user block, axes turned round, and tables in place of complex numbers."""
    path = folder / "scan73.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            turned = np.asarray(values).T
            file[name] = compound(turned) if np.iscomplexobj(turned) else turned
            file[name].attrs["MATLAB_class"] = np.bytes_(b"single")
    with path.open("r+b") as stream:
        stream.write(MATLAB_73_HEADER.ljust(124) + b"\x00\x02IM")
    return path


def write_hdf5(folder: Path, **arrays: Any) -> Path:
    path = folder / "scan.h5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file["ksp" if name == "kspace" else name] = values
    return path


MATLAB: list[Callable[..., Path]] = [write_matlab_6, write_matlab_7, write_matlab_73]
WITH_NAMES: list[Callable[..., Path]] = [write_npz, *MATLAB, write_hdf5]
WRITERS: list[Callable[..., Path]] = [write_npy, *WITH_NAMES]
