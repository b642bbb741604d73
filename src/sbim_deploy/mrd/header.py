"""The XML header of MRD: what a reconstruction and its writers need of it, and nothing of who the patient is.

:func:`parse_mrd_header`` reads the header of a scan, :func:``parse_geometry` only the two spaces of its first
encoding, which is all that fastMRI's files need, and :func:`format_header` writes them.

The text is not trusted: its length is capped and declarations are refused. Elements that are not needed are
not looked at, so a vendor's own ones do no harm. The schema's x is the readout, which lies along the rows
axis of our arrays, and y the phase encoding, which lies along the columns axis.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from xml.etree import ElementTree

from sbim_deploy.errors import InputError

MAX_HEADER_BYTES = 1024**2
MAX_MATRIX_SIZE = 2**20
MAX_COUNTER = 2**16 - 1
MAX_BITS_STORED = 16
MAX_SHOWN = 40

DEFAULT_NOISE_BANDWIDTH = 0.793
TRAJECTORIES = ("cartesian", "epi", "radial", "goldenangle", "spiral", "other")
CALIBRATION_MODES = ("embedded", "interleaved", "separate", "external", "other")

NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"
_AXES = ("x", "y", "z")

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Space:
    """One space of the header: (readout, phase encoding, slice) matrix size and field of view in mm."""

    matrix_size: tuple[int, int, int]
    field_of_view_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Raise InputError for a size that no scan can have."""
        if not all(1 <= size <= MAX_MATRIX_SIZE for size in self.matrix_size):
            raise InputError(
                f"matrixSize is {self.matrix_size}, expected 1 to {MAX_MATRIX_SIZE} in each axis"
            )
        if not all(math.isfinite(extent) and extent > 0 for extent in self.field_of_view_mm):
            raise InputError(f"fieldOfView_mm is {self.field_of_view_mm}, expected positive lengths")


