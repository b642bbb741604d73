"""Volumes out as NIfTI, for viewers.

fastMRI files do not say how the patient lies in the scanner: the affine only scales by the voxel size,
and the axes of the volume are no anatomical directions. Left and right cannot be told from it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.io.atomic import check_writable, replacing
from sbim_deploy.records import FloatArray

SUFFIXES = (".nii", ".nii.gz")
DESCRIPTION = "sbim-deploy: research use only"


def check_nifti(path: Path) -> Any:
    """Check that a NIfTI file can be written at ``path``, before long work, and return nibabel.

    Raises:
        BackendMissingError: nibabel is not installed.
        InputError: the suffix is another, or the file cannot be written.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: the name must end in {' or '.join(SUFFIXES)}; name the output so")
    check_writable(path)
    try:
        return importlib.import_module("nibabel")
    except ImportError as error:
        raise BackendMissingError(
            'NIfTI output needs nibabel, which is not installed; run: pip install "sbim-deploy[nifti]"'
        ) from error


def write_nifti(path: Path, volume: FloatArray, voxel_mm: tuple[float, float, float] | None) -> None:
    """Write a volume with its axes in the order (rows, columns, slices).

    Args:
        path: the file to write, `.nii` or `.nii.gz`.
        volume: float32 (slices, rows, columns).
        voxel_mm: (row, column, slice) size of a voxel, or None where it is unknown: 1 mm, unit unknown.

    Raises:
        BackendMissingError, InputError: see :func:`check_nifti`.
    """
    nibabel = check_nifti(path)
    if volume.ndim != 3:
        raise ValueError(f"volume has shape {volume.shape}, expected (slices, rows, columns)")
    sizes = voxel_mm or (1.0, 1.0, 1.0)
    stored = np.ascontiguousarray(np.moveaxis(volume, 0, -1), dtype=np.float32)
    image = nibabel.Nifti1Image(stored, np.diag([*sizes, 1.0]))
    image.header.set_xyzt_units("mm" if voxel_mm else "unknown")
    # Code 0, "unknown": a viewer shall not label the axes with anatomical directions.
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.header["descrip"] = DESCRIPTION
    with replacing(path) as temporary:
        nibabel.save(image, temporary)
