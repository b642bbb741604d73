"""Sizes as options say them: of images, and of what an engine is built for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sbim_deploy.errors import InputError

if TYPE_CHECKING:
    from sbim_deploy.engines.tensorrt_builder import Range

SIZE, RANGE = "HxW|N", "MIN:OPT:MAX|N"


def parse_size(text: str) -> tuple[int, int]:
    """Return the rows and columns that ``--size HxW`` says; one number is both."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text, re.ASCII)
    if match is None:
        raise InputError(
            f"--size is {text!r}: expected rows x columns, such as 384x320, or a number for both"
        )
    return int(match[1]), int(match[2] or match[1])


def parse_side(text: str) -> int:
    """Return the rows, and columns, that ``--size N`` says of a square image."""
    rows, columns = parse_size(text)
    if rows != columns:
        raise InputError(f"--size is {text!r}: expected as many columns as rows here, such as {rows}")
    return rows


def parse_range(option: str, text: str) -> Range:
    """Return the least, best and greatest number that ``MIN:OPT:MAX`` says; one number is all three."""
    from sbim_deploy.engines.tensorrt_builder import Range

    if not re.fullmatch(r"\d{1,6}(:\d{1,6}:\d{1,6})?", text, re.ASCII):
        raise InputError(f"{option} is {text!r}: expected MIN:OPT:MAX, such as 1:4:8, or one number for all")
    numbers = [int(number) for number in text.split(":")]
    try:
        return Range(*(numbers if len(numbers) > 1 else 3 * numbers))
    except InputError as error:
        raise InputError(f"{option}: {error}") from None
