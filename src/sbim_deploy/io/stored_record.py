"""Checks of dataclasses that were read from JSON: keys that are the fields, values of their types."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from sbim_deploy.errors import InputError

MAX_NUMBER = 2**53

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


def check_version(version: object, expected: int, way_out: str) -> None:
    """Raise InputError for a format version that this program does not know."""
    if version != expected:
        raise InputError(f"format_version is {version!r}, expected {expected}; {way_out}")


def as_mapping(where: str, stored: object) -> dict[str, Any]:
    """Return what is a JSON object; raise InputError for anything else."""
    if not isinstance(stored, dict):
        raise InputError(f"{where} is {type(stored).__name__}, expected an object")
    return stored


def check_keys(where: str, stored: dict[str, Any], kind: type[Any], way_out: str) -> None:
    """Raise InputError where the keys are not the fields of the dataclass ``kind``."""
    expected = {field.name for field in fields(kind)}
    missing, unknown = sorted(expected - stored.keys()), sorted(stored.keys() - expected)
    if missing or unknown:
        raise InputError(f"{where} lacks {missing} and has unknown {unknown}; {way_out}")


def check_plain_fields(record: Any) -> None:
    """Raise InputError where a field that is annotated as a plain type holds something else."""
    for field in fields(record):
        types = _PLAIN_TYPES.get(str(field.type))
        if types is None:
            continue
        value = getattr(record, field.name)
        if not isinstance(value, types) or isinstance(value, bool) != (bool in types):
            raise InputError(f"{field.name} is {value!r}, expected {field.type}")
        # Written so that NaN fails too, and integers too long to become a float.
        if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
            raise InputError(f"{field.name} is not a finite number up to {MAX_NUMBER}")


def check_sha256(name: str, value: str) -> None:
    """Raise InputError for a text that is no SHA-256."""
    if not _SHA256.fullmatch(value):
        raise InputError(f"{name} is {value[:80]!r}, expected 64 lower-case hexadecimal digits")
