"""The XML header of MRD: what a reconstruction and its writers need of it, and nothing of who the patient is.

:func:`parse_mrd_header` reads the header of a scan, :func:`parse_geometry` only the two spaces of its first
encoding, which is all that fastMRI's files need, and :func:`format_header` writes them.

The text is not trusted: its length is capped and declarations are refused. Elements that are not needed are
not looked at, so a vendor's own ones do no harm. The schema's x is the readout, which lies along the rows
axis of our arrays, and y the phase encoding, which lies along the columns axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from xml.etree import ElementTree

from sbim_deploy.errors import InputError
from sbim_deploy.mrd import xml

MAX_MATRIX_SIZE = 2**20
MAX_COUNTER = 2**16 - 1
MAX_BITS_STORED = 16
SIZE_TOLERANCE = 0.01  # of a matrix size that is not written as a whole number
UNKNOWN_THICKNESS_MM = 1.0

DEFAULT_NOISE_BANDWIDTH = 0.793
TRAJECTORIES = ("cartesian", "epi", "radial", "goldenangle", "spiral", "other")
CALIBRATION_MODES = ("embedded", "interleaved", "separate", "external", "other")

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
    ``trajectory_is_given`` is false where the header has none and Cartesian was assumed. ``remarks`` are
    sentences that say what was assumed.
    """

    encoded: Space
    recon: Space
    trajectory: str = "cartesian"
    step_1: Limit | None = None
    step_2: Limit | None = None
    average: Limit | None = None
    acceleration: tuple[int, int] = (1, 1)
    calibration_mode: str | None = None
    trajectory_is_given: bool = True
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """What the header says of the scanner and the sequence, for those who write images.

    Texts are as they stand in the header, or None. TR, TE and TI are in ms, the flip angles in degrees. Names
    that people give, dates and identifiers stand in :class:`sbim_deploy.mrd.identity.Identity`.
    """

    patient_position: str | None = None
    vendor: str | None = None
    model: str | None = None
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
    root = xml.parse_root(encoded.rstrip(b"\0"), where)
    found = root.findall(xml.path("encoding"))
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
    """Read the spaces of the first encoding alone; ``where`` names the header in error messages.

    Raises:
        InputError: the text is longer than 1 MiB, not well-formed XML, declares a document type or an
            entity, or lacks the spaces.
    """
    element = xml.parse_root(text, where).find(xml.path("encoding"))
    if element is None:
        raise InputError(f"{where}: has no <encoding> of the ISMRMRD namespace; repair or remove it")
    encoded, recon, remarks = _spaces(element, where)
    return Encoding(encoded, recon, remarks=remarks)


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
    encoded, recon, remarks = _spaces(element, where)
    try:
        steps = [_limit(element, name) for name in ("kspace_encoding_step_1", "kspace_encoding_step_2")]
        if steps[0] == Limit(0, 0, 0) and encoded.matrix_size[1] > 1:
            steps[0] = None
            remarks += (
                f"the limits of kspace_encoding_step_1 are all 0: taken as those of the "
                f"{encoded.matrix_size[1]} encoded lines",
            )
        trajectory = xml.choice(element, TRAJECTORIES, "trajectory")
        if trajectory is None:
            remarks += ("the header has no <trajectory>: taken as cartesian",)
        return Encoding(
            encoded=encoded,
            recon=recon,
            trajectory=trajectory or "cartesian",
            step_1=steps[0],
            step_2=steps[1],
            average=_limit(element, "average"),
            acceleration=(
                _factor(element, "kspace_encoding_step_1"),
                _factor(element, "kspace_encoding_step_2"),
            ),
            calibration_mode=xml.choice(element, CALIBRATION_MODES, "parallelImaging", "calibrationMode"),
            trajectory_is_given=trajectory is not None,
            remarks=remarks,
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}; repair it") from error


def _spaces(encoding: ElementTree.Element, where: str) -> tuple[Space, Space, tuple[str, ...]]:
    """Return encodedSpace and reconSpace, and what was assumed of them."""
    remarks: list[str] = []
    if encoding.find(xml.path("reconSpace")) is None:
        remarks.append("the header has no <reconSpace>: the image is encodedSpace's")
        parts = [_space(encoding, "encodedSpace", where, remarks)] * 2
    else:
        parts = [_space(encoding, name, where, remarks) for name in ("encodedSpace", "reconSpace")]
    thickness = parts[1][1][2] or parts[0][1][2]
    if not thickness:
        thickness = UNKNOWN_THICKNESS_MM
        remarks.append(f"the header does not say how thick a slice is: taken as {thickness:g} mm")
    spaces = []
    for name, (sizes, extents) in zip(("encodedSpace", "reconSpace"), parts, strict=True):
        try:
            spaces.append(Space(sizes, (extents[0], extents[1], extents[2] or thickness)))
        except InputError as error:
            raise InputError(f"{where}: <{name}>: {error}; repair or remove the header") from error
    return spaces[0], spaces[1], tuple(dict.fromkeys(remarks))


