"""DICOM images in: a file, or a folder with the files of one or more series, from any maker.

Pixels are those after the rescale (PS3.3 C.11.1), or where there is none after the first linear mapping to
real world values (C.7.6.16.2.11). Enhanced images with several frames are slices too.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.io.hdf5 import MAX_REASON_LENGTH, MAX_SLICE_BYTES
from sbim_deploy.results.geometry import Matrix
from sbim_deploy.results.image_stack import ImageStack

MAX_FILES = 100_000
MAX_SHOWN = 320  # characters of a text
_LOOKED_AT = 32  # files of a folder, to tell whether it is one of DICOM
_PREAMBLE, _MAGIC = 128, b"DICM"
_DETAILS = {
    "series_description": "SeriesDescription",
    "manufacturer": "Manufacturer",
    "derivation": "DerivationDescription",
    "comments": "ImageComments",
}


@dataclass(frozen=True, eq=False)
class _Frame:
    """One image: where it is, and the (series, place) by which it is sorted."""

    order: tuple[int, str, int, int]
    path: Path
    frame: int | None
    shape: tuple[int, int]
    affine: Matrix | None
    series: str


def holds_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM by its first bytes, or whether a folder has such a file near its top."""
    if path.is_dir():
        return any(_is_dicom(each) for each in islice(_files_below(path), _LOOKED_AT))
    return _is_dicom(path)


def open_dicom(path: Path) -> ImageStack:
    """Open the images of a DICOM file or folder, sorted by series and instance.

    Raises:
        BackendMissingError: pydicom is not installed.
        InputError: there is no image, an image is damaged or has colours, or they are of several sizes.
    """
    try:
        pydicom = importlib.import_module("pydicom")
    except ImportError as error:
        raise BackendMissingError(
            f"{path}: reading DICOM needs pydicom, which is not installed; run: {install_command('dicom')}"
        ) from error
    found = [path] if path.is_file() else [each for each in _files_below(path) if _is_dicom(each)]
    if len(found) > MAX_FILES:
        raise InputError(f"{path}: has {len(found)} DICOM files, expected at most {MAX_FILES}")
    frames: list[_Frame] = []
    headers: list[Any] = []
    for each in found:
        with _reading(each):
            dataset = pydicom.dcmread(each, stop_before_pixels=True)
            images = list(_frames(dataset, each))
        frames += images
        headers += [dataset] if images else []
    if not frames:
        raise InputError(f"{path}: holds no DICOM image")
    frames.sort(key=lambda frame: frame.order)
    _check_one_size(path, frames)
    details: dict[str, Any] = {"series": len({frame.order[:2] for frame in frames})}
    with _reading(found[0]):
        details |= {name: _text(headers[0], keyword) for name, keyword in _DETAILS.items()}

    def read(position: int) -> NDArray[Any]:
        return _read_pixels(pydicom, frames[position])

    kind = "DICOM file" if path.is_file() else "DICOM folder"
    affines = [frame.affine for frame in frames]
    return ImageStack(path, kind, len(frames), frames[0].shape, read, affines=affines, details=details)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def _frames(dataset: Any, path: Path) -> Iterator[_Frame]:
    """Yield the images that a header describes: none for what has no pixels, such as a DICOMDIR."""
    if "Rows" not in dataset or "Columns" not in dataset:
        return
    shape, n_frames = (int(dataset.Rows), int(dataset.Columns)), int(dataset.get("NumberOfFrames") or 1)
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise InputError(f"{path}: has {dataset.SamplesPerPixel} samples a pixel, expected grey values")
    if min(shape) < 1 or n_frames < 1 or shape[0] * shape[1] * n_frames * 8 > MAX_SLICE_BYTES:
        raise InputError(f"{path}: {n_frames} frames of {shape}, expected at most {MAX_SLICE_BYTES} bytes")
    series = (int(dataset.get("SeriesNumber") or 0), str(dataset.get("SeriesInstanceUID", "")))
    instance = int(dataset.get("InstanceNumber") or 0)
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or [None] * n_frames
    for frame in range(n_frames):
        own = groups[frame] if frame < len(groups) else None
        affine = _affine([dataset, *(each for each in (own, shared) if each is not None)])
        yield _Frame(
            (*series, instance, frame),
            path,
            frame if n_frames > 1 else None,
            shape,
            affine,
            _text(dataset, "SeriesDescription") or "",
        )


