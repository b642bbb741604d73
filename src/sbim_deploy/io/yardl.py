"""yardl's binary streams from strangers, decoded by the schema that a stream begins with.

yardl (https://microsoft.github.io/yardl/reference/binary.html) writes no lengths of its records: what follows
where, the schema alone tells. So a stream of any release of a model can be read, by the names of the fields
that are wanted. Every count is compared with the bytes that are left before anything is made of it, what
nobody asks for is stepped over, and arrays are told by their place in the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.byte_source import Source
from sbim_deploy.io.documents import parse_object

MAGIC, NDJSON_START = b"yardl", b'{"yardl"'
VERSION = 1
MAX_TEXT_BYTES = 1024**2
MAX_SMALL_BYTES = 4096  # of an array of fixed size, which is read at once
MAX_DEPTH = 64
MAX_KINDS = 10_000
MAX_AXES = 32
MAX_SHOWN = 80


@dataclass(frozen=True)
class ArraySpan:
    """Where an array lies in the file; ``dtype`` is None where its numbers take no fixed number of bytes."""

    place: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None


Read = Callable[[Source, bool], Any]


@dataclass(frozen=True, eq=False)
class Kind:
    """A type of a schema.

    Attributes:
        read: reads a value; where the flag is false, steps over it. Records are dictionaries by the names of
            the schema, enumerations and flags are numbers, dates and times are days and nanoseconds, small
            arrays of fixed size are NumPy's, and others an :class:`ArraySpan`.
        least: the bytes that a value has at least.
        dtype: of a number of fixed size.
        is_varint: whether it is a number of no fixed size.
        cases: of a union: the name and the kind of each, None for a value that is missing.
    """

    read: Read
    least: int
    dtype: np.dtype[Any] | None = None
    is_varint: bool = False
    cases: tuple[tuple[str, Kind] | None, ...] = ()


class Schema:
    """The schema of a stream.

    Attributes:
        protocol: its name.
        steps: the types of the protocol's parts as the schema writes them, by name, in order.

    Raises:
        InputError: it is not one of yardl's; ``where`` names it.
    """

    def __init__(self, text: bytes, where: str) -> None:
        self._where = where
        written = parse_object(text, where)
        self._made: dict[tuple[Any, ...], Kind] = {}
        self._n_kinds = 0
        try:
            self.protocol = str(written["protocol"]["name"])
            self.steps = {str(step["name"]): step["type"] for step in written["protocol"]["sequence"]}
            self._types = {str(each["name"]): each for each in written["types"] or ()}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._not_understood(error) from error

    def kind(self, written: Any) -> Kind:
        """Return a type that the schema writes so.

        Raises:
            InputError: the schema is wrong, or has types that are read nowhere here.
        """
        try:
            return self._make(written, {}, 0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._not_understood(error) from error

    def items(self, step: str) -> Kind:
        """Return the type of the items of a step that is a stream.

        Raises:
            InputError: there is no such step, or it is none.
        """
        try:
            return self.kind(self.steps[step]["stream"]["items"])
        except (KeyError, TypeError) as error:
            raise self._not_understood(error) from error

    def symbols(self, name: str) -> Mapping[int, str]:
        """Return the names of the values of an enumeration; none where there is no such type."""
        try:
            values = self._types[name]["values"] if name in self._types else ()
            return {int(each["value"]): str(each["symbol"]) for each in values}
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_understood(error) from error

    def _not_understood(self, error: Exception) -> InputError:
        reason = one_line(f"{type(error).__name__} {error}")
        return InputError(
            f"{self._where}: is not understood ({reason}); expected a schema of yardl's binary format 1"
        )

    def _make(self, written: Any, given: Mapping[str, Kind], depth: int) -> Kind:
        """Return a type; ``given`` are those that stand for the parameters of the type around it."""
        self._n_kinds += 1
        if depth > MAX_DEPTH or self._n_kinds > MAX_KINDS:
            raise ValueError("types within types without an end")
        if isinstance(written, str):
            return given.get(written) or _PRIMITIVES.get(written) or self._named(written, (), depth)
        if isinstance(written, list):
            return self._union(written, given, depth)
        if "name" in written:
            arguments = tuple(self._make(each, given, depth + 1) for each in written["typeArguments"])
            return self._named(written["name"], arguments, depth)
        ((what, inner),) = written.items()
        if what == "map":
            keys, values = (self._make(inner[each], given, depth + 1) for each in ("keys", "values"))
            return _map(keys, values)
        item = self._make(inner["items"], given, depth + 1)
        if what == "vector":
            return _vector(item, inner.get("length"))
        if what == "array":
            return _array(item, inner.get("dimensions"))
        raise ValueError(f"{what} within a step")

    def _named(self, name: str, arguments: tuple[Kind, ...], depth: int) -> Kind:
        key = (name, *arguments)
        if key not in self._made:
            found = self._types[name.rpartition(".")[2]]
            given = dict(zip(found.get("typeParameters") or (), arguments, strict=True))
            if "fields" in found:
                fields = {
                    str(each["name"]): self._make(each["type"], given, depth + 1) for each in found["fields"]
                }
                self._made[key] = _record(fields)
            elif "values" in found:
                self._made[key] = self._make(found.get("base") or "int32", {}, depth + 1)
            else:
                self._made[key] = self._make(found["type"], given, depth + 1)
        return self._made[key]

    def _union(self, written: list[Any], given: Mapping[str, Kind], depth: int) -> Kind:
        cases: list[tuple[str, Kind] | None] = []
        for each in written:
            if each is None:
                cases.append(None)
                continue
            is_tagged = isinstance(each, dict) and "tag" in each
            inner = each["type"] if is_tagged else each
            name = str(each["tag"] if is_tagged else each)
            cases.append((name, self._make(inner, given, depth + 1)))
        return _union(tuple(cases))


def one_line(text: str) -> str:
    """Return the beginning of what a stranger wrote, in one line."""
    return " ".join(text.split())[:MAX_SHOWN]


def is_yardl(path: Path) -> bool:
    """Tell by its first bytes whether a file is a stream of yardl's, binary or as text (NDJSON)."""
    try:
        with path.open("rb") as file:
            return file.read(len(NDJSON_START)).startswith((MAGIC, NDJSON_START))
    except (OSError, ValueError):
        return False


