"""Series out as MRD images in an HDF5 file, laid out as the ismrmrd package and Gadgetron lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import reading, writing
from sbim_deploy.mrd.images import (
    BITS_STORED,
    MrdImageFile,
    image_attributes,
    image_header,
    image_pixels,
    scale_to_int16,
    series_scale,
)
from sbim_deploy.mrd.messages import IMAGE_HEADER, Image
from sbim_deploy.records import Vector
from sbim_deploy.results.series import Derivation, ImageSeries, brightest, derivation_steps

HEADER_BYTES = 4096  # what an image takes beyond its pixels, at most


def write_mrd_images(
    path: Path,
    series: Sequence[ImageSeries],
    derivation: Derivation,
    voxel_mm: Vector | None = None,
    bits: int = BITS_STORED,
    force: bool = False,
) -> None:
    """Write each series as ``dataset/image_<number>``, the file whole or not at all.

    One factor takes all magnitudes to whole numbers up to 2^bits - 1.

    Args:
        path: the HDF5 file.
        series: the images.
        derivation: how the images came about.
        voxel_mm: (row, column, slice) size of a voxel, used where there is no geometry.
        bits: bits stored, see :func:`sbim_deploy.mrd.images.pixel_bits`.
        force: whether a file that is there is replaced.

    Raises:
        InputError: the file cannot be written, or the header cannot hold a size or a number.
    """
    scale = series_scale(brightest(series), bits)
    n_images = sum(len(each.volume) for each in series)
    check_free_space(path.parent, sum(each.volume.size for each in series) * 2 + n_images * HEADER_BYTES)
    with writing(path, force) as file:
        images = MrdImageFile(file)
        for each in series:
            described = zip(*_describe(each, derivation, voxel_mm, bits), strict=True)
            for image, (header, attributes) in zip(each.volume, described, strict=True):
                pixels = image_pixels(scale_to_int16(image, scale, bits))[None, None]
                images.append(Image(header, attributes, pixels))


def mrd_image_groups(file: h5py.File, path: Path) -> dict[str, str]:
    """Return what the groups of MRD images in an open HDF5 file hold, by name; none where there are none.

    Raises:
        InputError: the file is damaged.
    """
    with reading(path, "the groups of images"):
        found = {}
        for group in [each for each in file.values() if isinstance(each, h5py.Group)]:
            for name, images in group.items():
                data = images.get("data") if isinstance(images, h5py.Group) else None
                if isinstance(data, h5py.Dataset) and data.ndim == 5 and "header" in images:
                    n_images, _, _, rows, columns = data.shape
                    found[name] = f"{n_images} of {rows} x {columns}, {data.dtype}"
        return found


def _describe(
    series: ImageSeries, derivation: Derivation, voxel_mm: Vector | None, bits: int
) -> tuple[NDArray[np.void], list[str]]:
    """Return the headers and the attributes of the images."""
    n_slices, rows, columns = series.volume.shape
    extent = None if voxel_mm is None else (rows * voxel_mm[0], columns * voxel_mm[1], voxel_mm[2])
    history = derivation_steps(derivation)
    description = f"sbim-deploy_{derivation.method}"
    headers = np.zeros(n_slices, IMAGE_HEADER)
    attributes = []
    for place in range(n_slices):
        acquisition = series.acquisitions[place]
        header = image_header(
            (rows, columns), place + 1, series.number, acquisition, series.geometries[place], extent
        )
        if acquisition is None:
            if series.slices[place] >= 2**16:
                raise InputError(
                    f"slice {series.slices[place]} does not fit an MRD header; take fewer (--slices)"
                )
            header["slice"] = series.slices[place]
        comment = f"{series.label} residual {series.residuals[place]:.4f} {series.doubts[place]}"
        comment = " ".join(comment.split())
        text = image_attributes(header, history, comment, description, bits)
        header["attribute_string_len"] = len(text.encode())
        headers[place] = header
        attributes.append(text)
    return headers, attributes
