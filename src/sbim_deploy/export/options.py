"""The options of a JSON config that nobody vouches for, each with what it may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.io.json_object import read_object

MAX_CONFIG_BYTES = 1 << 20
MAX_LIST = 8


@dataclass(frozen=True)
class Option:
    """Which values are taken, and the words for them in an error."""

    takes: Callable[[Any], bool]
    expected: str


def one_of(*values: str | int | bool | None) -> Option:
    """Take any of the values, of their types: 1 is not True."""
    return Option(
        lambda got: any(type(got) is type(value) and got == value for value in values),
        " or ".join(map(repr, values)),
    )


def whole(low: int, high: int, or_none: bool = False) -> Option:
    """Take integers from ``low`` to ``high``."""
    return Option(
        lambda got: (or_none and got is None) or (type(got) is int and low <= got <= high),
        f"a whole number from {low} to {high}{' or null' if or_none else ''}",
    )


def real(low: float, high: float) -> Option:
    """Take numbers from ``low`` to ``high``."""
    return Option(
        lambda got: type(got) in (int, float) and low <= got <= high, f"a number from {low:g} to {high:g}"
    )


def list_of(option: Option) -> Option:
    """Take short lists of what ``option`` takes."""
    return Option(
        lambda got: isinstance(got, list) and 1 <= len(got) <= MAX_LIST and all(map(option.takes, got)),
        f"a list of 1 to {MAX_LIST} times {option.expected}",
    )


boolean = one_of(True, False)


def read_options(
    path: Path, required: Mapping[str, Option], optional: Mapping[str, Option]
) -> dict[str, Any]:
    """Read a JSON object and check the options that are named; others are left as they are.

    Raises:
        InputError: the file cannot be read, lacks options (all of them are named), or one has another value.
    """
    options = read_object(path, MAX_CONFIG_BYTES, "check the folder")
    missing = [name for name in required if name not in options]
    if missing:
        raise InputError(f"{path}: the config lacks {', '.join(missing)}")
    for name, option in {**required, **optional}.items():
        if name in options and not option.takes(options[name]):
            raise InputError(f"{path}: {name} is {_shown(options[name])}, expected {option.expected}")
    return options


def _shown(value: object) -> str:
    return repr(value)[:80]
