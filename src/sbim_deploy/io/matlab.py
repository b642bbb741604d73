"""MATLAB's files of version 5 (``save -v6`` and ``-v7``), read by their published layout and by nothing else.

A file is a header of 128 bytes and a row of elements, each a tag with its type and its number of bytes; an
element of type 14 is an array, one of type 15 an array that zlib compressed. Only arrays of numbers are
read. What a file claims is compared with what it holds before memory is taken for it. The layout is that of
*MAT-File Format*, The MathWorks, chapter 1, "MAT-File Level 5".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import MAX_SLICE_BYTES

MAGIC = b"MATLAB 5.0 MAT-file"
MAX_VARIABLES = 1000
MAX_AXES = 32
MAX_NAME_BYTES = 1024

_HEADER_BYTES, _TAG_BYTES, _SMALL_BYTES = 128, 8, 4
_MATRIX, _COMPRESSED = 14, 15
_DTYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1"},  # 16: UTF-8, of names
}
_NUMBERS = range(6, 16)  # the classes of arrays of numbers: double, single and integers
_COMPLEX_FLAG = 0x08
_PIECE_BYTES = 1024**2

_Read = Callable[[int], bytes]


class _DamagedError(Exception):
    """What is wrong with a file, in words."""


@dataclass(frozen=True)
class MatVariable:
    """An array of numbers in a file: its name, its size in MATLAB, and where it stands."""

    name: str
    shape: tuple[int, ...]
    is_complex: bool
    place: int
    n_bytes: int
    is_compressed: bool


@dataclass(frozen=True)
class _File:
    """An open file; ``order`` is NumPy's sign for its byte order."""

    stream: BinaryIO
    order: str
    n_bytes: int

    def element(self, place: int, n_bytes: int, is_compressed: bool) -> _Read:
        """Return what reads so many bytes on in an element's content, decompressed."""
        self.stream.seek(place)
        if not is_compressed:
            return _plain_reader(self.stream, n_bytes)
        read = _inflating_reader(self.stream, n_bytes)
        kind, _ = struct.unpack(f"{self.order}II", read(_TAG_BYTES))
        if kind != _MATRIX:
            raise _DamagedError(f"a compressed element has type {kind}, expected {_MATRIX}")
        return read

    def numbers(self, read: _Read, limit: int, padded: bool = True) -> NDArray[Any]:
        """Read the numbers of the next part of an element, at most ``limit`` bytes of them."""
        tag = read(_TAG_BYTES)
        kind, n_bytes = struct.unpack(f"{self.order}II", tag)
        if kind >> 16:  # few bytes stand in the tag itself
            kind, n_bytes = kind & 0xFFFF, kind >> 16
            if n_bytes > _SMALL_BYTES:
                raise _DamagedError(f"a tag claims to hold {n_bytes} bytes")
            data = tag[_SMALL_BYTES : _SMALL_BYTES + n_bytes]
        elif n_bytes > limit:
            raise _DamagedError(f"a part has {n_bytes} bytes, expected at most {limit}")
        else:
            data = read(n_bytes)
            if padded:
                read(-n_bytes % _TAG_BYTES)
        if kind not in _DTYPES:
            raise _DamagedError(f"numbers have type {kind}")
        dtype = np.dtype(self.order + _DTYPES[kind])
        if n_bytes % dtype.itemsize:
            raise _DamagedError(f"numbers of {dtype.itemsize} bytes take {n_bytes}")
        return np.frombuffer(data, dtype)

    def head(self, read: _Read) -> tuple[str, tuple[int, ...], bool] | None:
        """Read the name, the size and whether it is complex of an array; None where it holds no numbers."""
        flags = self.numbers(read, 2 * 4)
        if flags.size != 2:
            raise _DamagedError("an array has no flags")
        if int(flags[0]) & 0xFF not in _NUMBERS:
            return None
        shape = tuple(int(size) for size in self.numbers(read, MAX_AXES * 4))
        if len(shape) < 2 or min(shape) < 0:
            raise _DamagedError(f"an array has size {shape}")
        name = self.numbers(read, MAX_NAME_BYTES).tobytes().decode("utf-8", "replace")
        return name, shape, bool(int(flags[0]) >> 8 & _COMPLEX_FLAG)

    def part(self, read: _Read, count: int, padded: bool) -> NDArray[Any]:
        """Read the real or the imaginary part of so many values."""
        values = self.numbers(read, count * 8, padded)
        if values.size != count:
            raise _DamagedError(f"an array holds {values.size} values, its size needs {count}")
        return values


