"""Small Siemens twix files (.dat) of VD and VB, written byte by byte; no reader has a part in it.

A line's samples are blobs at known places (``blob_scans``), conjugated, as Siemens' raw data are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from blob_scans import blob_kspace

N, MM, THICKNESS = 24, 240.0, 5.0
POSITION = (12.0, -25.0, 40.0)
AXIAL = (1.0, 0.0, 0.0, 0.0)  # (w, x, y, z): phase encoding along x, readout along y, slice along z
COUNTERS = ("Lin", "Ave", "Sli", "Par", "Eco", "Phs", "Rep", "Set", "Seg", "Ida", "Idb", "Idc", "Idd", "Ide")
BITS = {
    "ACQEND": 0,
    "RTFEEDBACK": 1,
    "HPFEEDBACK": 2,
    "ONLINE": 3,
    "SYNCDATA": 5,
    "REFPHASESTABSCAN": 14,
    "PHASESTABSCAN": 15,
    "PHASCOR": 21,
    "PATREFSCAN": 22,
    "PATREFANDIMASCAN": 23,
    "REFLECT": 24,
    "NOISEADJSCAN": 25,
    "SLICE_ACCEL_REFSCAN": 38,
    "RETRO_DUMMYSCAN": 51,
    "FIDNAV": 60,
}


@dataclass(frozen=True)
class Line:
    """One line: samples (channel, sample), its flags, and the counters that are not 0."""

    data: Any
    flags: tuple[str, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    center_sample: int = N
    center_line: int = N // 2
    center_partition: int = 0
    cutoff: tuple[int, int] = (0, 0)
    position: tuple[float, float, float] = POSITION
    quaternion: tuple[float, float, float, float] = AXIAL
    channel_ids: tuple[int, ...] | None = None
    n_sync: int = 0  # bytes of a SYNCDATA line, in place of samples


@dataclass(frozen=True)
class Scan:
    """One measurement: its lines, and values of its protocol, of which None leaves a line out."""

    lines: Sequence[Line]
    protocol: dict[str, Any] = field(default_factory=dict)
    xprotocol: dict[str, Any] = field(default_factory=dict)
    name: str = "gre"
    ends: bool = True  # with ACQEND


def protocol_values(
    positions: Sequence[Any] = (POSITION,), normal: Any = (0, 0, 1), **sizes: Any
) -> dict[str, Any]:
    """The lines of a protocol; what is 0 is missing, as on the scanner."""
    values: dict[str, Any] = {
        "tProtocolName": '"gre"',
        "tSequenceFileName": '"%SiemensSeq%\\gre"',
        "alTR[0]": 8600,
        "alTE[0]": 4000,
        "alTE[1]": 9000,
        "alTI[0]": 300000,
        "adFlipAngleDegree[0]": 15.0,
        "lContrasts": 1,
        "sRXSPEC.alDwellTime[0]": 5000,
        "sTXSPEC.asNucleusInfo[0].lFrequency": 123200000,
        "sKSpace.lBaseResolution": sizes.get("base", N),
        "sKSpace.lPhaseEncodingLines": sizes.get("lines", N),
        "sKSpace.dPhaseResolution": 1.0,
        "sKSpace.lPartitions": 16,
        "sKSpace.ucDimension": "0x2",
        "sKSpace.ucTrajectory": "0x1",
        "sFastImaging.lEPIFactor": 1,
        "sPat.lAccelFactPE": 1,
        "sPat.ucRefScanMode": "0x1",
        "sSliceArray.lSize": len(positions),
    }
    for number, position in enumerate(positions):
        where = f"sSliceArray.asSlice[{number}]."
        values |= {
            f"{where}dThickness": THICKNESS,
            f"{where}dPhaseFOV": MM,
            f"{where}dReadoutFOV": MM,
        }
        for kind, vector in (("sPosition", position), ("sNormal", normal)):
            for axis, value in zip(("dSag", "dCor", "dTra"), vector, strict=True):
                values[f"{where}{kind}.{axis}"] = float(value) or None
    for place in range(2):
        where = f"sCoilSelectMeas.aRxCoilSelectData[0].asList[{place}]."
        values |= {
            f"{where}sCoilElementID.tElement": f'"H{place}"',
            f"{where}lADCChannelConnected": place + 1,
        }
    return values


XPROTOCOL = {
    "flReadoutOSFactor": "<Precision> 6 2.000000",
    "alRegridMode": "1 1",
    "tPatientPosition": '"HFS"',
    "Manufacturer": '"SIEMENS"',
    "ManufacturersModelName": '"Skyra"',
    "flMagneticFieldStrength": "<Precision> 6 2.893620",
    "SoftwareVersions": '"syngo MR E11"',
    "chronSliceIndices": "0 -1 -1",
    "tPatientName": '"Nobody"',
}

SPICE = "x" * 10_000  # the protocol's length, 10000 bytes or more, tells VB from VD


def image_lines(
    number: int = 0, weight: complex = 1.0, shape: tuple[int, int] = (N, N), **same: Any
) -> list[Line]:
    """All lines of a slice of blobs, twice oversampled; ``same`` are fields that all have."""
    rows, columns = shape
    kspace = weight * blob_kspace((2 * rows, columns), (2 * MM, MM)).conj()
    counters = {"Sli": number, **same.pop("counters", {})}
    return [
        Line(
            kspace[:, :, line],
            counters={"Lin": line, **counters},
            center_line=columns // 2,
            center_sample=rows,
            **same,
        )
        for line in range(columns)
    ]


def noise_lines(n_lines: int = 4, seed: int = 0, n_channels: int = 3, **same: Any) -> list[Line]:
    """Lines of noise whose coils depend on one another."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(n_channels) + 0.3 * rng.normal(size=(n_channels, n_channels))
    parts = rng.normal(size=(n_lines, n_channels, 2 * N, 2))
    return [Line(mixing @ part, ("NOISEADJSCAN",), **same) for part in parts[..., 0] + 1j * parts[..., 1]]


