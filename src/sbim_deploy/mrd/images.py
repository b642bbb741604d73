"""Images as MRD has them: pixels, header and attributes, for the stream, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.file import TEXT, create_group
from sbim_deploy.mrd.identity import Identity
from sbim_deploy.mrd.messages import IMAGE_HEADER, Image
from sbim_deploy.mri.views import ON_GRID, View, upright_view
from sbim_deploy.records import RESEARCH_USE, ComplexArray, FloatArray, SliceGeometry, Vector

BITS_STORED = 12  # what scanners take
MAX_BITS = 15  # what a signed pixel holds

_VERSION = 1
_MAGNITUDE = 1
_INT16 = 2
MAX_INDEX = 2**16 - 1

_FROM_READOUT = (
    "measurement_uid",
    "position",
    "read_dir",
    "phase_dir",
    "slice_dir",
    "patient_table_position",
    "acquisition_time_stamp",
    "physiology_time_stamp",
    "user_int",
    "user_float",
)
_FROM_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")


def image_pixels(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Lay out an image (rows, columns) as MRD's (y, x) = (columns, rows), contiguous, x fastest."""
    return np.ascontiguousarray(image.T)


def image_view(geometry: SliceGeometry | None, keep_grid: bool) -> View:
    """Return the layout of an image (rows, columns) whose first axis becomes MRD's x, along a row of pixels.

    It is upright: x runs along the rows of the nearest standard view. With ``keep_grid``, or where the place
    is unknown, x is the readout.
    """
    upright = ON_GRID if keep_grid else upright_view(geometry)
    return upright.exchanged if upright.name else ON_GRID


def pixel_bits(bits_stored: int | None) -> int:
    """Return the bits of the pixels for what a scan's header asks for: 12 without, at most 15."""
    return BITS_STORED if bits_stored is None else min(bits_stored, MAX_BITS)


def series_scale(maximum: float, bits: int = BITS_STORED) -> float:
    """Return the factor that takes ``maximum`` to the greatest pixel of ``bits`` bits; 1 for an empty image.

    It is one for all images of a series, so that their brightness can be compared.
    """
    return (2**bits - 1) / maximum if maximum > 0 else 1.0


def scale_to_int16(
    image: ComplexArray | FloatArray, scale: float, bits: int = BITS_STORED
) -> NDArray[np.int16]:
    """Return the magnitude times ``scale``, rounded, as int16 from 0 to 2^bits - 1, clipped there."""
    pixels: NDArray[np.int16] = np.rint(np.clip(np.abs(image) * scale, 0, 2**bits - 1)).astype(np.int16)
    return pixels


def image_header(
    shape: tuple[int, int],
    image_index: int,
    series_index: int,
    acquisition: np.void | None = None,
    geometry: SliceGeometry | None = None,
    field_of_view_mm: Vector | None = None,
) -> np.void:
    """Build the header of a magnitude image of int16 pixels, a record of IMAGE_HEADER.

    Args:
        shape: (rows, columns) of the image.
        image_index: unique within the series, from 1; DICOM's InstanceNumber.
        series_index: DICOM's SeriesNumber.
        acquisition: the header (ACQUISITION_HEADER) of the slice's readout nearest the centre of k-space:
            place, time stamps, counters and the measurement's number come from it; None leaves them 0.
        geometry: where the image lies; it comes before what ``acquisition`` says.
        field_of_view_mm: (row, column, slice) extent where there is no ``geometry``; None leaves it 0.

    Raises:
        InputError: a size or a number that a header cannot hold.
    """
    for name, value in (("size", max(shape)), ("number", image_index), ("series number", series_index)):
        if not 0 <= value <= MAX_INDEX:
            raise InputError(f"MRD image: {name} is {value}, expected 0 to {MAX_INDEX}; split the series")
    header: np.void = np.zeros((), IMAGE_HEADER)[()]  # type: ignore[assignment]
    if acquisition is not None:
        for name in _FROM_READOUT:
            header[name] = acquisition[name]
        for name in _FROM_COUNTERS:
            header[name] = acquisition["idx"][name]
    if geometry is not None:
        for name in ("position", "read_dir", "phase_dir", "slice_dir"):
            header[name] = getattr(geometry, name)
        field_of_view_mm = geometry.field_of_view_mm
    header["version"], header["data_type"], header["image_type"] = _VERSION, _INT16, _MAGNITUDE
    header["channels"], header["matrix_size"] = 1, (*shape, 1)
    header["field_of_view"] = field_of_view_mm or (0.0, 0.0, 0.0)
    header["image_index"], header["image_series_index"] = image_index, series_index
    return header


