"""Slices of a magnitude volume that somebody has as NIfTI, to simulate scans of."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.ndimage

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import MAX_REASON_LENGTH, MAX_SLICE_BYTES
from sbim_deploy.records import FloatArray
from sbim_deploy.results.nifti import import_nibabel
from sbim_deploy.words import plural

# The axis of a volume (right, anterior, superior) along which the slices of a plane are counted.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
MARGIN = 1.08  # the field of view for each millimetre of the volume's longer side
BLUR = 0.4  # standard deviation of the low-pass before the grid is made coarser, in pixels that are lost


def volume_slice(path: Path, plane: str, index: int, size: int) -> FloatArray:
    """Return a slice of a NIfTI volume as a magnitude (size, size) with square pixels, 0 outside the volume.

    ``index`` counts from left, posterior or inferior. The head is up in sagittal and coronal slices, and the
    nose in axial ones; anterior is right in sagittal slices. What is negative becomes 0.

    Raises:
        BackendMissingError: nibabel is not installed.
        InputError: the file is no volume of finite numbers, or has no such slice, or nothing is in it.
    """
    axis = PLANES[plane]
    volume, spacing = read_volume(path)
    n_slices = volume.shape[axis]
    if index >= n_slices:
        raise InputError(f"{path}: has {plural(n_slices, f'{plane} slice')}, slice {index} is asked for")
    image = np.maximum(np.take(volume, index, axis).T[::-1], 0)
    if not image.any():
        raise InputError(f"{path}: nothing is in {plane} slice {index}: choose another")
    return _on_grid(image, np.delete(spacing, axis)[::-1], size)


@lru_cache(maxsize=1)  # an experiment takes one slice after another of the same file
def read_volume(path: Path) -> tuple[FloatArray, FloatArray]:
    """Return a volume (right, anterior, superior) and the millimetres of its voxels."""
    nibabel = import_nibabel(f"{path}: reading it")
    try:
        stored = nibabel.load(path)
        if math.prod(map(int, stored.shape)) * np.dtype(np.float32).itemsize > MAX_SLICE_BYTES:
            raise InputError(
                f"{path}: has shape {stored.shape}, expected at most {MAX_SLICE_BYTES} bytes of float32"
            )
        image = nibabel.as_closest_canonical(stored)
        volume = np.asarray(image.dataobj)
        spacing = np.abs(np.asarray(image.header.get_zooms()[:3], np.float64))
    except InputError:
        raise
    except Exception as error:  # whatever nibabel raises for a damaged file
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH] or type(error).__name__
        raise InputError(f"{path}: cannot be read as NIfTI ({reason})") from error
    if volume.ndim < 3 or volume.shape[3:] != (1,) * (volume.ndim - 3) or volume.dtype.kind not in "uif":
        raise InputError(
            f"{path}: has shape {volume.shape} of {volume.dtype}, expected one volume of real numbers"
        )
    if not np.isfinite(volume).all() or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path}: holds values or voxel sizes that are no finite numbers")
    return volume.reshape(volume.shape[:3]).astype(np.float32, copy=False), spacing


def _on_grid(image: FloatArray, spacing: FloatArray, size: int) -> FloatArray:
    """Return an image (rows, columns) of voxels in millimetres on a square grid around its middle."""
    pixel = MARGIN * float(np.max(image.shape * spacing)) / size
    scale = pixel / spacing
    smooth = scipy.ndimage.gaussian_filter(image, BLUR * np.maximum(scale - 1, 0))
    offset = (np.array(image.shape) - 1) / 2 - scale * (size - 1) / 2
    resampled: FloatArray = scipy.ndimage.affine_transform(smooth, scale, offset, (size, size), order=1)
    return resampled