def sync_line(n_bytes: int = 64) -> Line:
    return Line(np.zeros((1, 1)), ("SYNCDATA",), n_sync=n_bytes)


def with_flags(lines: Sequence[Line], *flags: str) -> list[Line]:
    return [replace(line, flags=flags) for line in lines]


def write_twix(path: Path, *scans: Scan, vb: bool = False) -> Path:
    """Write a file of some measurements, of VD, or of one, of VB."""
    path.write_bytes(twix_bytes(*scans, vb=vb))
    return path


def twix_bytes(*scans: Scan, vb: bool = False) -> bytes:
    if vb:
        (scan,) = scans
        return _measurement(scan, True)
    parts, entries, start = [], [], 10240
    for number, scan in enumerate(scans):
        part = _measurement(scan, False)
        entries.append(
            struct.pack("<IIQQ64s64s", 100 + number, 7, start, len(part), b"xx", scan.name.encode())
        )
        padded = part + bytes(-len(part) % 512)
        parts.append(padded)
        start += len(padded)
    directory = struct.pack("<II", 0, len(scans)) + b"".join(entries)
    return directory.ljust(10240, b"\0") + b"".join(parts)


def protocol_bytes(scan: Scan) -> bytes:
    """The texts that a measurement begins with."""
    values = protocol_values() | scan.protocol
    lines = "\n".join(f"{name}\t = \t{value}" for name, value in values.items() if value is not None)
    ascconv = f"### ASCCONV BEGIN object=MrProtDataImpl@MrProtocolData ###\n{lines}\n### ASCCONV END ###\n"
    pairs = (XPROTOCOL | scan.xprotocol).items()
    params = "\n".join(
        f'<Param{_kind(value)}."{name}"> {{ {value} }}' for name, value in pairs if value is not None
    )
    texts = {
        "Config": params,
        "Dicom": params,
        "Meas": params,
        "MeasYaps": ascconv,
        "Phoenix": "",
        "Spice": SPICE,
    }
    body = b"".join(
        name.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode("latin-1")
        for name, text in texts.items()
    )
    n_bytes = 8 + len(body) + (-(8 + len(body)) % 32)
    return (struct.pack("<II", n_bytes, len(texts)) + body).ljust(n_bytes, b"\0")


def _kind(value: str) -> str:
    if value.startswith('"'):
        return "String"
    return "Double" if "Precision" in value else "Long"


def _measurement(scan: Scan, vb: bool) -> bytes:
    parts = [protocol_bytes(scan)]
    parts += [_line(line, number, vb) for number, line in enumerate(scan.lines, 1)]
    if scan.ends:
        end = Line(np.zeros((1, 16)), ("ACQEND",), n_sync=160)
        parts.append(_line(end, len(scan.lines) + 1, vb))
    return b"".join(parts)


def _line(line: Line, number: int, vb: bool) -> bytes:
    data = np.ascontiguousarray(line.data, np.complex64)
    ids = line.channel_ids or tuple(range(len(data)))
    if line.n_sync:
        return _header(line, number, data.shape, 0, vb, (128 if vb else 192) + line.n_sync) + bytes(
            line.n_sync
        )
    if vb:
        length = 128 + 8 * data.shape[1]
        return b"".join(
            _header(line, number, data.shape, channel, vb, length) + samples.tobytes()
            for channel, samples in zip(ids, data, strict=True)
        )
    length = 192 + len(data) * (32 + 8 * data.shape[1])
    head = _header(line, number, data.shape, 0, vb, length)
    channels = (
        struct.pack("<IiIiIIHHI", 0, 42, number, 0, 0, 0, channel, 0, 0) + samples.tobytes()
        for channel, samples in zip(ids, data, strict=True)
    )
    return head + b"".join(channels)


def _header(line: Line, number: int, shape: tuple[int, ...], channel: int, vb: bool, length: int) -> bytes:
    mask = sum(1 << BITS[name] for name in line.flags)
    sizes = struct.pack("<QHH", mask, shape[1], shape[0])
    counters = struct.pack("<14H", *(line.counters.get(name, 0) for name in COUNTERS))
    cutoff = struct.pack("<HH", *line.cutoff)
    center = struct.pack("<HHfIHH", line.center_sample, 0, 0.0, 0, line.center_line, line.center_partition)
    place = struct.pack("<3f4f", *line.position, *line.quaternion)
    stamps = struct.pack("<IiIII", length, 42, number, 1000 + number, 2000 + number)
    if vb:
        return (
            stamps + sizes + counters + cutoff + center + bytes(16) + place + struct.pack("<HH", channel, 0)
        )
    table = struct.pack("<HHiiii", 0, 0, 0, 0, 0, 0)
    return stamps + table + sizes + counters + cutoff + center + place + bytes(48 + 8 + 2 + 2 + 4)
