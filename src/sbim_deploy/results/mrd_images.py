"""Series out as MRD images in an HDF5 file, laid out as the ismrmrd package and Gadgetron lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import reading, writing
from sbim_deploy.mrd.identity import Identity
from sbim_deploy.mrd.images import (
    BITS_STORED,
    MrdImageFile,
    image_attributes,
    image_header,
    image_pixels,
    image_view,
    scale_to_int16,
    series_scale,
)
from sbim_deploy.mrd.messages import Image
from sbim_deploy.mri.views import View
from sbim_deploy.records import Vector
from sbim_deploy.results.intensity import Intensity
from sbim_deploy.results.series import Derivation, ImageSeries, derivation_steps

HEADER_BYTES = 4096  # what an image takes beyond its pixels, at most


@dataclass(frozen=True)
class Owner:
    """Whose images they are where that is kept: patient and study, and the XML header of their scan."""

    identity: Identity
    header: bytes


@dataclass(frozen=True)
class MrdForm:
    """How the images of all series become MRD images.

    Attributes:
        derivation: how the images came about.
        intensity: the magnitudes of the greatest pixel and of white.
        voxel_mm: (row, column, slice) size of a voxel, used where there is no geometry.
        owner: whose images they are, or None, nobody's: then nothing leads back to the measurement, whose
            number and whose scanner's own fields are 0.
        keep_grid: lay the pixels out as k-space lies, not in the nearest standard view.
        first_stamp: the scan's first acquisition_time_stamp, from which those of nobody's images count.
    """

    derivation: Derivation
    intensity: Intensity
    voxel_mm: Vector | None = None
    owner: Owner | None = None
    keep_grid: bool = False
    first_stamp: int = 0


def write_mrd_images(
    path: Path,
    series: Sequence[ImageSeries],
    form: MrdForm,
    bits: int = BITS_STORED,
    force: bool = False,
) -> None:
    """Write each series as ``dataset/image_<number>``, the file whole or not at all.

    One factor takes all magnitudes to whole numbers up to 2^bits - 1. ``bits`` are those stored, see
    :func:`sbim_deploy.mrd.images.pixel_bits`. With ``force`` a file that is there is replaced.

    Raises:
        InputError: the file cannot be written, or the header cannot hold a size or a number.
    """
    scale = series_scale(form.intensity.full_scale, bits)
    n_images = sum(len(each.volume) for each in series)
    check_free_space(path.parent, sum(each.volume.size for each in series) * 2 + n_images * HEADER_BYTES)
    with writing(path, force) as file:
        images = MrdImageFile(file, None if form.owner is None else form.owner.header)
        for each in series:
            for place, image in enumerate(each.volume):
                view, header, attributes = describe_image(each, place, form, scale)
                pixels = image_pixels(scale_to_int16(view.pixels(image), scale, bits))
                images.append(Image(header, attributes, pixels[None, None]))


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


def describe_image(series: ImageSeries, place: int, form: MrdForm, scale: float) -> tuple[View, np.void, str]:
    """Return the layout, the header (IMAGE_HEADER) and the XML attributes of an image of a series.

    ``scale`` is the factor from magnitudes to pixels.

    Raises:
        InputError: the header cannot hold a size or a number.
    """
    _, rows, columns = series.volume.shape
    acquisition, geometry = series.acquisitions[place], series.geometries[place]
    view, voxel_mm = image_view(geometry, form.keep_grid), form.voxel_mm
    header = image_header(
        view.shape((rows, columns)),
        place + 1,
        series.number,
        acquisition,
        None if geometry is None else view.geometry(geometry, (rows, columns)),
        None if voxel_mm is None else (rows * voxel_mm[0], columns * voxel_mm[1], voxel_mm[2]),
    )
    if acquisition is None:
        if series.slices[place] >= 2**16:
            raise InputError(
                f"slice {series.slices[place]} does not fit an MRD header; take fewer (--slices)"
            )
        header["slice"] = series.slices[place]
    elif form.owner is None:
        header["measurement_uid"], header["user_int"], header["user_float"] = 0, 0, 0
        header["acquisition_time_stamp"] = max(int(header["acquisition_time_stamp"]) - form.first_stamp, 0)
    comment = f"{series.label} residual {series.residuals[place]:.4f} {series.doubts[place]}"
    attributes = image_attributes(
        header,
        view,
        derivation_steps(form.derivation),
        " ".join(comment.split()),
        f"sbim-deploy_{form.derivation.method}",
        scale,
        scale * form.intensity.white,
        None if form.owner is None else form.owner.identity,
    )
    header["attribute_string_len"] = len(attributes.encode())
    return view, header, attributes
