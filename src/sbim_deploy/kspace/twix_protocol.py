"""The protocol of a Siemens twix measurement, and the header of a scan that it is.

A measurement begins with named texts. MeasYaps holds the protocol as lines ``name = value`` between ASCCONV
marks, in which what has its default value is missing; Meas, Dicom and Config hold XProtocol, of which a few
values are looked up by name. Nothing is read of who the patient is.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.image_grid import EXTENT_TOLERANCE
from sbim_deploy.mrd.header import Encoding, Limit, MrdHeader, Protocol, Space

MAX_PROTOCOL_BYTES = 64 * 1024**2
MAX_TEXTS = 64
MAX_SLICES = 4096
MAX_TIMES = 128
MAX_TEXT = 256  # characters of a value

VENDOR = "SIEMENS"
READOUT_OVERSAMPLING = 2.0
NOISE_WIDTH_HZ = 130.0

_NAME_BYTES = 48
_BEGIN, _END = "### ASCCONV BEGIN", "### ASCCONV END ###"
_TRAJECTORIES = {1: "cartesian", 2: "radial", 4: "spiral", 8: "PROPELLER (blade)"}
_CALIBRATION = {
    2: "embedded",
    4: "separate",
    8: "separate",
    16: "interleaved",
    32: "interleaved",
    64: "interleaved",
}
_NOISE_DWELL_US = {"AdjCoilSens": 5.0, "AdjQuietCoilSens": 4.0}
_THREE_D = 4
_NO_INVERSION = 4  # alTI is there all the same
_SLICE = "sSliceArray.asSlice[{}]."
_AXES = ("dSag", "dCor", "dTra")


@dataclass(frozen=True)
class ProtocolTexts:
    """What a measurement begins with.

    Attributes:
        n_bytes: how long it is; the lines follow.
        values: the protocol, by name.
        texts: the XProtocol, by name.
        where: names the measurement in error messages.
    """

    n_bytes: int
    values: Mapping[str, str]
    texts: Mapping[str, str]
    where: str

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number of the protocol.

        Raises:
            InputError: it is missing and has no default, or is no finite number.
        """
        text = self.values.get(name)
        if text is None and default is not None:
            return default
        value = _number(text)
        if value is None:
            raise InputError(
                f"{self.where}: its protocol has {name} {_shown(text)}, expected a number; the header is "
                "damaged, fetch the file again"
            )
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number of the protocol; InputError as :meth:`number`."""
        value = self.number(name, default)
        if value != int(value) or abs(value) >= 2**31:
            raise InputError(
                f"{self.where}: its protocol has {name} of {value:g}, expected a whole number of 32 bits; "
                "the header is damaged, fetch the file again"
            )
        return int(value)

    def text(self, name: str) -> str | None:
        """Return a text of the protocol, or None."""
        return _clean(self.values.get(name))

    def looked_up(self, name: str) -> str | None:
        """Return a value of the XProtocol, its numbers apart by spaces, or None where it is empty."""
        pattern = re.compile(rf'<Param(?:Bool|Long|String|Double)\."{name}">\s*{{([^{{}}]{{0,4096}})}}')
        for text in ("Meas", "Dicom", "Config"):
            for match in pattern.finditer(self.texts.get(text, "")):
                value = _clean(re.sub(r"<Precision>\s*\d+", "", match.group(1)))
                if value is not None:
                    return value
        return None

    def times(self, name: str, most: int = MAX_TIMES, per: float = 1.0) -> tuple[float, ...]:
        """Return the numbers of an array of the protocol up to the first that is missing, over ``per``."""
        found: list[float] = []
        while len(found) < most and f"{name}[{len(found)}]" in self.values:
            found.append(self.number(f"{name}[{len(found)}]") / per)
        return tuple(found)


@dataclass(frozen=True)
class CountRange:
    """Where the lines or partitions of an image lie: their counts, and the centre, which may be assumed."""

    minimum: int
    maximum: int
    center: int
    is_assumed: bool = False


def read_texts(data: bytes, where: str) -> ProtocolTexts:
    """Read the texts that ``data`` begins with; ``where`` names the measurement in error messages.

    Raises:
        InputError: they are not as they must be, or there is no protocol among them.
    """
    n_bytes, n_texts = struct.unpack_from("<II", data) if len(data) >= 8 else (0, 0)
    damaged = f"{where}: its header is damaged"
    if not (8 < n_bytes <= len(data) and 1 <= n_texts <= MAX_TEXTS):
        raise InputError(
            f"{damaged}: {n_bytes} bytes with {n_texts} texts, expected 9 to {len(data)} with 1 to "
            f"{MAX_TEXTS}; fetch the file again"
        )
    texts: dict[str, str] = {}
    place = 8
    for _ in range(n_texts):
        end = data.find(b"\0", place, min(place + _NAME_BYTES, n_bytes))
        length = struct.unpack_from("<I", data, end + 1)[0] if 0 < end <= n_bytes - 5 else n_bytes
        if end + 5 + length > n_bytes:
            raise InputError(f"{damaged}: text {len(texts)} at byte {place} has no end; fetch the file again")
        texts[data[place:end].decode("latin-1")] = data[end + 5 : end + 5 + length].decode("latin-1")
        place = end + 5 + length
    values = _parse_values(texts.get("MeasYaps", "")) or _parse_values(texts.get("Phoenix", ""))
    if not values:
        raise InputError(
            f"{damaged}: no protocol (ASCCONV) among {', '.join(texts)[:MAX_TEXT]!r}; fetch the file again"
        )
    return ProtocolTexts(n_bytes, values, texts, where)


def check_is_read(texts: ProtocolTexts) -> None:
    """Check that a measurement is of a kind that is read: Cartesian, one slice or slab at a time.

    Raises:
        InputError: it is EPI, radial, spiral, PROPELLER, sampled on ramps, or of several slices at once.
    """
    kind = texts.whole("sKSpace.ucTrajectory", 1)
    named = _TRAJECTORIES.get(kind, f"of trajectory {kind}")
    factor = texts.whole("sFastImaging.lEPIFactor", 1)
    bands = texts.whole("sSliceAcceleration.lMultiBandFactor", 1)
    regridded = _number((texts.looked_up("alRegridMode") or "1").split()[0])
    if factor > 1:
        named = f"EPI (EPI factor {factor})"
    elif kind == 1 and regridded is not None and regridded > 1:
        named = "sampled on the ramps of its gradients"
    elif bands > 1:
        raise InputError(
            f"{texts.where}: excites {bands} slices at once, expected one at a time: separate them first"
        )
    if named != _TRAJECTORIES[1]:
        raise InputError(f"{texts.where}: is {named}, expected Cartesian lines: regrid it first")


def is_3d(texts: ProtocolTexts) -> bool:
    """Tell whether a protocol is of a slab with partitions."""
    return texts.whole("sKSpace.ucDimension", 2) == _THREE_D


def make_header(texts: ProtocolTexts, lines: CountRange, partitions: CountRange | None = None) -> MrdHeader:
    """Return the header of a scan by its protocol and where its lines, and a slab's ``partitions``, lie.

    Images have square pixels of the base resolution, and as many partitions as the slab has images.

    Raises:
        InputError: the protocol lacks a size, or has one that no scan can have.
    """
    base = texts.whole("sKSpace.lBaseResolution")
    n_lines = texts.whole("sKSpace.lPhaseEncodingLines")
    read_mm, phase_mm, thickness = _field_of_view(texts)
    pixel = read_mm / base if base > 0 else 0.0
    oversampling = _number(texts.looked_up("flReadoutOSFactor")) or READOUT_OVERSAMPLING
    encoded_mm, remarks = _encoded_width(texts, n_lines, pixel, phase_mm, _LINES)
    n_partitions, n_images, slab_mm = 1, 1, thickness
    if partitions is not None:
        n_partitions = texts.whole("sKSpace.lPartitions", 1)
        more = 1 + texts.number(f"sKSpace.{_PARTITIONS.oversampling}", 0.0)
        n_images = texts.whole("sKSpace.lImagesPerSlab", round(n_partitions / more) if more > 0 else 0)
        voxel = thickness / n_images if n_images > 0 else 0.0
        slab_mm, more_remarks = _encoded_width(texts, n_partitions, voxel, thickness, _PARTITIONS)
        remarks += more_remarks
    try:
        encoded = Space(
            (round(base * oversampling), n_lines, n_partitions),
            (read_mm * oversampling, encoded_mm, slab_mm),
        )
        recon = Space(
            (base, round(phase_mm / pixel) if pixel > 0 else 0, n_images), (read_mm, phase_mm, thickness)
        )
    except (InputError, OverflowError) as error:
        raise InputError(f"{texts.where}: {error}; the header is damaged, fetch the file again") from error
    encoding = Encoding(
        encoded=encoded,
        recon=recon,
        step_1=Limit(lines.minimum, lines.maximum, lines.center),
        step_2=None
        if partitions is None
        else Limit(partitions.minimum, partitions.maximum, partitions.center),
        acceleration=(texts.whole("sPat.lAccelFactPE", 1), texts.whole("sPat.lAccelFact3D", 1)),
        calibration_mode=_CALIBRATION.get(texts.whole("sPat.ucRefScanMode", 1), "other"),
        remarks=remarks,
    )
    return MrdHeader((encoding,), _protocol(texts))


def dwell_us(texts: ProtocolTexts) -> float:
    """Return the dwell time of the image's samples in microseconds, 0 where it is not told."""
    return max(texts.number("sRXSPEC.alDwellTime[0]", 0.0), 0.0) / 1000


