"""fastMRI-like HDF5 files out, slice by slice: simulated scans with their truth and coil maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import write_json_attribute, writing
from sbim_deploy.io.ismrmrd_header import ScanGeometry, Space, format_header
from sbim_deploy.records import BoolArray, ComplexArray


@dataclass(frozen=True)
class KspaceSlice:
    """One slice to write: k-space and maps (coils, rows, columns), true image (rows, columns)."""

    kspace: ComplexArray
    reference: ComplexArray
    maps: ComplexArray

    def __post_init__(self) -> None:
        """Raise ValueError where the three do not fit."""
        if self.kspace.ndim != 3 or self.maps.shape != self.kspace.shape:
            raise ValueError(
                f"kspace is {self.kspace.shape} and maps {self.maps.shape}, expected equal, 3 axes"
            )
        if self.reference.shape != self.kspace.shape[1:]:
            raise ValueError(f"reference is {self.reference.shape}, expected {self.kspace.shape[1:]}")


def write_kspace(
    path: Path,
    slices: Iterable[KspaceSlice],
    mask: BoolArray,
    voxel_mm: tuple[float, float, float],
    provenance: dict[str, Any],
) -> None:
    """Write slices of one size as they come; the file appears whole or not at all.

    Args:
        path: the HDF5 file to write.
        slices: the slices, at least one; only the present one is held in memory.
        mask: sampled positions, (columns,) or (rows, columns).
        voxel_mm: (row, column, slice) size of a voxel.
        provenance: how the slices came about, stored as JSON in the attribute `provenance`.

    Raises:
        InputError: the file cannot be written, or there is no slice.
    """
    with writing(path) as file:
        n_slices = 0
        for each in slices:
            check_free_space(path.parent, each.kspace.nbytes + each.maps.nbytes + each.reference.nbytes)
            stacks = {"kspace": each.kspace, "reference": each.reference, "s_maps": each.maps}
            for name, values in stacks.items():
                _append(file, name, n_slices, values)
            n_slices += 1
        if n_slices == 0:
            raise InputError(f"{path}: no slice to write; choose at least one slice")
        rows, columns = file["reference"].shape[1:]
        if mask.shape not in ((columns,), (rows, columns)):
            raise ValueError(f"mask is {mask.shape}, expected {(columns,)} or {(rows, columns)}")
        file["mask"] = mask
        file.create_dataset(
            "ismrmrd_header", data=_header((rows, columns), voxel_mm), dtype=h5py.string_dtype()
        )
        write_json_attribute(file, "provenance", provenance)


def _append(file: h5py.File, name: str, index: int, values: ComplexArray) -> None:
    if index == 0:
        # One coil image a chunk: a slice is read without its neighbours.
        chunks = (1,) * (values.ndim - 1) + values.shape[-2:]
        file.create_dataset(
            name, (0, *values.shape), np.complex64, maxshape=(None, *values.shape), chunks=chunks
        )
    dataset = file[name]
    if values.shape != dataset.shape[1:]:
        raise ValueError(f"{name} of slice {index} is {values.shape}, expected {dataset.shape[1:]}")
    dataset.resize(index + 1, axis=0)
    dataset[index] = values


def _header(shape: tuple[int, int], voxel_mm: tuple[float, float, float]) -> str:
    size = (*shape, 1)
    space = Space(
        matrix_size=size,
        field_of_view_mm=(size[0] * voxel_mm[0], size[1] * voxel_mm[1], size[2] * voxel_mm[2]),
    )
    return format_header(ScanGeometry(encoded=space, recon=space))
