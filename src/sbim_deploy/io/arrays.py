"""Arrays in files from strangers: NumPy's .npy and .npz, MATLAB's .mat, and the datasets of HDF5.

What a file is, its first bytes tell. Nothing is unpickled, and sizes are checked before memory is taken. The
axes of MATLAB's arrays are in MATLAB's order, though HDF5 (``save -v7.3``) stores them turned round.
"""

from __future__ import annotations

import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io import matlab
from sbim_deploy.io.hdf5 import (
    MAX_NAMES_SHOWN,
    MAX_REASON_LENGTH,
    MAX_SLICE_BYTES,
    dataset_names,
    find_dataset,
    is_hdf5,
    open_hdf5,
    read_values,
    reading,
)

NPY_MAGIC, NPZ_MAGIC, MATLAB_73 = b"\x93NUMPY", b"PK\x03\x04", b"MATLAB 7."
MAX_ARRAYS = 1000
COMPOUND_PARTS = (("real", "imag"), ("r", "i"), ("re", "im"))

Key = tuple[int | slice, ...]


@dataclass(frozen=True)
class StoredArray:
    """An array in an open file.

    Attributes:
        name: its name, empty in a .npy file.
        shape, dtype: its own; a table of real and imaginary parts counts as complex.
        read: reads the part that an index or a slice for each axis takes.
        chunk_bytes: what HDF5 takes into memory to read any part, 0 elsewhere.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Key], NDArray[Any]]
    chunk_bytes: int = 0

    @property
    def is_complex(self) -> bool:
        """Whether the values are complex."""
        return self.dtype.kind == "c"

    @property
    def is_real(self) -> bool:
        """Whether they are real numbers, or true and false."""
        return self.dtype.kind in "biuf"

    @property
    def n_axes(self) -> int:
        """The axes that are longer than 1."""
        return sum(size != 1 for size in self.shape)


class ArrayFile:
    """An open file of arrays; use it in a ``with`` statement.

    Attributes:
        path: the file.
        kind: what it is, in words.
        arrays: its arrays by name, in their order.
        is_matlab: whether MATLAB's order of the axes is theirs.
    """

    def __init__(
        self, path: Path, kind: str, arrays: Mapping[str, StoredArray], close: Callable[[], object]
    ) -> None:
        self.path, self.kind, self.arrays = path, kind, dict(arrays)
        self.is_matlab = kind.startswith("MATLAB")
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def listed(self) -> str:
        """Return the names and shapes of the arrays, for people."""
        shown = [f"{each.name} {each.shape} {each.dtype}".strip() for each in self.arrays.values()]
        shown = shown[:MAX_NAMES_SHOWN]
        more = len(self.arrays) - len(shown)
        return (", ".join(shown) or "none") + (f" and {more} more" if more else "")


def is_array_file(path: Path) -> bool:
    """Tell by its first bytes, or by its name where it has none, whether a file is .npy, .npz or .mat.

    HDF5 that MATLAB wrote is one too.
    """
    start = _first_bytes(path)
    if start.startswith((NPY_MAGIC, NPZ_MAGIC, matlab.MAGIC, MATLAB_73)):
        return True
    return path.suffix in (".npy", ".npz", ".mat") and not is_hdf5(path)


def open_arrays(path: Path) -> ArrayFile:
    """Open a file of arrays.

    Raises:
        InputError: there is no such file, it is of another kind, or it is damaged.
    """
    start = _first_bytes(path)
    if start.startswith(NPY_MAGIC):
        return _open_npy(path)
    if start.startswith(NPZ_MAGIC):
        return _open_npz(path)
    if start.startswith(matlab.MAGIC):
        return _open_matlab(path)
    if not os.path.exists(path) or is_hdf5(path):
        return _open_hdf5(path)
    raise InputError(
        f"{path}: is no array that can be read: expected .npy or .npz of NumPy, or .mat of MATLAB "
        "(save -v6, -v7 or -v7.3; Octave: save -v7)"
    )


def hdf5_array(dataset: h5py.Dataset, path: Path, is_matlab: bool = False) -> StoredArray:
    """Return a dataset, checked by :func:`sbim_deploy.io.hdf5.find_dataset`, as an array.

    Raises:
        InputError: the file is damaged.
    """
    name = dataset.name.strip("/")
    with reading(path, repr(name)):
        shape, dtype, chunks = dataset.shape, dataset.dtype, dataset.chunks
    parts = _compound_parts(dtype)
    is_turned = is_matlab or "MATLAB_class" in dataset.attrs

    def read(key: Key) -> NDArray[Any]:
        with reading(path, f"a part of {name!r}"):
            stored: NDArray[Any] = np.asarray(read_values(dataset, path, key[::-1] if is_turned else key))
        values = stored if parts is None else _complex_of(stored, parts)
        return values.T if is_turned else values

    shape = shape or ()
    return StoredArray(
        name,
        shape[::-1] if is_turned else shape,
        dtype if parts is None else np.dtype(np.complex64),
        read,
        math.prod(chunks or ()) * dtype.itemsize,
    )


def find_array(file: h5py.File, path: Path, name: str, is_matlab: bool = False) -> StoredArray | None:
    """Return a dataset as an array; None where the name is a group's or a link's, or there is none.

    Raises:
        InputError: the file is damaged, or the data lie outside it.
    """
    with reading(path, repr(name)):
        is_own = isinstance(file.get(name, getlink=True), h5py.HardLink)
        is_dataset = is_own and file.get(name, getclass=True) is h5py.Dataset
    found = find_dataset(file, path, name) if is_dataset else None
    return None if found is None else hdf5_array(found, path, is_matlab)


def as_array(values: Any, what: str) -> NDArray[Any]:
    """Return anything that NumPy can read as an array: HDF5 datasets, tensors, nested lists.

    A table of real and imaginary parts, as MATLAB writes it into HDF5, becomes complex.

    Raises:
        InputError: NumPy cannot read it.
    """
    try:
        array = np.asarray(values)
    except Exception as error:  # whatever another library's array may raise
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        raise InputError(f"{what} is a {type(values).__name__} that NumPy cannot read ({reason})") from error
    parts = _compound_parts(array.dtype)
    return array if parts is None else _complex_of(array, parts)


def array_in_memory(arrays: Mapping[str, Any]) -> ArrayFile:
    """Return arrays that a program holds as an open file; HDF5 datasets are read by parts.

    Raises:
        InputError: NumPy cannot read one of them.
    """
    held = {
        name: values if isinstance(values, np.ndarray | h5py.Dataset) else as_array(values, name)
        for name, values in arrays.items()
    }
    stored = {
        name: _from_memory(
            "" if name == next(iter(arrays)) else name, each.shape, each.dtype, partial(_same, each)
        )
        for name, each in held.items()
    }
    return ArrayFile(Path(next(iter(arrays))), "an array", stored, lambda: None)


def _same(values: Any) -> Any:
    return values


def _open_npy(path: Path) -> ArrayFile:
    with _reading_numpy(path):
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    array = _from_memory("", stored.shape, stored.dtype, lambda: stored)
    return ArrayFile(path, "NumPy .npy", {"": array}, lambda: None)


def _open_npz(path: Path) -> ArrayFile:
    with ExitStack() as stack, _reading_numpy(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = [each for each in archive.infolist() if each.filename.endswith(".npy")][: MAX_ARRAYS + 1]
        if len(members) > MAX_ARRAYS:
            raise ValueError(f"it has more than {MAX_ARRAYS} arrays")
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                shape, _, dtype = _npy_header(stream)
                n_header = stream.tell()
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize + n_header != member.file_size:
                raise ValueError(f"{name!r} has {member.file_size} bytes, which its shape {shape} is not")
            load = cache(partial(_load_member, archive, member, path))
            arrays[name] = _from_memory(name, shape, dtype, load)
        return ArrayFile(path, "NumPy .npz", arrays, stack.pop_all().close)


def _open_matlab(path: Path) -> ArrayFile:
    arrays = {
        each.name: _from_memory(
            each.name,
            each.shape,
            np.dtype(np.complex64 if each.is_complex else np.float64),
            cache(partial(matlab.read_variable, path, each)),
        )
        for each in matlab.list_variables(path)
    }
    return ArrayFile(path, "MATLAB .mat, version 5", arrays, lambda: None)


def _open_hdf5(path: Path) -> ArrayFile:
    file = open_hdf5(path)
    with ExitStack() as stack:
        stack.callback(file.close)
        is_matlab = _first_bytes(path).startswith(MATLAB_73)
        arrays = {}
        for name in dataset_names(file, path)[:MAX_ARRAYS]:
            array = find_array(file, path, name, is_matlab)
            if array is not None:
                arrays[name] = array
        kind = "MATLAB .mat, version 7.3" if is_matlab else "HDF5"
        return ArrayFile(path, kind, arrays, stack.pop_all().close)


def _from_memory(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], NDArray[Any]]
) -> StoredArray:
    parts = _compound_parts(dtype)

    def read(key: Key) -> NDArray[Any]:
        values = np.asarray(load()[key])
        return values if parts is None else _complex_of(values, parts)

    return StoredArray(name, shape, dtype if parts is None else np.dtype(np.complex64), read)


def _load_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    with _reading_numpy(path):
        if member.file_size > MAX_SLICE_BYTES:
            raise ValueError(
                f"{member.filename} has {member.file_size} bytes, expected at most {MAX_SLICE_BYTES} "
                "in .npz: an array in a .npy file is read slice by slice"
            )
        with archive.open(member) as stream:
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
            return array


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of .npy")


@contextmanager
def _reading_numpy(path: Path) -> Iterator[None]:
    """Turn what NumPy and zipfile raise for a damaged file into an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that Python 2 wrote the file
            warnings.simplefilter("ignore", RuntimeWarning)  # that the bytes of a shape overflow
            yield
    except (
        *(ValueError, TypeError, KeyError, OSError, EOFError, OverflowError, MemoryError, SyntaxError),
        *(RuntimeError, RecursionError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
    ) as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        raise InputError(
            f"{path}: cannot be read as a NumPy file, it is cut short, damaged or holds Python objects "
            f"({reason}); save it again with numpy.save"
        ) from error


def _compound_parts(dtype: np.dtype[Any]) -> tuple[str, str] | None:
    """Return the names of the real and the imaginary part of a table that holds just these."""
    names = tuple(dtype.names or ())
    if tuple(name.lower() for name in names) not in COMPOUND_PARTS:
        return None
    if any(dtype[name].kind not in "iuf" or dtype[name].shape for name in names):
        return None
    return names[0], names[1]


def _complex_of(stored: NDArray[Any], parts: tuple[str, str]) -> NDArray[Any]:
    values = np.empty(stored.shape, np.complex64)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and that is refused later
        values.real, values.imag = stored[parts[0]], stored[parts[1]]
    return values


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(32)
    except OSError:
        return b""
