"""The geometry in the ISMRMRD header of a fastMRI file: an XML text that is not trusted.

The schema's x is the readout, which lies along the rows axis of fastMRI's arrays, and y the phase
encoding, which lies along the columns axis.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from sbim_deploy.errors import InputError

MAX_HEADER_BYTES = 1024**2
MAX_MATRIX_SIZE = 2**20

NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"
_AXES = ("x", "y", "z")


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
class ScanGeometry:
    """The space that was sampled and the space to reconstruct."""

    encoded: Space
    recon: Space


def parse_header(text: bytes, where: str) -> ScanGeometry:
    """Read the geometry of the first encoding; `where` names the header in error messages.

    Raises:
        InputError: the text is longer than 1 MiB, not well-formed XML, declares a document type or an
            entity, or lacks the geometry.
    """
    encoding = parse_root(text, where).find(f"{NAMESPACE}encoding")
    if encoding is None:
        raise InputError(f"{where}: has no <encoding> of the ISMRMRD namespace; repair or remove it")
    return ScanGeometry(
        encoded=read_space(encoding, "encodedSpace", where),
        recon=read_space(encoding, "reconSpace", where),
    )


def parse_root(text: bytes, where: str) -> ElementTree.Element:
    """Read an XML text that is not trusted; `where` names it in error messages.

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


def format_header(geometry: ScanGeometry) -> str:
    """Write the least header that the ISMRMRD schema and the fastMRI loaders accept.

    The resonance frequency, which the schema demands, is 0: unknown.
    """
    last = geometry.encoded.matrix_size[1] - 1
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">\n'
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz>"
        "</experimentalConditions>\n"
        "<encoding>\n"
        f"<encodedSpace>{_format_space(geometry.encoded)}</encodedSpace>\n"
        f"<reconSpace>{_format_space(geometry.recon)}</reconSpace>\n"
        f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum>"
        f"<center>{(last + 1) // 2}</center></kspace_encoding_step_1></encodingLimits>\n"
        "<trajectory>cartesian</trajectory>\n"
        "</encoding>\n"
        "</ismrmrdHeader>\n"
    )


def read_space(encoding: ElementTree.Element, name: str, where: str) -> Space:
    """Read one space, `encodedSpace` or `reconSpace`, of an <encoding>.

    Raises:
        InputError: it is missing, or its sizes are none that a scan can have.
    """
    try:
        x, y, z = (int(_text(encoding, name, "matrixSize", axis)) for axis in _AXES)
        extents = tuple(float(_text(encoding, name, "fieldOfView_mm", axis)) for axis in _AXES)
        return Space(matrix_size=(x, y, z), field_of_view_mm=(extents[0], extents[1], extents[2]))
    except (InputError, ValueError) as error:
        raise InputError(f"{where}: <{name}>: {error}; repair or remove the header") from error


def _text(encoding: ElementTree.Element, *names: str) -> str:
    found = encoding.findtext("/".join(f"{NAMESPACE}{name}" for name in names))
    if found is None:
        raise InputError(f"no <{'/'.join(names[1:])}>")
    return found


def _format_space(space: Space) -> str:
    sizes = "".join(f"<{axis}>{size}</{axis}>" for axis, size in zip(_AXES, space.matrix_size, strict=True))
    extents = "".join(
        f"<{axis}>{extent:.10g}</{axis}>" for axis, extent in zip(_AXES, space.field_of_view_mm, strict=True)
    )
    return f"<matrixSize>{sizes}</matrixSize><fieldOfView_mm>{extents}</fieldOfView_mm>"
