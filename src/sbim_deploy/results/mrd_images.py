"""Series out as MRD images in an HDF5 file, laid out as the ismrmrd package and Gadgetron lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

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
from sbim_deploy.records import Vector
from sbim_deploy.results.intensity import Intensity, series_intensity
from sbim_deploy.results.series import Derivation, ImageSeries, derivation_steps

HEADER_BYTES = 4096  # what an image takes beyond its pixels, at most


@dataclass(frozen=True)
class Owner:
    """Whose images they are where that is kept: patient and study, and the XML header of their scan."""

    identity: Identity
    header: bytes


def write_mrd_images(
    path: Path,
    series: Sequence[ImageSeries],
    derivation: Derivation,
    voxel_mm: Vector | None = None,
    bits: int = BITS_STORED,
    owner: Owner | None = None,
    intensity: Intensity | None = None,
    keep_grid: bool = False,
    first_stamp: int = 0,
) -> None:
    """Write each series as ``dataset/image_<number>``, the file whole or not at all.

    One factor takes all magnitudes to whole numbers up to 2^bits - 1. Without an owner nothing leads back to
    the measurement: its number and the scanner's own fields are 0.

    Args:
        path: the HDF5 file.
        series: the images.
        derivation: how the images came about.
        voxel_mm: (row, column, slice) size of a voxel, used where there is no geometry.
        bits: bits stored, see :func:`sbim_deploy.mrd.images.pixel_bits`.
        owner: whose images they are, or None, nobody's.
        intensity: the magnitudes of the greatest pixel and of white; None is those of the series.
        keep_grid: lay the pixels out as k-space lies, not in the nearest standard view.
        first_stamp: the scan's first acquisition_time_stamp, from which those of nobody's images count.

    Raises:
        InputError: the file cannot be written, or the header cannot hold a size or a number.
    """
    run = _Run(
        derivation, voxel_mm, bits, owner, intensity or series_intensity(series), keep_grid, first_stamp
    )
    n_images = sum(len(each.volume) for each in series)
    check_free_space(path.parent, sum(each.volume.size for each in series) * 2 + n_images * HEADER_BYTES)
    with writing(path) as file:
        images = MrdImageFile(file, None if owner is None else owner.header)
        for each in series:
            for place in range(len(each.volume)):
                images.append(_make_image(each, place, run))


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


@dataclass(frozen=True)
class _Run:
    """What the images of all series share."""

    derivation: Derivation
    voxel_mm: Vector | None
    bits: int
    owner: Owner | None
    intensity: Intensity
    keep_grid: bool
    first_stamp: int


def _make_image(series: ImageSeries, place: int, run: _Run) -> Image:
    _, rows, columns = series.volume.shape
    acquisition, geometry = series.acquisitions[place], series.geometries[place]
    view = image_view(geometry, run.keep_grid)
    voxel_mm = run.voxel_mm
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
    elif run.owner is None:
        header["measurement_uid"], header["user_int"], header["user_float"] = 0, 0, 0
        header["acquisition_time_stamp"] = max(int(header["acquisition_time_stamp"]) - run.first_stamp, 0)
    scale = series_scale(run.intensity.full_scale, run.bits)
    comment = f"{series.label} residual {series.residuals[place]:.4f} {series.doubts[place]}"
    text = image_attributes(
        header,
        view,
        derivation_steps(run.derivation),
        " ".join(comment.split()),
        f"sbim-deploy_{run.derivation.method}",
        scale,
        scale * run.intensity.white,
        None if run.owner is None else run.owner.identity,
    )
    header["attribute_string_len"] = len(text.encode())
    pixels = scale_to_int16(view.pixels(series.volume[place]), scale, run.bits)
    return Image(header, text, image_pixels(pixels)[None, None])
