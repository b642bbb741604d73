"""JSON and YAML that nobody vouches for, and the records that are made of them.

A record is a dataclass; or a TypedDict, beside whose keys unknown ones may stand, and whose Required ones are
marked. Its annotations say what is taken, msgspec compares, and :func:`convert` names the faults with their
places.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec
from msgspec import Meta

from sbim_deploy.errors import BackendMissingError, InputError, install_command

MAX_BYTES = 1 << 20
MAX_YAML_BYTES = 1 << 17  # PyYAML reads a tenth of a megabyte in a second
MAX_NUMBER = 2**53
MAX_VALUES = 100_000  # of a YAML whose aliases are written out
_OF_TAGS = (
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
)  # of YAML's tags on what is none of theirs
MIN_POSITIVE = 1e-16  # what is squared and divided by must not vanish
MAX_FAULTS = 3
MAX_NAMES = 20
MAX_NAME_SHOWN = 40
ESCAPED_SURROGATE = "\\ud"


def whole(least: int, most: int = MAX_NUMBER) -> Meta:
    """Return the bounds of integers, with the words for them."""
    bounds = f"of at least {least}" if most == MAX_NUMBER else f"from {least} to {most}"
    return Meta(ge=least, le=most, extra={"expected": f"a whole number {bounds}"})


def real(low: float, high: float) -> Meta:
    """Return the bounds of numbers, with the words for them; they refuse NaN too."""
    return Meta(ge=low, le=high, extra={"expected": f"a number from {low:g} to {high:g}"})


def one_of(*names: str) -> Meta:
    """Return the texts that are taken, with the words for them."""
    return Meta(pattern=rf"^({'|'.join(names)})\Z", extra={"expected": f"one of {', '.join(names)}"})


Count = Annotated[int, whole(1)]
Natural = Annotated[int, whole(0)]
# Bounds refuse NaN and infinities too.
Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER, extra={"expected": "a finite number"})]
Positive = Annotated[
    float,
    Meta(
        ge=MIN_POSITIVE,
        le=MAX_NUMBER,
        extra={"expected": f"a finite number above 0, {MIN_POSITIVE:g} at least"},
    ),
]
NonNegative = Annotated[float, Meta(ge=0, le=MAX_NUMBER, extra={"expected": "a finite number of at least 0"})]
Sha256 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}\Z", extra={"expected": "64 lower-case hexadecimal digits"})
]

# Text that is printed on one line: no control characters, no line ends of Unicode, no halves of characters.
Line = Annotated[
    str,
    Meta(
        pattern="^[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{0,1000}\\Z",
        extra={"expected": "one line of text, of at most 1000 letters"},
    ),
]

T = TypeVar("T")
Named = TypeVar("Named", bound=StrEnum)


def parse_object(
    text: str | bytes, where: str, way_out: str = "write it anew or fetch it again"
) -> dict[str, Any]:
    """Parse one JSON object; ``where`` names its place in the error message, which ``way_out`` ends.

    Raises:
        InputError: the text is not UTF-8, not strict JSON (NaN is not) or not an object, or a string in it
            is no text (half a surrogate pair).
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        text.encode()
        parsed = json.loads(text, parse_constant=_refuse_constant)
        if ESCAPED_SURROGATE in text.lower():
            # Alone it is no character, and cannot be printed.
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({_one_line(error)}); {way_out}") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: got a JSON {type(parsed).__name__}, expected an object")
    return parsed


def _one_line(error: BaseException) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "a string holds half a surrogate pair"
    return " ".join(str(error).split())


def format_object(value: dict[str, Any], indent: int | None = None) -> str:
    """Write a JSON object that :func:`parse_object` reads back.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is of a type that JSON lacks (NumPy scalars among them).
    """
    return json.dumps(value, indent=indent, allow_nan=False)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def read_object(path: Path, way_out: str) -> dict[str, Any]:
    """Read a file of at most 1 MiB that holds one JSON object; ``way_out`` ends the messages.

    Raises:
        InputError: the file cannot be read, is longer, or is not such an object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if len(text) > MAX_BYTES:
        raise InputError(f"{path}: is longer than {MAX_BYTES} bytes, expected a short JSON file; {way_out}")
    return parse_object(text, str(path))


def read_yaml(path: Path, extra: str) -> dict[str, Any]:
    """Read a YAML file of at most 128 KiB whose document is a mapping with text keys.

    Args:
        path: the file.
        extra: the extra of this package that installs PyYAML, for the message where it is missing.

    Raises:
        BackendMissingError: PyYAML is not installed.
        InputError: the file is missing, too large, no YAML, or no mapping.
    """
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise BackendMissingError(
            f"{path}: reading it needs PyYAML, which is not installed: {install_command(extra)}"
        ) from error
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise InputError(f"{path}: larger than {MAX_YAML_BYTES} bytes, expected a short YAML file")
        document = _read_node(_loader(yaml)(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError, *_OF_TAGS) as error:
        raise InputError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(f"{path}: got {type(document).__name__}, expected a mapping of names to values")
    return document


def _loader(yaml: Any) -> Any:
    """Return PyYAML's safe loader, for which 1e-4 is a number as in YAML 1.2, and not a text."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", number, "-+0123456789")  # type: ignore[attr-defined]
    # What Python programs write of their settings is read as plain values, and no object is made of it.
    for tag, read in (("object:argparse.Namespace", _mapping), ("object/apply:torch.device", _sequence)):
        loader.add_constructor(f"tag:yaml.org,2002:python/{tag}", read)  # type: ignore[attr-defined]
    return loader


