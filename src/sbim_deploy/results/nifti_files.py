"""NIfTI images in: the slices of a volume, or of several volumes, from any maker."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import MAX_REASON_LENGTH, MAX_SLICE_BYTES
from sbim_deploy.results import nifti
from sbim_deploy.results.geometry import Matrix
from sbim_deploy.results.image_stack import ImageStack


def open_nifti(path: Path) -> ImageStack:
    """Open a volume, or volumes one after another: rows along its first axis, columns along the second.

    Raises:
        BackendMissingError: nibabel is not installed.
        InputError: the file is damaged, holds no numbers, or is too large to read.
    """
    nibabel = nifti.import_nibabel(f"{path}: reading it")
    try:
        image = nibabel.load(path)
        shape, dtype = tuple(map(int, image.shape)), np.dtype(image.get_data_dtype())
        affine, voxel = _nifti_affine(image), [float(size) for size in image.header.get_zooms()[:3]]
    except Exception as error:  # whatever nibabel raises for a damaged file
        raise _bad_nifti(path, error) from error
    if not 2 <= len(shape) <= 4 or 0 in shape or dtype.kind not in "biufc":
        raise InputError(f"{path}: has shape {shape} of {dtype}, expected volumes of numbers")
    rows, columns, n_slices, n_volumes = (*shape, 1, 1)[:4]
    at_once = math.prod(shape) if path.name.endswith(".gz") else rows * columns
    if at_once * 8 > MAX_SLICE_BYTES:
        raise InputError(f"{path}: has shape {shape}, too large to read; write .nii, which is read by slice")
    load = _nifti_reader(path, image)

    def read(position: int) -> NDArray[Any]:
        place = (position % n_slices, position // n_slices)[: len(shape) - 2]
        return load((slice(None), slice(None), *place))

    affines = (
        []
        if affine is None
        else [affine @ _step(position % n_slices) for position in range(n_slices * n_volumes)]
    )
    details = {"volumes": n_volumes, "voxel_mm": voxel, "dtype": str(dtype)}
    return ImageStack(
        path,
        "NIfTI",
        n_slices * n_volumes,
        (rows, columns),
        read,
        is_complex=dtype.kind == "c",
        affines=affines,
        details=details,
    )


def _nifti_reader(path: Path, image: Any) -> Callable[[tuple[Any, ...]], NDArray[Any]]:
    whole: list[NDArray[Any]] = []

    def load(key: tuple[Any, ...]) -> NDArray[Any]:
        try:
            if not path.name.endswith(".gz"):
                return np.asarray(image.dataobj[key])
            if not whole:  # each part would be inflated from the beginning
                whole.append(np.asarray(image.dataobj))
            part: NDArray[Any] = whole[0][key]
            return part
        except Exception as error:  # whatever nibabel raises for a damaged file
            raise _bad_nifti(path, error) from error

    return load


def _bad_nifti(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:MAX_REASON_LENGTH] or type(error).__name__
    return InputError(f"{path}: cannot be read as NIfTI, it is cut short or damaged ({reason})")


def _nifti_affine(image: Any) -> Matrix | None:
    """Return the affine to left, posterior and superior; None where both codes say that it is unknown."""
    header = image.header
    if not any(int(header.get(name, 1)) for name in ("sform_code", "qform_code")):
        return None
    affine = nifti.LPS_TO_RAS @ np.asarray(image.affine, np.float64)
    return affine if np.isfinite(affine).all() and np.linalg.det(affine) != 0 else None


def _step(n_slices: int) -> Matrix:
    step = np.eye(4)
    step[2, 3] = n_slices
    return step