def _affine(parts: list[Any]) -> Matrix | None:
    """Return the affine of a frame from its header, its own functional groups and the shared ones."""
    position = _vector(parts, "ImagePositionPatient", "PlanePositionSequence", 3)
    directions = _vector(parts, "ImageOrientationPatient", "PlaneOrientationSequence", 6)
    spacing = _vector(parts, "PixelSpacing", "PixelMeasuresSequence", 2)
    if position is None or directions is None or spacing is None:
        return None
    thickness = _vector(parts, "SliceThickness", "PixelMeasuresSequence", 1)
    along_row, down_column = directions[:3], directions[3:]
    affine = np.eye(4)
    # A step to the next row goes down the column, which is the second direction.
    affine[:3, 0], affine[:3, 1] = down_column * spacing[0], along_row * spacing[1]
    affine[:3, 2] = np.cross(along_row, down_column) * (1.0 if thickness is None else thickness[0] or 1.0)
    affine[:3, 3] = position
    usable = np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0
    return affine if usable else None


def _vector(parts: list[Any], name: str, sequence: str, length: int) -> NDArray[np.float64] | None:
    for part in parts:
        for holder in (part, _first(part, sequence)):
            value = None if holder is None else holder.get(name)
            if value is not None:
                vector = np.atleast_1d(np.asarray(value, np.float64))
                return vector if vector.shape == (length,) else None
    return None


def _first(dataset: Any, name: str) -> Any:
    items = dataset.get(name)
    return items[0] if items else None


def _read_pixels(pydicom: Any, frame: _Frame) -> NDArray[Any]:
    with _reading(frame.path):
        dataset = pydicom.dcmread(frame.path)
        pixels = np.asarray(dataset.pixel_array)
        image = pixels if frame.frame is None else pixels[frame.frame]
        if image.shape != frame.shape:
            raise ValueError(f"its pixels are {image.shape}")
        holder = dataset
        for part in (_first(dataset, "SharedFunctionalGroupsSequence"), _group(dataset, frame.frame)):
            transform = None if part is None else _first(part, "PixelValueTransformationSequence")
            holder = holder if transform is None else transform
        slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
        mapping = _first(dataset, "RealWorldValueMappingSequence")
        if slope is None and mapping is not None:
            slope, intercept = mapping.get("RealWorldValueSlope"), mapping.get("RealWorldValueIntercept")
        return image.astype(np.float64) * float(1 if slope is None else slope) + float(intercept or 0)


def _group(dataset: Any, frame: int | None) -> Any:
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    return groups[frame or 0] if groups and (frame or 0) < len(groups) else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever pydicom raises for a damaged file into an InputError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it mends in a header that is not to the standard
            yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as a DICOM image, it is damaged or of a kind that pydicom does not read "
            f"here ({reason})"
        ) from error


def _check_one_size(path: Path, frames: list[_Frame]) -> None:
    sizes = {frame.shape: frame.series for frame in frames}
    if len(sizes) > 1:
        (one, first), (other, second), *_ = sizes.items()
        raise InputError(
            f"{path}: holds images of {one} ({first!r}) and of {other} ({second!r}), expected one size: name "
            "a folder with one series"
        )


def _text(dataset: Any, name: str) -> str | None:
    value = dataset.get(name)
    return None if value in (None, "") else " ".join(str(value).split())[:MAX_SHOWN]
