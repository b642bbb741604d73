"""The header of MRD version 2 as the XML of version 1.

The two have the same elements; a few names differ, version 2 has enumerations for some texts, and days and
nanoseconds for dates and times. Waveforms' parameters and the description of a trajectory are left out.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np

from sbim_deploy.io.yardl import ArraySpan, Schema

_NAMES = {
    "patientWeightKg": "patientWeight_kg",
    "patientHeightM": "patientHeight_m",
    "fieldOfViewMm": "fieldOfView_mm",
    "systemFieldStrengthT": "systemFieldStrength_T",
    "h1resonanceFrequencyHz": "H1resonanceFrequency_Hz",
    "kspaceEncodingStep0": "kspace_encoding_step_0",
    "kspaceEncodingStep1": "kspace_encoding_step_1",
    "kspaceEncodingStep2": "kspace_encoding_step_2",
    "tR": "TR",
    "tE": "TE",
    "tI": "TI",
    "flipAngleDeg": "flipAngle_deg",
}
_LEFT_OUT = ("waveformInformation", "trajectoryDescription")
_ENUMERATIONS = {
    "patientGender": "PatientGender",
    "patientPosition": "PatientPosition",
    "trajectory": "Trajectory",
    "calibrationMode": "CalibrationMode",
}
_CAPITALS = ("patientGender", "patientPosition")
_DATES, _TIMES = ("patientBirthdate", "studyDate", "seriesDate"), ("studyTime", "seriesTime")
_NO_ACCELERATION = "noacceleration"  # which version 1 says by saying nothing
_EPOCH = datetime.date(1970, 1, 1).toordinal()


def header_xml(record: Mapping[str, Any], schema: Schema) -> bytes:
    """Write the XML of a header.

    Args:
        record: the header as :mod:`sbim_deploy.io.yardl` reads it.
        schema: that of its stream.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: the record is none of a header.
    """
    root = ElementTree.Element("ismrmrdHeader", xmlns="http://www.ismrm.org/ISMRMRD")
    symbols = {name: schema.symbols(kind) for name, kind in _ENUMERATIONS.items()}
    _add_fields(root, record, symbols)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8")
    return xml


def _add_fields(
    parent: ElementTree.Element, record: Mapping[str, Any], symbols: Mapping[str, Mapping[int, str]]
) -> None:
    for name, value in record.items():
        if name in _LEFT_OUT or value is None or isinstance(value, ArraySpan):
            continue
        if name == "reconSpace" and not any(value["matrixSize"].values()):
            continue  # of a writer that did not set it
        for each in value if isinstance(value, list) else [value]:
            text = "" if isinstance(each, Mapping) else _text(name, each, symbols)
            if text is None:
                continue
            element = ElementTree.SubElement(parent, _NAMES.get(name, name))
            if isinstance(each, Mapping):
                _add_fields(element, each, symbols)
            else:
                element.text = text


def _text(name: str, value: Any, symbols: Mapping[str, Mapping[int, str]]) -> str | None:
    if name in symbols:
        symbol = symbols[name].get(value, str(value))
        return None if symbol == _NO_ACCELERATION else symbol.upper() if name in _CAPITALS else symbol
    if name in _DATES:
        return datetime.date.fromordinal(value + _EPOCH).isoformat()
    if name in _TIMES:
        return (datetime.datetime.min + datetime.timedelta(microseconds=value // 1000)).time().isoformat()
    if isinstance(value, float) and float(np.float32(value)) == value:
        return str(np.float32(value))  # the shortest that means it
    return "".join(letter for letter in str(value) if letter.isprintable())