def noise_dwell_us(texts: ProtocolTexts, n_samples: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the dwell time in microseconds of noise lines (line,) of so many samples each.

    siemens_to_ismrmrd has the rule: adjustments have one of their own, all others 130 Hz for a pixel.
    """
    width = NOISE_WIDTH_HZ * np.maximum(n_samples, 1, dtype=np.float64)
    known = _NOISE_DWELL_US.get(texts.text("tProtocolName") or "")
    return 1e6 / width if known is None else np.full(len(n_samples), known)


def slice_places(texts: ProtocolTexts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions in mm and the normals (slice, 3) of the protocol's slices.

    Raises:
        InputError: there are too many, or one is not told by numbers.
    """
    count = _n_slices(texts)
    places, normals = np.zeros((count, 3)), np.zeros((count, 3))
    for number in range(count):
        for axis, name in enumerate(_AXES):
            where = _SLICE.format(number)
            places[number, axis] = texts.number(f"{where}sPosition.{name}", 0.0)
            normals[number, axis] = texts.number(f"{where}sNormal.{name}", 0.0)
    return places, normals


def receivers(texts: ProtocolTexts) -> tuple[tuple[str, str], ...]:
    """Return the receiver channel and the name of each coil element, in order, as far as they are told."""
    prefix = re.compile(r"a?sCoilSelectMeas(?:\[0\])?\.(?:aRxCoilSelectData\[0\]\.)?(asList\[\d+\])\.")
    elements: dict[str, dict[str, str]] = {}
    for name, value in texts.values.items():
        if match := prefix.match(name):
            elements.setdefault(match.group(1), {})[name[match.end() :]] = value
    channel, coil, element = "lADCChannelConnected", "sCoilElementID.tCoilID", "sCoilElementID.tElement"
    fallback = "lRxChannelConnected"
    return tuple(
        sorted(
            (each.get(channel, each.get(fallback, "")), each.get(coil, "") + each[element])
            for each in elements.values()
            if element in each
        )
    )


def _field_of_view(texts: ProtocolTexts) -> tuple[float, float, float]:
    """Return (readout, phase, thickness) in mm, which all slices must have."""
    names = ("dReadoutFOV", "dPhaseFOV", "dThickness")
    found = [
        tuple(texts.number(_SLICE.format(number) + name) for name in names)
        for number in range(_n_slices(texts))
    ]
    if not all(0 < extent < math.inf for each in found for extent in each):
        raise InputError(f"{texts.where}: has slices of {found[0]} mm, expected positive lengths")
    for each in found:
        if not np.allclose(each, found[0], rtol=EXTENT_TOLERANCE):
            raise InputError(
                f"{texts.where}: has slices of {found[0]} and {each} mm (readout, phase, thickness), "
                "expected one size; measure them apart"
            )
    return found[0][0], found[0][1], found[0][2]


def _n_slices(texts: ProtocolTexts) -> int:
    count = texts.whole("sSliceArray.lSize", 1)
    if not 1 <= count <= MAX_SLICES:
        raise InputError(f"{texts.where}: has {count} slices, expected 1 to {MAX_SLICES}")
    return count


@dataclass(frozen=True)
class _Encode:
    """A phase encode: what its steps are called, and its names in the protocol."""

    steps: str
    axis: str
    oversampling: str
    resolution: str


_LINES = _Encode("lines", "the phase encoding", "dPhaseOversamplingForDialog", "dPhaseResolution")
_PARTITIONS = _Encode(
    "partitions", "the second phase encoding", "dSliceOversamplingForDialog", "dSliceResolution"
)


def _encoded_width(
    texts: ProtocolTexts, n_lines: int, pixel: float, phase_mm: float, encode: _Encode
) -> tuple[float, tuple[str, ...]]:
    """Return the field of view in mm that lines or partitions stand for, and what to say of it."""
    by_dialog = phase_mm * (1 + texts.number(f"sKSpace.{encode.oversampling}", 0.0))
    resolution = texts.number(f"sKSpace.{encode.resolution}", 1.0)
    by_lines = n_lines * pixel / resolution if resolution > 0 else by_dialog
    # Lines are whole numbers: that many stand for up to half a line more or less.
    if abs(by_lines - by_dialog) <= max(EXTENT_TOLERANCE, 1 / max(n_lines, 1)) * by_dialog or by_lines <= 0:
        return by_dialog, ()
    return by_lines, (
        f"{n_lines} {encode.steps} of {pixel / resolution:g} mm are {by_lines:g} mm along {encode.axis}, and "
        f"the protocol has {by_dialog:g} mm: taken as the former",
    )


def _protocol(texts: ProtocolTexts) -> Protocol:
    vendor = texts.looked_up("Manufacturer") or VENDOR
    contrasts = max(texts.whole("lContrasts", 1), 1)
    return Protocol(
        patient_position=texts.looked_up("tPatientPosition") or texts.looked_up("sPatPosition"),
        vendor=vendor if vendor.upper().startswith(VENDOR) else VENDOR,
        model=texts.looked_up("ManufacturersModelName"),
        field_strength_t=_positive(texts.looked_up("flMagneticFieldStrength")),
        resonance_frequency_hz=_positive(texts.values.get("sTXSPEC.asNucleusInfo[0].lFrequency")),
        tr_ms=texts.times("alTR", 1, 1000.0),
        te_ms=texts.times("alTE", contrasts, 1000.0),
        ti_ms=texts.times("alTI", 1, 1000.0)
        if texts.whole("sPrepPulses.ucInversion", _NO_INVERSION) != _NO_INVERSION
        else (),
        flip_angle_deg=texts.times("adFlipAngleDegree", 1),
    )


def _parse_values(text: str) -> dict[str, str]:
    begin = text.find(_BEGIN)
    if begin < 0:
        return {}
    end = text.find(_END, begin)
    lines = text[begin : end if end >= 0 else None].splitlines()[1:]
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value.strip() for name, is_pair, value in pairs if is_pair}


def _number(text: str | None) -> float | None:
    """Return a number as the protocol writes it, 0x10 among others, or None where it is none."""
    if text is None or len(text) > MAX_TEXT:
        return None
    text = text.strip()
    try:
        value = float(int(text, 16)) if text.lower().startswith("0x") else float(text)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _positive(text: str | None) -> float | None:
    value = _number(text)
    return value if value is not None and value > 0 else None


def _clean(text: str | None) -> str | None:
    """Return a text without its quotation marks, or None where nothing is left of it."""
    if text is None:
        return None
    kept = "".join(filter(str.isprintable, " ".join(text.replace('"', " ").split())))
    return kept[:MAX_TEXT] or None


def _shown(text: str | None) -> str:
    return "missing" if text is None else f"of {text[:40]!r}"
