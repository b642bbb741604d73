"""HDF5 files from strangers: every fault becomes one line, and no file may reach into another."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import h5py
import numpy as np
from h5py import h5z
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import try_room
from sbim_deploy.io.documents import format_object, parse_object
from sbim_deploy.io.foreign import describe_foreign, read_head
from sbim_deploy.io.hdf5_trial import try_hdf5, try_part
from sbim_deploy.io.overwriting import new_file
from sbim_deploy.io.yardl import is_yardl

MAX_SLICE_BYTES = 2 * 1024**3
MAX_JSON_BYTES = 64 * 1024**2
MAX_NAMES_SHOWN = 10
MAX_REASON_LENGTH = 160
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

T = TypeVar("T")


class OpenFile:
    """An open HDF5 file, closed at the end of a ``with`` statement."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.path = path
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def is_hdf5(path: Path) -> bool:
    """Tell by its first bytes whether a file is HDF5; False where it cannot be read."""
    try:
        return bool(h5py.is_hdf5(path))
    except OSError:
        return False


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, once a child process has read it, see :mod:`sbim_deploy.io.hdf5_trial`.

    Raises:
        InputError: there is no such file, it is truncated or not HDF5, or reading it hangs, crashes or takes
            too much memory.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; check the path")
    if not os.path.isfile(path):
        raise InputError(f"{path}: is not a plain file, expected an HDF5 file; name the file itself")
    if is_yardl(path):
        raise InputError(f"{path}: is an MRD version 2 stream, expected an HDF5 file; recon and info read it")
    with reading(path, "the file"):
        if h5py.is_hdf5(path):
            try_hdf5(path)
        elif what := describe_foreign(read_head(path), "an HDF5 file", "the file"):
            raise InputError(f"{path}: is {what}")
        return h5py.File(path, "r")


def open_as(path: Path, kind: Callable[[h5py.File, Path], T]) -> T:
    """Open an HDF5 file and return what ``kind`` makes of it; the file is closed where that raises.

    Raises:
        InputError: see :func:`open_hdf5` and ``kind``.
    """
    file = open_hdf5(path)
    try:
        return kind(file, path)
    except BaseException:
        file.close()
        raise


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what h5py raises for a damaged file into an InputError that names ``what``."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        raise InputError(
            f"{path}: {what} cannot be read, it is truncated, damaged or not HDF5 ({reason}); fetch it again"
        ) from error