def _read_node(loader: Any) -> Any:
    """Return the document of a loader, once it is known to be of a bounded size."""
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > MAX_VALUES:
            raise ValueError(f"its aliases stand for more than {MAX_VALUES} values, write them out")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _written_out(node: Any, known: dict[int, float]) -> float:
    """Return how many values a node of YAML is with its aliases written out."""
    if id(node) not in known:
        known[id(node)] = math.inf  # what it meets of itself within itself has no end
        parts = node.value if isinstance(node.value, list) else ()
        each = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in each)
    return known[id(node)]


def _mapping(loader: Any, node: Any) -> Any:
    return loader.construct_mapping(node, deep=True)


def _sequence(loader: Any, node: Any) -> Any:
    return loader.construct_sequence(node, deep=True)


def check_version(document: Mapping[str, Any], expected: int, where: str, way_out: str) -> None:
    """Raise InputError where ``format_version`` is not ``expected``: other keys may differ as well then."""
    version = document.get("format_version")
    if version != expected:
        raise InputError(f"{where}: format_version is {_shown(version)}, expected {expected}; {way_out}")


def convert(value: object, kind: type[T], where: str, way_out: str) -> T:
    """Return the record of a kind that a document holds; nothing is taken for what it is not.

    Args:
        value: what JSON or YAML held.
        kind: a dataclass, or a TypedDict, whose unknown keys are left out.
        where: the file, for the message.
        way_out: the end of the message.

    Raises:
        InputError: the value is no such record; the message names the first faults with their places.
    """
    faults = [*islice(_faults(value, kind, ""), MAX_FAULTS)]
    if faults:
        raise InputError(f"{where}: {'; '.join(faults)}; {way_out}")
    return msgspec.convert(value, kind, dec_hook=_path)


def _path(kind: type[Any], value: object) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise msgspec.ValidationError("Expected `str`")
    return Path(value)


def _faults(value: object, kind: Any, place: str) -> Iterator[str]:
    """Tell what is wrong with a value, its parts before the whole."""
    kind = _plain(kind, value)
    n_faults = 0
    for part, part_kind, part_place in _parts(value, kind, place):
        for fault in _faults(part, part_kind, part_place):
            yield fault
            n_faults += 1
    for fault in _wrong_names(value, kind, place):
        yield fault
        n_faults += 1
    if n_faults:
        return
    try:
        msgspec.convert(value, kind, dec_hook=_path)
    except (msgspec.ValidationError, InputError) as error:
        expected = _expected(kind, str(error))
        if expected is None:
            yield f"{place}: {error}" if place else str(error)
        else:
            yield f"{place + ' is' if place else 'got'} {_shown(value)}, expected {expected}"


def _parts(value: object, kind: Any, place: str) -> Iterator[tuple[object, Any, str]]:
    """Walk the parts of a value with their kinds and their places."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    arguments = get_args(kind)
    if isinstance(value, dict) and _is_record(kind):
        for name, part_kind in get_type_hints(kind, include_extras=True).items():
            if name in value:
                yield value[name], part_kind, f"{place}.{name}" if place else name
    elif isinstance(value, dict) and len(arguments) == 2:
        for key, part in value.items():
            yield key, arguments[0], f"a name in {place}"
            yield part, arguments[1], f"{place}[{_shown(key)}]"
    elif isinstance(value, list | tuple) and arguments and get_origin(kind) is not Literal:
        for position, part in enumerate(value):
            yield part, arguments[0], f"{place}[{position}]"


def _wrong_names(value: object, kind: Any, place: str) -> Iterator[str]:
    if not (isinstance(value, dict) and _is_record(kind)):
        return
    before = f"{place}: " if place else ""
    known = [*get_type_hints(kind)]
    if is_dataclass(kind):
        unknown = [_shown(name) for name in value if name not in known]
        if unknown:
            yield f"{before}unknown key {', '.join(unknown[:MAX_NAMES])}, expected some of {', '.join(known)}"
    missing = [name for name in known if name in _required(kind) and name not in value]
    if missing:
        yield f"{before}lacks {', '.join(missing)}"


def _required(kind: Any) -> frozenset[str]:
    if is_typeddict(kind):
        # From the hints: __required_keys__ does not see through annotations that are texts.
        hints = get_type_hints(kind, include_extras=True)
        return frozenset(name for name, hint in hints.items() if get_origin(hint) is Required)
    return frozenset(
        each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING
    )


def _is_record(kind: Any) -> bool:
    return is_dataclass(kind) or is_typeddict(kind)


def _plain(kind: Any, value: object) -> Any:
    """Return a kind without what TypedDict wraps it in, and without the None that the value is not."""
    if get_origin(kind) in (Required, NotRequired):
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType) and value is not None:
        others = [each for each in get_args(kind) if each is not NoneType]
        return others[0] if len(others) == 1 else kind
    return kind


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def _expected(kind: Any, error: str) -> str | None:
    """Say what a kind takes, in the words of its annotation or else of msgspec; None for another fault."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.extra:
            words: str = meta.extra["expected"]
            return words
    if get_origin(kind) is Literal:
        return " or ".join("null" if each is None else repr(each) for each in get_args(kind))
    if not error.startswith("Expected "):
        return None
    expected = error.removeprefix("Expected ").partition(", got ")[0].replace(" | ", "` or `")
    return re.sub("`(.*?)`", lambda found: _WORDS.get(found[1], found[1]), expected)


_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 2, 60, 60, 40


def _shown(value: object) -> str:
    # A short YAML can hold a list that is endless when it is written out.
    return _short.repr(value)


def find_named(kind: type[Named], text: str, what: str) -> Named:
    """Return the member of an enumeration that a name stands for; ``what`` it is the error says.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(kind)
        raise InputError(f"unknown {what} {text[:MAX_NAME_SHOWN]!r}: expected one of {known}") from None
