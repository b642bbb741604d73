"""Texts of strangers as DICOM's value representations take them (PS3.5, section 6.2)."""

from __future__ import annotations

import re
from datetime import date, time

SHORT, LONG = 16, 64  # characters of SH and CS, and of LO and a part of PN
SEXES = ("M", "F", "O")

_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_TIME = re.compile(r"(\d\d):?(\d\d):?(\d\d)(\.\d{1,6})?\d*(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+", re.ASCII)
_MAX_UID = 64
_NAME_GROUPS, _NAME_PARTS = 3, 5


def as_text(text: str | None, length: int) -> str:
    """Return one line of at most ``length`` characters without DICOM's separator, the backslash."""
    printable = "".join(each if each.isprintable() and each != "\\" else " " for each in text or "")
    return " ".join(printable.split())[: max(length, 0)].strip()


def as_same_text(text: str | None, length: int) -> str:
    """Return a text that DICOM takes as it stands, and nothing for any other."""
    return text if text and len(text) <= length and _is_plain(text) else ""


def as_name(text: str | None) -> str:
    """Return a person's name where it is one as it stands, and else nothing."""
    groups = (text or "").split("=")
    sound = all(
        len(group) <= LONG and len(group.split("^")) <= _NAME_PARTS and _is_plain(group) for group in groups
    )
    return text if text and sound and len(groups) <= _NAME_GROUPS else ""


def as_date(text: str | None) -> str:
    """Return YYYYMMDD of an XML date, and nothing for a day that is none."""
    found = _DATE.fullmatch(text or "")
    if not found:
        return ""
    try:
        date(*map(int, found.groups()))
    except ValueError:
        return ""
    return "".join(found.groups())


def as_time(text: str | None) -> str:
    """Return HHMMSS.FFFFFF of an XML time, and nothing for an hour that is none."""
    found = _TIME.fullmatch(text or "")
    if not found:
        return ""
    try:
        hour, minute, second = map(int, found.groups()[:3])
        time(hour, minute, second)
    except ValueError:
        return ""
    return "".join(part or "" for part in found.groups())


def as_uid(text: str | None) -> str:
    """Return a unique identifier that is one."""
    return text if text and len(text) <= _MAX_UID and _UID.fullmatch(text) else ""


def as_sex(text: str | None) -> str:
    """Return M, F or O, and nothing for any other word."""
    return text if text in SEXES else ""


def _is_plain(text: str) -> bool:
    return text.isprintable() and "\\" not in text and text == text.strip()
