"""Volumes out as NIfTI, for viewers.

Where the geometry of the slices is known the affine leads into the scanner's coordinates (code 1). fastMRI
files do not say how the patient lies: there the affine only scales by the voxel size, and the axes of the
volume are no anatomical directions (code 0). Left and right cannot be told from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.io.overwriting import check_new, new_file
from sbim_deploy.records import RESEARCH_USE, FloatArray, SliceGeometry, Vector
from sbim_deploy.results.geometry import known_geometries, stack_slices

SUFFIXES = (".nii", ".nii.gz")
DESCRIPTION = f"sbim-deploy: {RESEARCH_USE}"
SCANNER, UNKNOWN = 1, 0  # what the affine leads to, in NIfTI's codes
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from DICOM's and MRD's axes to NIfTI's


def check_nifti(path: Path, force: bool = False) -> Any:
    """Check that a NIfTI file can be written at ``path``, before long work, and return nibabel.

    With ``force`` a file may be there.

    Raises:
        BackendMissingError: nibabel is not installed.
        InputError: the suffix is another, or the file cannot be written.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: the name must end in {' or '.join(SUFFIXES)}; name the output so")
    check_new(path, force)
    return import_nibabel("NIfTI output")


def import_nibabel(purpose: str) -> Any:
    """Return nibabel; ``purpose`` begins the message that says that it is missing.

    Raises:
        BackendMissingError: nibabel is not installed.
    """
    try:
        return importlib.import_module("nibabel")
    except ImportError as error:
        raise BackendMissingError(
            f"{purpose} needs nibabel, which is not installed; run: {install_command('nifti')}"
        ) from error


def write_nifti(
    path: Path,
    volume: FloatArray,
    voxel_mm: Vector | None,
    geometries: Sequence[SliceGeometry | None] = (),
    force: bool = False,
) -> None:
    """Write a volume with its axes in the order (rows, columns, slices).

    Args:
        path: the file to write, ``.nii`` or ``.nii.gz``.
        volume: float32 (slices, rows, columns), or (series, slices, rows, columns) for volumes of one place,
            which become the fourth axis.
        voxel_mm: (row, column, slice) size of a voxel, or None where it is unknown: 1 mm, unit unknown. It
            counts where there is no geometry.
        geometries: where each slice lies; slices that are out of order in space are sorted. Empty, or
            None for each, where that is unknown.
        force: whether a file that is there is replaced.

    Raises:
        BackendMissingError, InputError: see :func:`check_nifti`; or the slices are not one stack.
    """
    nibabel = check_nifti(path, force)
    if volume.ndim not in (3, 4):
        raise ValueError(f"volume has shape {volume.shape}, expected ([series,] slices, rows, columns)")
    known = known_geometries(geometries)
    is_placed = bool(known)
    if is_placed:
        stack = stack_slices(known, volume.shape[-2:])
        volume = np.take(volume, stack.order, axis=-3)
        affine, code = LPS_TO_RAS @ stack.affine, SCANNER
    else:
        affine, code = np.diag([*(voxel_mm or (1.0, 1.0, 1.0)), 1.0]), UNKNOWN
    stored = np.asarray(np.moveaxis(volume, -3, -1), dtype=np.float32)
    if stored.ndim == 4:
        stored = np.moveaxis(stored, 0, -1)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm" if is_placed or voxel_mm else "unknown")
    # Code 0, "unknown": a viewer shall not label the axes with anatomical directions.
    for set_form in (image.set_sform, image.set_qform):
        set_form(affine if is_placed else None, code=code)
    image.header["descrip"] = DESCRIPTION
    if is_placed:
        image.header.set_dim_info(freq=0, phase=1, slice=2)
    with new_file(path, force) as temporary:
        nibabel.save(image, temporary)
