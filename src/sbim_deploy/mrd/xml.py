"""XML that is not trusted, and the texts and numbers of its elements.

Its length is capped and declarations are refused; elements that nobody asks for are not looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from sbim_deploy.errors import InputError

MAX_HEADER_BYTES = 1024**2
MAX_SHOWN = 40
NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"


def parse_root(written: bytes, where: str) -> ElementTree.Element:
    """Read an XML text that is not trusted; ``where`` names it in error messages.

    Raises:
        InputError: the text is longer than 1 MiB, not well-formed XML, or declares a document type or an
            entity.
    """
    if len(written) > MAX_HEADER_BYTES:
        raise InputError(f"{where}: is {len(written)} bytes, expected at most {MAX_HEADER_BYTES}")
    # In UTF-16 the declarations would slip past a search for their ASCII bytes.
    if b"\0" in written or re.search(rb"<!\s*(DOCTYPE|ENTITY)", written, re.IGNORECASE):
        raise InputError(f"{where}: holds a DOCTYPE, an ENTITY or a null byte, expected plain ISMRMRD XML")
    try:
        return ElementTree.fromstring(written)  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{where}: is not well-formed XML ({error}); repair or remove it") from error


def choice(element: ElementTree.Element, known: tuple[str, ...], *names: str) -> str | None:
    """Return an element's text as it stands in ``known``, whichever its capitals, or None without one.

    Raises:
        ValueError: it is something else.
    """
    chosen = text(element, *names)
    chosen = next((name for name in known if chosen is not None and name == chosen.lower()), chosen)
    if chosen is not None and chosen not in known:
        raise ValueError(f"<{names[-1]}> is {chosen[:MAX_SHOWN]!r}, expected one of {', '.join(known)}")
    return chosen


def integer(element: ElementTree.Element, *names: str) -> int | None:
    """Return an element's whole number, or None without one.

    Raises:
        ValueError: it is something else.
    """
    found = text(element, *names)
    if found is None:
        return None
    try:
        return int(found)
    except ValueError as error:
        raise ValueError(f"<{_shown(names)}> is {found[:MAX_SHOWN]!r}, expected a whole number") from error


def number(element: ElementTree.Element, *names: str) -> float | None:
    """Return an element's finite number, or None without one.

    Raises:
        ValueError: it is something else.
    """
    found = text(element, *names)
    return None if found is None else _parse_number(found, _shown(names))


def numbers(element: ElementTree.Element, *names: str) -> tuple[float, ...]:
    """Return the finite numbers of all elements of a name.

    Raises:
        ValueError: it is something else.
    """
    found = [(each.text or "").strip() for each in element.iterfind(path(*names))]
    return tuple(_parse_number(each, _shown(names)) for each in found if each)


def _parse_number(written: str, name: str) -> float:
    try:
        value = float(written)
    except ValueError as error:
        raise ValueError(f"<{name}> is {written[:MAX_SHOWN]!r}, expected a number") from error
    if not math.isfinite(value):
        raise ValueError(f"<{name}> is {written[:MAX_SHOWN]}, expected a finite number")
    return value


def text(element: ElementTree.Element, *names: str) -> str | None:
    """Return an element's text without blanks around it, or None where there is none."""
    return (element.findtext(path(*names)) or "").strip() or None


def _shown(names: Sequence[str]) -> str:
    return "/".join(names[-2:])


def path(*names: str) -> str:
    """Return where an element lies, as ElementTree searches for it in the ISMRMRD namespace."""
    return "/".join(f"{NAMESPACE}{name}" for name in names)