@contextmanager
def writing(path: Path, force: bool = False, over_simulated: bool = False) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears at ``path`` whole or not at all.

    What may be replaced, :func:`sbim_deploy.io.overwriting.check_new` tells.

    Raises:
        InputError: the output cannot be written, before or during the writing.
    """
    with new_file(path, force, over_simulated) as temporary:
        try_room(temporary)  # where its first bytes fail HDF5 crashes
        # Without a chunk cache a failed write is met here, not when a dataset is freed.
        file = h5py.File(temporary, "w", rdcc_nbytes=0)
        try:
            yield file
        finally:
            try:
                file.close()
            except RuntimeError as error:
                raise OSError("HDF5 could not bring the file to the disk") from error


def find_dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset | None:
    """Return the dataset ``name``, or None where there is none.

    Raises:
        InputError: it is no dataset, or its data lie outside the file: a link, a virtual dataset or
            external storage would let a file read any other file of this machine.
    """
    with reading(path, f"dataset {name!r}"):
        link = file.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{path}: {name!r} is a link, expected a dataset; copy the data into the file")
        found = file[name]
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"{path}: {name!r} is not a dataset; check how the file was written")
        if found.is_virtual or found.external:
            raise InputError(f"{path}: {name!r} keeps its data in other files; copy them into the file")
        return found


def dataset_names(file: h5py.File, path: Path) -> list[str]:
    """Return the names at the top of an HDF5 file, in order.

    Raises:
        InputError: the file is damaged.
    """
    with reading(path, "the list of datasets"):
        return sorted(file)


def require_dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """Return the dataset ``name``; InputError lists what the file holds where it is missing."""
    found = find_dataset(file, path, name)
    if found is None:
        names = dataset_names(file, path)
        shown = ", ".join(repr(each) for each in names[:MAX_NAMES_SHOWN]) or "nothing"
        more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
        raise InputError(f"{path}: no dataset {name!r}, the file holds {shown}{more}; check the file")
    return found


def check_stack(
    dataset: h5py.Dataset, path: Path, axes: tuple[str, ...], kinds: str, slice_axis: int | None = 0
) -> None:
    """Check a stack of slices before any of it is read: axes, dtype kind, and the bytes of one slice.

    The slices lie along ``slice_axis``; None is one slice.

    Raises:
        InputError: an axis is missing or empty, the dtype kind is not among ``kinds`` (NumPy's letters),
            or one slice or one chunk takes more than 2 GiB.
    """
    label = f"{path}: {dataset.name.strip('/')!r}"
    with reading(path, repr(dataset.name)):
        shape, dtype, chunks = dataset.shape, dataset.dtype, dataset.chunks
    if shape is None or len(shape) != len(axes):
        raise InputError(f"{label} has shape {shape}, expected ({', '.join(axes)})")
    if 0 in shape:
        raise InputError(f"{label} has shape {shape}, an empty axis; expected at least one of each")
    if dtype.kind not in kinds:
        expected = " or ".join({"c": "complex", "f": "float"}[kind] for kind in kinds)
        raise InputError(f"{label} has dtype {dtype}, expected {expected}; check how the file was written")
    n_slices = 1 if slice_axis is None else shape[slice_axis]
    largest = max(math.prod(shape) // n_slices, math.prod(chunks or ())) * dtype.itemsize
    if largest > MAX_SLICE_BYTES:
        raise InputError(
            f"{label} with shape {shape} and chunks {chunks} needs {largest} bytes to read one slice, "
            f"expected at most {MAX_SLICE_BYTES}; crop or rechunk the file"
        )


def read_finite(
    dataset: h5py.Dataset, path: Path, index: int, dtype: type, slice_axis: int | None = 0
) -> NDArray[Any]:
    """Read slice ``index`` of a checked stack as ``dtype``; slices lie along an axis, None is one slice.

    Raises:
        InputError: the index is out of range, the chunk is damaged, or a value is not finite.
    """
    name = dataset.name.strip("/")
    n_slices = 1 if slice_axis is None else dataset.shape[slice_axis]
    if not 0 <= index < n_slices:
        raise InputError(f"{path}: no slice {index} in {name!r}, expected 0 to {n_slices - 1}")
    with reading(path, f"slice {index} of {name!r}"):
        stored = read_values(
            dataset, path, () if slice_axis is None else (slice(None),) * slice_axis + (index,)
        )
    return as_finite(stored, dtype, path, f"slice {index} of {name!r}")


def read_values(dataset: h5py.Dataset, path: Path, key: tuple[int | slice, ...] = ()) -> Any:
    """Read a part of a dataset, all of it without a key, within :func:`reading`.

    A chunk may inflate to any size, and a text or a list claim any length, before HDF5 compares it with
    what the file declares: what went through a filter or lies in a heap is read by a child process first.

    Raises:
        InputError: the part takes more than 2 GiB, or what :func:`sbim_deploy.io.hdf5_trial.try_part` says.
    """
    whole = (slice(None),) * (dataset.ndim - len(key))
    axes = zip((*key, *whole), dataset.shape, strict=True)
    sizes = [len(range(*each.indices(n))) if isinstance(each, slice) else 1 for each, n in axes]
    n_bytes = math.prod(sizes) * dataset.dtype.itemsize
    if n_bytes > MAX_SLICE_BYTES:
        raise InputError(
            f"{path}: {dataset.name.strip('/')!r}: a part takes {n_bytes} bytes, expected at most "
            f"{MAX_SLICE_BYTES}; crop the file"
        )
    made = dataset.id.get_create_plist()
    filters = [made.get_filter(number)[0] for number in range(made.get_nfilters())]
    # Of a filter that is not here HDF5 says so.
    if dataset.dtype.hasobject or (filters and all(map(h5z.filter_avail, filters))):
        # HDF5 has a chunk once as it is stored and up to twice as it grows; the values are converted once.
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        try_part(path, dataset.name, key, 2 * n_bytes + 3 * chunk)
    return dataset[key]


def as_finite(stored: NDArray[Any], dtype: type, path: Path, what: str) -> NDArray[Any]:
    """Return values as ``dtype``.

    Raises:
        InputError: a value is not finite, or too large for the dtype.
    """
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is counted below
        values: NDArray[Any] = np.asarray(stored, dtype=dtype)
    n_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if n_bad:
        raise InputError(
            f"{path}: {what} has {n_bad} of {values.size} values that are not finite "
            f"in {np.dtype(dtype).name}; repair the file or leave this slice out"
        )
    return values


def write_json_attribute(file: h5py.File, name: str, value: dict[str, Any]) -> None:
    """Store a JSON object as a string of variable length, which has no 64 KiB limit."""
    file.attrs.create(name, format_object(value), dtype=h5py.string_dtype())


def read_json_attribute(file: h5py.File, path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object from the attribute ``name`` of the file.

    Raises:
        InputError: there is none, it is longer than 64 MiB, or it is not a JSON object.
    """
    with reading(path, f"attribute {name!r}"):
        text = file.attrs.get(name)
    if not isinstance(text, str | bytes):
        raise InputError(f"{path}: no attribute {name!r} with JSON text; expected a file of this program")
    if len(text) > MAX_JSON_BYTES:
        raise InputError(f"{path}: attribute {name!r} is {len(text)} long, expected at most {MAX_JSON_BYTES}")
    return parse_object(text, f"{path}: attribute {name!r}")