def read_schema(source: Source, where: str) -> Schema:
    """Read what a stream begins with.

    Raises:
        InputError: it is no stream of yardl's, of another version, or its schema is not understood.
    """
    start = source.take(min(source.left, len(MAGIC)))
    if start != MAGIC:
        raise InputError(f"{where}: begins with {start!r}, expected {MAGIC!r}, a binary stream of yardl's")
    (version,) = struct.unpack("<i", source.take(4))
    if version != VERSION:
        raise InputError(
            f"{where}: is of version {version} of yardl's binary format, expected {VERSION}; convert it"
        )
    return Schema(_read_bytes(source), f"{where}: the schema")


def _read_bytes(source: Source) -> bytes:
    n_bytes = source.count(1, "bytes of text")
    if n_bytes > MAX_TEXT_BYTES:
        raise source.fault(f"a text has {n_bytes} bytes, expected at most {MAX_TEXT_BYTES}")
    return source.take(n_bytes)


def _read_text(source: Source, keep: bool) -> str | None:
    if not keep:
        source.skip(source.count(1, "bytes of text"))
        return None
    try:
        return _read_bytes(source).decode("utf-8")
    except UnicodeDecodeError as error:
        raise source.fault(f"a text is not UTF-8 ({error.reason})") from error


def _read_bool(source: Source, _keep: bool) -> bool:
    value = source.byte()
    if value > 1:
        raise source.fault(f"a byte is {value}, expected 0 or 1")
    return bool(value)


def _unsigned(bits: int) -> Kind:
    def read(source: Source, _keep: bool) -> int:
        value = source.varint()
        if value >> bits:
            raise source.fault(f"a number is {value}, expected {bits} bits")
        return value

    return Kind(read, 1, is_varint=True)


def _signed(bits: int) -> Kind:
    def read(source: Source, _keep: bool) -> int:
        zigzag = source.varint()
        if zigzag >> bits:
            raise source.fault(f"a number does not fit {bits} bits")
        return zigzag >> 1 ^ -(zigzag & 1)

    return Kind(read, 1, is_varint=True)


def _fixed(code: str) -> Kind:
    dtype = np.dtype(code)
    layout = struct.Struct({"<c8": "<ff", "<c16": "<dd"}.get(code, "<" + dtype.char))
    size = layout.size

    def read(source: Source, _keep: bool) -> Any:
        parts = layout.unpack(source.take(size))
        return parts[0] if len(parts) == 1 else complex(*parts)

    return Kind(read, size, dtype)