def _space(
    encoding: ElementTree.Element, name: str, where: str, remarks: list[str]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return matrix size and field of view, whose z is 0 where it is unknown."""
    try:
        sizes = [_size(encoding, name, axis, remarks) for axis in _AXES]
        extents = [xml.number(encoding, name, "fieldOfView_mm", axis) for axis in _AXES]
        sizes[2], extents[2] = sizes[2] or 1, extents[2] or 0.0
        return _all_axes(sizes, "matrixSize"), _all_axes(extents, "fieldOfView_mm")
    except (InputError, ValueError) as error:
        raise InputError(f"{where}: <{name}>: {error}; repair or remove the header") from error


def _size(encoding: ElementTree.Element, name: str, axis: str, remarks: list[str]) -> int | None:
    """Return a matrix size; some converters compute it, and write 0.9996 for 1."""
    try:
        return xml.integer(encoding, name, "matrixSize", axis)
    except ValueError:
        value = xml.number(encoding, name, "matrixSize", axis)
        if value is None or abs(value - round(value)) > SIZE_TOLERANCE:
            raise
        remarks.append(f"matrixSize/{axis} of <{name}> is {value:g}: taken as {round(value)}")
        return round(value)


def _all_axes(values: Sequence[T | None], name: str) -> tuple[T, T, T]:
    x, y, z = values
    if x is None or y is None or z is None:
        raise ValueError(f"no <{name}/{_AXES[values.index(None)]}>")
    return x, y, z


def _parse_protocol(root: ElementTree.Element) -> Protocol:
    system, sequence = "acquisitionSystemInformation", "sequenceParameters"
    return Protocol(
        patient_position=xml.text(root, "measurementInformation", "patientPosition"),
        vendor=xml.text(root, system, "systemVendor"),
        model=xml.text(root, system, "systemModel"),
        field_strength_t=xml.number(root, system, "systemFieldStrength_T"),
        resonance_frequency_hz=xml.number(root, "experimentalConditions", "H1resonanceFrequency_Hz"),
        tr_ms=xml.numbers(root, sequence, "TR"),
        te_ms=xml.numbers(root, sequence, "TE"),
        ti_ms=xml.numbers(root, sequence, "TI"),
        flip_angle_deg=xml.numbers(root, sequence, "flipAngle_deg"),
    )


def _parse_bandwidth(root: ElementTree.Element) -> float:
    name = "relativeReceiverNoiseBandwidth"
    ratio = xml.number(root, "acquisitionSystemInformation", name)
    if ratio is None:
        return DEFAULT_NOISE_BANDWIDTH
    if ratio <= 0:
        raise ValueError(f"<{name}> is {ratio:g}, expected a positive number")
    return ratio


def _parse_bits_stored(root: ElementTree.Element) -> int | None:
    for parameter in root.iterfind(xml.path("userParameters", "userParameterLong")):
        if xml.text(parameter, "name") == "BitsStored":
            bits = xml.integer(parameter, "value")
            if bits is None or not 1 <= bits <= MAX_BITS_STORED:
                raise ValueError(f"BitsStored is {bits}, expected 1 to {MAX_BITS_STORED}")
            return bits
    return None


def _limit(element: ElementTree.Element, name: str) -> Limit | None:
    if element.find(xml.path("encodingLimits", name)) is None:
        return None
    bounds = [
        xml.integer(element, "encodingLimits", name, bound) for bound in ("minimum", "maximum", "center")
    ]
    minimum, maximum, center = (-1 if bound is None else bound for bound in bounds)
    if not (0 <= minimum <= maximum <= MAX_COUNTER and 0 <= center <= MAX_COUNTER):
        raise ValueError(
            f"minimum, maximum and center of <{name}> are {bounds}, "
            f"expected a range within 0 to {MAX_COUNTER}"
        )
    return Limit(minimum, maximum, center)


def _factor(element: ElementTree.Element, name: str) -> int:
    factor = xml.integer(element, "parallelImaging", "accelerationFactor", name)
    return 1 if factor is None else factor
