"""Texts of a scan header as DICOM's value representations allow them (PS3.5 6.2); what does not fit goes."""

from __future__ import annotations

import re

_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:Z|[+-]\d\d:\d\d)?")
_TIME = re.compile(r"(\d\d):?(\d\d):?(\d\d)(\.\d{1,6})?\d*(?:Z|[+-]\d\d:\d\d)?")
_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
_MAX_UID = 64


def as_text(text: str | None, length: int) -> str:
    """Return one line of at most ``length`` characters without DICOM's separator, the backslash."""
    printable = "".join(each if each.isprintable() and each != "\\" else " " for each in text or "")
    return " ".join(printable.split())[: max(length, 0)].strip()


def as_date(text: str | None) -> str:
    """Return YYYYMMDD of an XML date."""
    found = _DATE.fullmatch(text or "")
    return "".join(found.groups()) if found else ""


def as_time(text: str | None) -> str:
    """Return HHMMSS.FFFFFF of an XML time."""
    found = _TIME.fullmatch(text or "")
    return "".join(part or "" for part in found.groups()) if found else ""


def as_uid(text: str | None) -> str:
    """Return a unique identifier that is one."""
    return text if text and len(text) <= _MAX_UID and _UID.fullmatch(text) else ""