def image_attributes(
    header: np.void,
    view: View,
    history: Sequence[str],
    comment: str,
    description: str,
    scale: float,
    white: float,
    identity: Identity | None = None,
) -> str:
    """Write the XML attributes of a magnitude image.

    Args:
        header: the image's; its directions are said again in the attributes.
        view: how its pixels are laid out, see :func:`image_view`.
        history: what was done to the image, in order (ImageProcessingHistory).
        comment: a line for the reader (ImageComments); "research use only" is put at its end.
        description: what the scanner appends to the name of the series (SequenceDescriptionAdditional).
        scale: the factor from magnitudes to pixels.
        white: the pixel that the window shows as white.
        identity: the patient and the study to name; None names none.
    """
    window = max(round(white), 1)
    laid_out = [f"{view.name} view"] if view.name else []
    attributes: dict[str, Sequence[str]] = {
        "DataRole": ["Image"],
        "ImageProcessingHistory": [*history, *laid_out, RESEARCH_USE],
        "ImageComments": [f"{comment}; {RESEARCH_USE}"],
        "SequenceDescriptionAdditional": [description],
        "Keep_image_geometry": ["1"],
        "ImageRowDir": _cosines(header["read_dir"]),
        "ImageColumnDir": _cosines(header["phase_dir"]),
        "InPlanePhaseEncodingDirection": ["ROW" if view.transposed else "COL"],
        "WindowCenter": [str(window // 2)],
        "WindowWidth": [str(window)],
        # A pixel times the slope is the magnitude, in the units of k-space.
        "RealWorldValueSlope": [f"{1 / scale:.9g}"],
        "RealWorldValueIntercept": ["0"],
    }
    if identity is not None:
        attributes |= {name: [value] for name, value in identity.attributes().items()}
    root = ElementTree.Element("ismrmrdMeta")
    for name, values in attributes.items():
        entry = ElementTree.SubElement(root, "meta")
        ElementTree.SubElement(entry, "name").text = name
        for value in values:
            ElementTree.SubElement(entry, "value").text = value
    return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")


def _cosines(direction: NDArray[np.float32]) -> list[str]:
    return [f"{float(cosine):.18f}" for cosine in direction]


class MrdImageFile:
    """Images in an open HDF5 file, in the layout of the ismrmrd libraries.

    Each series is a group ``image_<number>`` beside the measurement's ``xml``, if any, with ``header``,
    ``attributes`` and ``data`` (image, channel, z, y, x). Images of a series that differ in shape or type go
    into ``image_<number>_2`` and so on.
    """

    def __init__(self, file: h5py.File, xml: bytes | None = None) -> None:
        self._group = create_group(file, xml)
        self._series: dict[tuple[int, np.dtype[Any], tuple[int, ...]], h5py.Group] = {}

    def append(self, image: Image) -> None:
        """Write one image; OSError where the disk does not take it."""
        pixels = _storable(image.data)
        key = (int(image.header["image_series_index"]), pixels.dtype, pixels.shape)
        if key not in self._series:
            self._series[key] = self._add_series(*key)
        group = self._series[key]
        index = group["header"].shape[0]
        attributes = image.attributes.encode(errors="surrogatepass")
        for name, value in (("header", image.header), ("attributes", attributes), ("data", pixels)):
            group[name].resize(index + 1, axis=0)
            group[name][index] = value

    def _add_series(self, number: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> h5py.Group:
        n_alike = sum(key[0] == number for key in self._series)
        group = self._group.create_group(f"image_{number}" + (f"_{n_alike + 1}" if n_alike else ""))
        group.create_dataset("header", (0,), IMAGE_HEADER, maxshape=(None,), chunks=(64,))
        group.create_dataset("attributes", (0,), TEXT, maxshape=(None,), chunks=(64,))
        group.create_dataset("data", (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
        return group


def _storable(pixels: NDArray[Any]) -> NDArray[Any]:
    # The ismrmrd libraries name the parts of a complex number otherwise than h5py does.
    if pixels.dtype.kind != "c":
        return pixels
    part = f"<f{pixels.dtype.itemsize // 2}"
    return pixels.view([("real", part), ("imag", part)])
