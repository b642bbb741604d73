"""Images into an MRD HDF5 file, as they come."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sbim_deploy.io.mrd_headers import IMAGE_HEADER
from sbim_deploy.io.mrd_messages import Image

GROUP = "dataset"


class MrdImageFile:
    """Images in an open HDF5 file, in the layout of the ismrmrd libraries.

    Each series is a group ``image_<number>`` beside the measurement's ``xml``, if any, with ``header``,
    ``attributes`` and ``data`` (image, channel, z, y, x). Images of a series that differ in shape or type go
    into ``image_<number>_2`` and so on.
    """

    def __init__(self, file: h5py.File, xml: bytes | None = None) -> None:
        self._group = file.create_group(GROUP)
        if xml is not None:
            self._group.create_dataset("xml", data=np.array([xml], object), dtype=h5py.string_dtype())
        self._series: dict[tuple[int, np.dtype[Any], tuple[int, ...]], h5py.Group] = {}

    def append(self, image: Image) -> None:
        """Write one image; OSError where the disk does not take it."""
        pixels = _storable(image.data)
        key = (int(image.header["image_series_index"]), pixels.dtype, pixels.shape)
        if key not in self._series:
            self._series[key] = self._add_series(*key)
        group = self._series[key]
        index = group["header"].shape[0]
        for name, value in (("header", image.header), ("attributes", image.attributes), ("data", pixels)):
            group[name].resize(index + 1, axis=0)
            group[name][index] = value

    def _add_series(self, number: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> h5py.Group:
        n_alike = sum(key[0] == number for key in self._series)
        group = self._group.create_group(f"image_{number}" + (f"_{n_alike + 1}" if n_alike else ""))
        group.create_dataset("header", (0,), IMAGE_HEADER, maxshape=(None,), chunks=(64,))
        group.create_dataset("attributes", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(64,))
        group.create_dataset("data", (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
        return group


def _storable(pixels: NDArray[Any]) -> NDArray[Any]:
    # The ismrmrd libraries name the parts of a complex number otherwise than h5py does.
    if pixels.dtype.kind != "c":
        return pixels
    part = f"<f{pixels.dtype.itemsize // 2}"
    return pixels.view([("real", part), ("imag", part)])