def list_variables(path: Path) -> list[MatVariable]:
    """Return the arrays of numbers of a file in their order, without their values.

    Raises:
        InputError: the file cannot be read, is damaged, or has more than a thousand variables.
    """
    with _open(path) as file:
        return list(_variables(file))


def read_variable(path: Path, variable: MatVariable) -> NDArray[Any]:
    """Read one array with its axes in MATLAB's order: complex64, or real as it is stored.

    Raises:
        InputError: the file cannot be read, or the array is damaged or takes more than 2 GiB.
    """
    count = math.prod(variable.shape)
    with _open(path) as file:
        if count * np.dtype(np.complex64).itemsize > MAX_SLICE_BYTES:
            raise _DamagedError(f"{variable.name!r} has {count} values, too many for {MAX_SLICE_BYTES} bytes")
        read = file.element(variable.place, variable.n_bytes, variable.is_compressed)
        file.head(read)
        real = file.part(read, count, padded=variable.is_complex)
        if not variable.is_complex:
            if variable.is_compressed:
                _check_end(read)
            return real.reshape(variable.shape, order="F")
        values = np.empty(count, np.complex64)
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and that is refused later
            values.real, values.imag = real, file.part(read, count, padded=False)
        if variable.is_compressed:
            _check_end(read)
        return values.reshape(variable.shape, order="F")


@contextmanager
def _open(path: Path) -> Iterator[_File]:
    """Open a file, and turn what damage raises into an InputError."""
    try:
        with path.open("rb") as stream:
            order = {b"IM": "<", b"MI": ">"}.get(stream.read(_HEADER_BYTES)[126:])
            if order is None:
                raise _DamagedError("its header does not tell the byte order")
            yield _File(stream, order, path.stat().st_size)
    except (_DamagedError, zlib.error, OSError, OverflowError, MemoryError) as error:
        raise InputError(
            f"{path}: cannot be read as a MATLAB file, it is cut short or damaged ({error}); save it again"
        ) from error


def _variables(file: _File) -> Iterator[MatVariable]:
    place = _HEADER_BYTES
    for _ in range(MAX_VARIABLES):
        if place + _TAG_BYTES > file.n_bytes:
            return
        file.stream.seek(place)
        kind, n_bytes = struct.unpack(f"{file.order}II", file.stream.read(_TAG_BYTES))
        place += _TAG_BYTES
        if place + n_bytes > file.n_bytes:
            raise _DamagedError(f"an element of {n_bytes} bytes goes past the end")
        if kind in (_MATRIX, _COMPRESSED) and n_bytes:
            compressed = kind == _COMPRESSED
            head = file.head(file.element(place, n_bytes, compressed))
            if head is not None and head[0]:  # without a name MATLAB keeps its own notes
                yield MatVariable(*head, place, n_bytes, compressed)
        place += n_bytes
    raise _DamagedError(f"it has more than {MAX_VARIABLES} variables")


def _plain_reader(stream: BinaryIO, n_bytes: int) -> _Read:
    left = n_bytes

    def read(wanted: int) -> bytes:
        nonlocal left
        if wanted > left:
            raise _DamagedError("an element ends early")
        left -= wanted
        data = stream.read(wanted)
        if len(data) != wanted:
            raise _DamagedError("the file ends early")
        return data

    return read


def _check_end(read: _Read) -> None:
    """Read on to the end of a compressed element, where its checksum is compared."""
    for _ in range(_TAG_BYTES + 1):
        try:
            read(1)
        except _DamagedError:
            return
    raise _DamagedError("a compressed element goes on after its values")


def _inflating_reader(stream: BinaryIO, n_bytes: int) -> _Read:
    left, pending, inflater = n_bytes, b"", zlib.decompressobj()

    def read(wanted: int) -> bytes:
        nonlocal left, pending
        pieces, missing = [], wanted
        while missing:
            if not pending and left:
                pending = stream.read(min(left, _PIECE_BYTES))
                left -= len(pending)
                if not pending:
                    raise _DamagedError("the file ends early")
            piece = inflater.decompress(pending, missing)
            pending = inflater.unconsumed_tail
            if not piece and (inflater.eof or not (pending or left)):
                raise _DamagedError("a compressed element ends early")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    return read
