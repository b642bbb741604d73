"""JSON objects from text that nobody vouches for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object; `where` names its place in the error message.

    Raises:
        InputError: the text is not UTF-8, not strict JSON (NaN is not) or not an object.
    """
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error}); write it anew or fetch it again") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: got a JSON {type(parsed).__name__}, expected an object")
    return parsed


def format_object(value: dict[str, Any], indent: int | None = None) -> str:
    """Write a JSON object that `parse_object` reads back.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is of a type that JSON lacks (NumPy scalars among them).
    """
    return json.dumps(value, indent=indent, allow_nan=False)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def read_object(path: Path, max_bytes: int, way_out: str) -> dict[str, Any]:
    """Read a file of at most ``max_bytes`` that holds one JSON object; ``way_out`` ends the messages.

    Raises:
        InputError: the file cannot be read, is longer, or is not such an object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if len(text) > max_bytes:
        raise InputError(f"{path}: is longer than {max_bytes} bytes, expected a short JSON file; {way_out}")
    return parse_object(text, str(path))