@dataclass(frozen=True)
class Limit:
    """The range of a counter, and the value at the centre of k-space."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True)
class Encoding:
    """One encoding space: the axes of ``encoded`` and ``recon`` are (readout, step 1, step 2).

    ``acceleration`` is that of (step 1, step 2); ``calibration_mode`` one of CALIBRATION_MODES, or None.
    """

    encoded: Space
    recon: Space
    trajectory: str = "cartesian"
    step_1: Limit | None = None
    step_2: Limit | None = None
    average: Limit | None = None
    acceleration: tuple[int, int] = (1, 1)
    calibration_mode: str | None = None


@dataclass(frozen=True)
class Protocol:
    """What the header says of the study, the system and the sequence, for those who write images.

    Texts are as they stand in the header, or None. TR, TE and TI are in ms, the flip angles in degrees.
    """

    patient_position: str | None = None
    protocol_name: str | None = None
    sequence_name: str | None = None
    series_description: str | None = None
    initial_series_number: str | None = None
    frame_of_reference_uid: str | None = None
    study_id: str | None = None
    study_date: str | None = None
    study_time: str | None = None
    study_description: str | None = None
    study_instance_uid: str | None = None
    body_part: str | None = None
    vendor: str | None = None
    model: str | None = None
    institution: str | None = None
    station: str | None = None
    field_strength_t: float | None = None
    resonance_frequency_hz: float | None = None
    tr_ms: tuple[float, ...] = ()
    te_ms: tuple[float, ...] = ()
    ti_ms: tuple[float, ...] = ()
    flip_angle_deg: tuple[float, ...] = ()


@dataclass(frozen=True)
class MrdHeader:
    """The header of a scan.

    ``noise_bandwidth`` is the receiver's relative noise bandwidth; ``bits_stored`` what the scanner wants
    its integer images scaled to, or None.
    """

    encodings: tuple[Encoding, ...]
    protocol: Protocol
    noise_bandwidth: float = DEFAULT_NOISE_BANDWIDTH
    bits_stored: int | None = None


def parse_mrd_header(text: bytes | str, where: str) -> MrdHeader:
    """Read the XML header of MRD, with or without NULs at its end; ``where`` names it in error messages.

    Raises:
        InputError: the text is longer than 1 MiB, not well-formed XML, declares a document type or an
            entity, has no encoding, or a value that no scan can have.
    """
    encoded = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    root = parse_root(encoded.rstrip(b"\0"), where)
    found = root.findall(_path("encoding"))
    if not found:
        raise InputError(f"{where}: has no <encoding> of the ISMRMRD namespace; repair it")
    encodings = [
        _parse_encoding(each, f"{where}: encoding {place}" if len(found) > 1 else where)
        for place, each in enumerate(found)
    ]
    try:
        return MrdHeader(
            encodings=tuple(encodings),
            protocol=_parse_protocol(root),
            noise_bandwidth=_parse_bandwidth(root),
            bits_stored=_parse_bits_stored(root),
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}; repair it") from error


def parse_geometry(text: bytes, where: str) -> Encoding:
    """Read the spaces of the first encoding alone; ```where``` names the header in error messages.

    Raises:
        InputError: the text is longer than 1 MiB, not well-formed XML, declares a document type or an
            entity, or lacks the spaces.
    """
    element = parse_root(text, where).find(_path("encoding"))
    if element is None:
        raise InputError(f"{where}: has no <encoding> of the ISMRMRD namespace; repair or remove it")
    return Encoding(_space(element, "encodedSpace", where), _space(element, "reconSpace", where))


def parse_root(text: bytes, where: str) -> ElementTree.Element:
    """Read an XML text that is not trusted; ``where`` names it in error messages.

    Raises:
        InputError: the text is longer than 1 MiB, not well-formed XML, or declares a document type or an
            entity.
    """
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(f"{where}: is {len(text)} bytes, expected at most {MAX_HEADER_BYTES}")
    # In UTF-16 the declarations would slip past a search for their ASCII bytes.
    if b"\0" in text or re.search(rb"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise InputError(f"{where}: holds a DOCTYPE, an ENTITY or a null byte, expected plain ISMRMRD XML")
    try:
        return ElementTree.fromstring(text)  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{where}: is not well-formed XML ({error}); repair or remove it") from error


def format_header(encoding: Encoding) -> str:
    """Return the least header of two spaces that the ISMRMRD schema and the fastMRI loaders accept.

    The resonance frequency, which the schema demands, is 0: unknown.
    """
    last = encoding.encoded.matrix_size[1] - 1
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">\n'
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz>"
        "</experimentalConditions>\n"
        "<encoding>\n"
        f"<encodedSpace>{_format_space(encoding.encoded)}</encodedSpace>\n"
        f"<reconSpace>{_format_space(encoding.recon)}</reconSpace>\n"
        f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum>"
        f"<center>{(last + 1) // 2}</center></kspace_encoding_step_1></encodingLimits>\n"
        "<trajectory>cartesian</trajectory>\n"
        "</encoding>\n"
        "</ismrmrdHeader>\n"
    )


def _format_space(space: Space) -> str:
    sizes = "".join(f"<{axis}>{size}</{axis}>" for axis, size in zip(_AXES, space.matrix_size, strict=True))
    extents = "".join(
        f"<{axis}>{extent:.10g}</{axis}>" for axis, extent in zip(_AXES, space.field_of_view_mm, strict=True)
    )
    return f"<matrixSize>{sizes}</matrixSize><fieldOfView_mm>{extents}</fieldOfView_mm>"


def _parse_encoding(element: ElementTree.Element, where: str) -> Encoding:
    encoded, recon = (_space(element, name, where) for name in ("encodedSpace", "reconSpace"))
    try:
        steps = [_limit(element, name) for name in ("kspace_encoding_step_1", "kspace_encoding_step_2")]
        return Encoding(
            encoded=encoded,
            recon=recon,
            trajectory=_choice(element, TRAJECTORIES, "trajectory") or "other",
            step_1=steps[0],
            step_2=steps[1],
            average=_limit(element, "average"),
            acceleration=(
                _factor(element, "kspace_encoding_step_1"),
                _factor(element, "kspace_encoding_step_2"),
            ),
            calibration_mode=_choice(element, CALIBRATION_MODES, "parallelImaging", "calibrationMode"),
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}; repair it") from error


def _space(encoding: ElementTree.Element, name: str, where: str) -> Space:
    try:
        sizes = [_integer(encoding, name, "matrixSize", axis) for axis in _AXES]
        extents = [_number(encoding, name, "fieldOfView_mm", axis) for axis in _AXES]
        return Space(_all_axes(sizes, "matrixSize"), _all_axes(extents, "fieldOfView_mm"))
    except (InputError, ValueError) as error:
        raise InputError(f"{where}: <{name}>: {error}; repair or remove the header") from error


def _all_axes(values: Sequence[T | None], name: str) -> tuple[T, T, T]:
    x, y, z = values
    if x is None or y is None or z is None:
        raise ValueError(f"no <{name}/{_AXES[values.index(None)]}>")
    return x, y, z


def _parse_protocol(root: ElementTree.Element) -> Protocol:
    measurement, study = "measurementInformation", "studyInformation"
    system, sequence = "acquisitionSystemInformation", "sequenceParameters"
    return Protocol(
        patient_position=_text(root, measurement, "patientPosition"),
        protocol_name=_text(root, measurement, "protocolName"),
        sequence_name=_text(root, measurement, "sequenceName"),
        series_description=_text(root, measurement, "seriesDescription"),
        initial_series_number=_text(root, measurement, "initialSeriesNumber"),
        frame_of_reference_uid=_text(root, measurement, "frameOfReferenceUID"),
        study_id=_text(root, study, "studyID"),
        study_date=_text(root, study, "studyDate"),
        study_time=_text(root, study, "studyTime"),
        study_description=_text(root, study, "studyDescription"),
        study_instance_uid=_text(root, study, "studyInstanceUID"),
        body_part=_text(root, study, "bodyPartExamined"),
        vendor=_text(root, system, "systemVendor"),
        model=_text(root, system, "systemModel"),
        institution=_text(root, system, "institutionName"),
        station=_text(root, system, "stationName"),
        field_strength_t=_number(root, system, "systemFieldStrength_T"),
        resonance_frequency_hz=_number(root, "experimentalConditions", "H1resonanceFrequency_Hz"),
        tr_ms=_numbers(root, sequence, "TR"),
        te_ms=_numbers(root, sequence, "TE"),
        ti_ms=_numbers(root, sequence, "TI"),
        flip_angle_deg=_numbers(root, sequence, "flipAngle_deg"),
    )


def _parse_bandwidth(root: ElementTree.Element) -> float:
    name = "relativeReceiverNoiseBandwidth"
    ratio = _number(root, "acquisitionSystemInformation", name)
    if ratio is None:
        return DEFAULT_NOISE_BANDWIDTH
    if ratio <= 0:
        raise ValueError(f"<{name}> is {ratio:g}, expected a positive number")
    return ratio


def _parse_bits_stored(root: ElementTree.Element) -> int | None:
    for parameter in root.iterfind(_path("userParameters", "userParameterLong")):
        if _text(parameter, "name") == "BitsStored":
            bits = _integer(parameter, "value")
            if bits is None or not 1 <= bits <= MAX_BITS_STORED:
                raise ValueError(f"BitsStored is {bits}, expected 1 to {MAX_BITS_STORED}")
            return bits
    return None


def _limit(element: ElementTree.Element, name: str) -> Limit | None:
    if element.find(_path("encodingLimits", name)) is None:
        return None
    bounds = [_integer(element, "encodingLimits", name, bound) for bound in ("minimum", "maximum", "center")]
    minimum, maximum, center = (-1 if bound is None else bound for bound in bounds)
    if not (0 <= minimum <= maximum <= MAX_COUNTER and 0 <= center <= MAX_COUNTER):
        raise ValueError(
            f"minimum, maximum and center of <{name}> are {bounds}, "
            f"expected a range within 0 to {MAX_COUNTER}"
        )
    return Limit(minimum, maximum, center)


def _factor(element: ElementTree.Element, name: str) -> int:
    factor = _integer(element, "parallelImaging", "accelerationFactor", name)
    return 1 if factor is None else factor


def _choice(element: ElementTree.Element, known: tuple[str, ...], *names: str) -> str | None:
    chosen = _text(element, *names)
    if chosen is not None and chosen not in known:
        raise ValueError(f"<{names[-1]}> is {chosen[:MAX_SHOWN]!r}, expected one of {', '.join(known)}")
    return chosen


def _integer(element: ElementTree.Element, *names: str) -> int | None:
    text = _text(element, *names)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"<{_shown(names)}> is {text[:MAX_SHOWN]!r}, expected a whole number") from error


def _number(element: ElementTree.Element, *names: str) -> float | None:
    text = _text(element, *names)
    return None if text is None else _parse_number(text, _shown(names))


def _numbers(element: ElementTree.Element, *names: str) -> tuple[float, ...]:
    found = [(each.text or "").strip() for each in element.iterfind(_path(*names))]
    return tuple(_parse_number(text, _shown(names)) for text in found if text)


def _parse_number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"<{name}> is {text[:MAX_SHOWN]!r}, expected a number") from error
    if not math.isfinite(value):
        raise ValueError(f"<{name}> is {text[:MAX_SHOWN]}, expected a finite number")
    return value


def _text(element: ElementTree.Element, *names: str) -> str | None:
    return (element.findtext(_path(*names)) or "").strip() or None


def _shown(names: Sequence[str]) -> str:
    return "/".join(names[-2:])


def _path(*names: str) -> str:
    return "/".join(f"{NAMESPACE}{name}" for name in names)
