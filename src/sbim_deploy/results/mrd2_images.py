"""Series out as MRD images in a stream of version 2, written by the mrd package, an extra.

The images are those of :mod:`sbim_deploy.results.mrd_images`, header and attributes alike, but for pixels
of float32, magnitudes: what version 2's own tools take.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from sbim_deploy.errors import BackendMissingError, install_command
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.overwriting import check_new, new_file
from sbim_deploy.mrd.header import Encoding, MrdHeader, Space
from sbim_deploy.mrd.images import image_pixels
from sbim_deploy.results.mrd_images import HEADER_BYTES, MrdForm, describe_image
from sbim_deploy.results.series import ImageSeries

SUFFIXES = (".mrd2", ".bin")  # version 2's tools call their streams .bin

_DIRECTIONS = {"col_dir": "read_dir", "line_dir": "phase_dir", "slice_dir": "slice_dir"}
_ARRAYS = {name: name for name in ("field_of_view", "position", "patient_table_position")}
_NUMBERS = (
    *("measurement_uid", "acquisition_time_stamp", "image_index", "image_series_index"),
    *("average", "slice", "contrast", "phase", "repetition", "set"),
)
_LISTS = ("physiology_time_stamp", "user_int", "user_float")


def check_mrd2(path: Path, force: bool = False) -> Any:
    """Check that a stream of images can be written at ``path``, before long work, and return the mrd package.

    With ``force`` an older file may be there.

    Raises:
        BackendMissingError: the package is not installed.
        InputError: the file cannot be written.
    """
    check_new(path, force)
    try:
        importlib.import_module("mrd.binary")  # any folder of that name passes for mrd itself
        return importlib.import_module("mrd")
    except ImportError as error:
        raise BackendMissingError(
            f"MRD version 2 output needs mrd-python, which is not installed; run: {install_command('mrd2')}"
        ) from error


def write_mrd2_images(
    path: Path,
    series: Sequence[ImageSeries],
    form: MrdForm,
    header: MrdHeader | None = None,
    force: bool = False,
) -> None:
    """Write all images of all series into a stream, the file whole or not at all.

    Args:
        path: the file.
        series: the images.
        form: how they become MRD images; they are nobody's.
        header: what the scan's header says; the stream's own holds its encodings, system and sequence, and
            nothing of the patient and the study.
        force: whether a file that is there is replaced.

    Raises:
        BackendMissingError, InputError: see :func:`check_mrd2`; or a header cannot hold a size or a number.
    """
    mrd = check_mrd2(path, force)
    n_images = sum(len(each.volume) for each in series)
    check_free_space(path.parent, sum(each.volume.size for each in series) * 4 + n_images * HEADER_BYTES)
    with (
        new_file(path, force) as temporary,
        temporary.open("wb") as file,
        mrd.BinaryMrdWriter(file) as writer,
    ):
        writer.write_header(None if header is None else _stream_header(mrd, header))
        writer.write_data(_images(mrd, series, form))


def _images(mrd: Any, series: Sequence[ImageSeries], form: MrdForm) -> Iterator[Any]:
    for each in series:
        for place, image in enumerate(each.volume):
            view, header, attributes = describe_image(each, place, form, 1.0)
            pixels = image_pixels(view.pixels(image.astype(np.float32, copy=False)))[None, None]
            meta = _meta(mrd, attributes, form.intensity.white)
            yield mrd.StreamItem.ImageFloat(
                mrd.Image(head=_image_header(mrd, header), data=pixels, meta=meta)
            )


def _image_header(mrd: Any, header: np.void) -> Any:
    return mrd.ImageHeader(
        image_type=mrd.ImageType.MAGNITUDE,
        **{name: np.array(header[ours]) for name, ours in (_DIRECTIONS | _ARRAYS).items()},
        **{name: int(header[name]) for name in _NUMBERS},
        **{name: header[name].tolist() for name in _LISTS},
    )


def _meta(mrd: Any, attributes: str, white: float) -> dict[str, list[Any]]:
    """Return the attributes of an image as version 2 has them, the window in the unit of its pixels."""
    found = {
        entry.findtext("name", ""): [value.text or "" for value in entry.iterfind("value")]
        for entry in ElementTree.fromstring(attributes)  # noqa: S314 of our own making
    }
    found["WindowCenter"], found["WindowWidth"] = [f"{white / 2:.6g}"], [f"{white:.6g}"]
    return {name: [mrd.ImageMetaValue.String(value) for value in values] for name, values in found.items()}


def _stream_header(mrd: Any, header: MrdHeader) -> Any:
    protocol = header.protocol
    frequency = round(protocol.resonance_frequency_hz or 0)
    positions = {each.name.replace("_", ""): each for each in mrd.PatientPosition}
    position = positions.get(protocol.patient_position or "")
    return mrd.Header(
        measurement_information=None
        if position is None
        else mrd.MeasurementInformationType(patient_position=position),
        acquisition_system_information=mrd.AcquisitionSystemInformationType(
            system_vendor=protocol.vendor,
            system_model=protocol.model,
            system_field_strength_t=protocol.field_strength_t,
        ),
        experimental_conditions=mrd.ExperimentalConditionsType(h1resonance_frequency_hz=frequency),
        encoding=[_encoding(mrd, each) for each in header.encodings],
        sequence_parameters=mrd.SequenceParametersType(
            t_r=list(protocol.tr_ms),
            t_e=list(protocol.te_ms),
            t_i=list(protocol.ti_ms),
            flip_angle_deg=list(protocol.flip_angle_deg),
        ),
    )


def _encoding(mrd: Any, encoding: Encoding) -> Any:
    limits = {
        name: mrd.LimitType(minimum=limit.minimum, maximum=limit.maximum, center=limit.center)
        for name, limit in (
            ("kspace_encoding_step_1", encoding.step_1),
            ("kspace_encoding_step_2", encoding.step_2),
            ("average", encoding.average),
        )
        if limit is not None
    }
    return mrd.EncodingType(
        encoded_space=_space(mrd, encoding.encoded),
        recon_space=_space(mrd, encoding.recon),
        encoding_limits=mrd.EncodingLimitsType(**limits),
        trajectory=mrd.Trajectory.CARTESIAN,
    )


def _space(mrd: Any, space: Space) -> Any:
    sizes, extents = (
        dict(zip("xyz", each, strict=True)) for each in (space.matrix_size, space.field_of_view_mm)
    )
    return mrd.EncodingSpaceType(
        matrix_size=mrd.MatrixSizeType(**sizes), field_of_view_mm=mrd.FieldOfViewMm(**extents)
    )