_PRIMITIVES = {
    "bool": Kind(_read_bool, 1, np.dtype(np.bool_)),
    "int8": _fixed("<i1"),
    "uint8": _fixed("<u1"),
    "float32": _fixed("<f4"),
    "float64": _fixed("<f8"),
    "complexfloat32": _fixed("<c8"),
    "complexfloat64": _fixed("<c16"),
    "string": Kind(_read_text, 1),
    "size": _unsigned(64),
    **{f"uint{bits}": _unsigned(bits) for bits in (16, 32, 64)},
    **{f"int{bits}": _signed(bits) for bits in (16, 32, 64)},
    **dict.fromkeys(("date", "time", "datetime"), _signed(64)),
}


def _record(fields: Mapping[str, Kind]) -> Kind:
    if not fields:
        raise ValueError("a record without fields")
    parts = [(name, kind.read) for name, kind in fields.items()]

    def read(source: Source, keep: bool) -> dict[str, Any] | None:
        if keep:
            return {name: read_part(source, True) for name, read_part in parts}
        for _, read_part in parts:
            read_part(source, False)
        return None

    return Kind(read, sum(kind.least for kind in fields.values()))


def _union(cases: tuple[tuple[str, Kind] | None, ...]) -> Kind:
    def read(source: Source, keep: bool) -> Any:
        index = source.byte()
        if index >= len(cases):
            raise source.fault(f"a byte is {index}, expected less than {len(cases)}")
        case = cases[index]
        return None if case is None else case[1].read(source, keep)

    return Kind(read, 1, cases=cases)


def _vector(item: Kind, length: int | None) -> Kind:
    _check_lengths([length])
    read_item, least = item.read, item.least

    def read(source: Source, keep: bool) -> list[Any] | None:
        n_items = source.varint() if length is None else length
        source.check_left(n_items, least, "items")
        if keep:
            return [read_item(source, True) for _ in range(n_items)]
        for _ in range(n_items):
            read_item(source, False)
        return None

    return Kind(read, 1 if length is None else length * least)


def _map(keys: Kind, values: Kind) -> Kind:
    def read(source: Source, keep: bool) -> dict[Any, Any] | None:
        n_items = source.count(keys.least + values.least, "entries")
        if keep:
            return {keys.read(source, True): values.read(source, True) for _ in range(n_items)}
        for _ in range(n_items):
            keys.read(source, False)
            values.read(source, False)
        return None

    return Kind(read, 1)


def _array(item: Kind, dimensions: Any) -> Kind:
    lengths: list[int | None] = [None] * min(dimensions, MAX_AXES + 1) if isinstance(dimensions, int) else []
    if isinstance(dimensions, list):
        lengths = [(each or {}).get("length") for each in dimensions]
    _check_lengths(lengths)
    n_axes = None if dimensions is None else len(lengths)
    known = tuple(each for each in lengths if each is not None)
    fixed = known if known and len(known) == len(lengths) else None

    def read(source: Source, keep: bool) -> Any:
        shape = fixed or _read_shape(source, n_axes)
        n_items = math.prod(shape)
        source.check_left(n_items, item.least, f"numbers of an array {shape}")
        place = source.place
        if item.dtype is None:
            _step_over(item, source, n_items)
        elif keep and fixed and n_items * item.least <= MAX_SMALL_BYTES:
            return np.frombuffer(source.take(n_items * item.least), item.dtype).reshape(shape)
        else:
            source.skip(n_items * item.least)
        return ArraySpan(place, shape, item.dtype) if keep else None

    return Kind(read, math.prod(fixed) * item.least if fixed else n_axes or 1)


def _read_shape(source: Source, n_axes: int | None) -> tuple[int, ...]:
    """Read the lengths of the axes; None is as many as the stream says."""
    if n_axes is None:
        n_axes = source.varint()
        if n_axes > MAX_AXES:
            raise source.fault(f"an array of {n_axes} axes, expected at most {MAX_AXES}")
    return tuple(source.varint() for _ in range(n_axes))


def _check_lengths(lengths: list[Any]) -> None:
    """Refuse lengths that would let a value take no bytes: the time to read it would have no bound."""
    if len(lengths) > MAX_AXES or not all(
        each is None or (isinstance(each, int) and each >= 1) for each in lengths
    ):
        raise ValueError(f"lengths {str(lengths)[:80]}")


def _step_over(item: Kind, source: Source, n_items: int) -> None:
    if item.is_varint:
        source.skip_varints(n_items)
        return
    for _ in range(n_items):
        item.read(source, False)
