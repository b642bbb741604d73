"""Whether a file holds raw data, which no result may replace: by its bytes, and by its name where those fail.

In doubt it does: a scan cannot be made again.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py

from sbim_deploy.errors import InputError
from sbim_deploy.io.byte_source import Source
from sbim_deploy.io.hdf5_trial import try_hdf5
from sbim_deploy.io.yardl import is_yardl, read_schema

# Raw data of Siemens (.dat), Philips (.raw, .lab, .sin) and GE (.7) are told by their names.
RAW_SUFFIXES = (".dat", ".raw", ".lab", ".sin", ".7")
CFL_SUFFIXES = (".cfl", ".hdr")
CFL_CREATOR = "sbim-deploy"  # under "# Creator" in the header of arrays that are results
KSPACE_NAMES = ("kspace", "k_space", "ksp", "rawdata", "raw_data")
START_BYTES = 128
STARTS = {
    **dict.fromkeys((b"\x01\x00", b"\x02\x00", b"\x03\x00"), "an MRD stream, by its first message"),
    b"\x93NUMPY": "an array of NumPy, k-space perhaps",
    b"MATLAB 5.0 MAT-file": "arrays of MATLAB, k-space perhaps",
    b"MATLAB 7": "arrays of MATLAB, k-space perhaps",
}
ZIP = b"PK\x03\x04"
MAX_OBJECTS, MAX_DEPTH = 10_000, 8
IMAGE_COUNTER = "image_series_index"  # a field that headers of MRD images have, and no others
IMAGE_AXES = 5  # image, channel, z, y, x
IMAGE_ITEMS = "Image"  # what the names of images among the items of an MRD 2 stream begin with
_DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError)


def raw_data_in(path: Path) -> str | None:
    """Return what raw data a plain file holds, in words, or None where it holds none.

    Arrays of NumPy and MATLAB, and complex arrays in HDF5 that are no result, count: they may be k-space.

    Raises:
        InputError: the file cannot be read, so that nothing tells.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        return f"raw data of a scanner, by its name ({path.suffix})"
    if path.suffix.lower() in CFL_SUFFIXES:
        return None if _is_own_cfl(path) else "an array of BART's, k-space perhaps"
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        if start.startswith(ZIP) and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith(".npy") for name in archive.namelist()):
                    return "arrays of NumPy, k-space perhaps"
        if h5py.is_hdf5(path):
            return _raw_data_in_hdf5(path)
    except (*_DAMAGED, InputError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is damaged, and nothing tells that it is no raw data; remove it, or name another output"
        ) from error
    if is_yardl(path):
        return None if _is_stream_of_images(path) else "an MRD 2 stream"
    if _is_twix(start):
        return "Siemens' raw data (twix)"
    return next((what for magic, what in STARTS.items() if start.startswith(magic)), None)


def _is_stream_of_images(path: Path) -> bool:
    """Tell whether an MRD 2 stream holds images and nothing else, from its first byte to its last."""
    n_images = 0
    try:
        with path.open("rb", buffering=0) as file:
            source = Source(file, os.fstat(file.fileno()).st_size, str(path))
            schema = read_schema(source, str(path))
            for step, written in schema.steps.items():
                source.begin(step, None)
                if not (isinstance(written, dict) and "stream" in written):
                    schema.kind(written).read(source, False)
                    continue
                items = schema.items(step)
                while n_more := source.count(items.least, "items"):
                    for _ in range(n_more):
                        case = items.cases[source.peek()] if items.cases else None
                        if case is None or not case[0].startswith(IMAGE_ITEMS):
                            return False
                        items.read(source, False)
                        n_images += 1
            return n_images > 0 and not source.left
    except (InputError, OSError, IndexError):
        return False


def _is_twix(start: bytes) -> bool:
    """Tell whether a file begins with the table of one to 64 measurements, as VD and later have it."""
    marker, n_measurements = (int.from_bytes(start[at : at + 4], "little") for at in (0, 4))
    return marker < 10_000 and 1 <= n_measurements <= 64


def is_simulated(path: Path) -> bool:
    """Tell whether a file is a scan that this program has simulated, by the record in it."""
    try:
        try_hdf5(path)
        with h5py.File(path, "r") as file:
            return "simulate" in (_record(file) or {})
    except (*_DAMAGED, InputError):
        return False


def _raw_data_in_hdf5(path: Path) -> str | None:
    try_hdf5(path)
    with h5py.File(path, "r") as file:
        is_result = _record(file) is not None
        for dataset in _datasets(file, MAX_DEPTH, [0]):
            name = dataset.name.strip("/")
            names = dataset.dtype.names or ()
            if name.rpartition("/")[2].lower() in KSPACE_NAMES:
                return f"k-space ({name!r})"
            if "head" in names and "data" in names:
                return f"MRD raw data ({name!r})"
            pairs = tuple(each.lower() for each in names) in (("real", "imag"), ("r", "i"), ("re", "im"))
            is_complex = dataset.dtype.kind == "c" or pairs
            if is_complex and len(dataset.shape or ()) > 1 and not is_result:
                return f"a complex array ({name!r}), k-space perhaps"
    return None


def _datasets(group: h5py.Group, depth: int, seen: list[int]) -> Iterator[h5py.Dataset]:
    """Yield the datasets of a file, but for the pixels of MRD images and what links lead to."""
    is_images = _holds_images(group)
    for name in group:
        seen[0] += 1
        if seen[0] > MAX_OBJECTS or depth < 0:
            raise ValueError("too many objects to look at")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        found = group[name]
        if isinstance(found, h5py.Group):
            yield from _datasets(found, depth - 1, seen)
        elif isinstance(found, h5py.Dataset) and not (
            is_images and name == "data" and found.ndim == IMAGE_AXES
        ):
            yield found


def _holds_images(group: h5py.Group) -> bool:
    """Tell whether a group is a series of MRD images, by the table of their headers."""
    if not isinstance(group.get("header", getlink=True), h5py.HardLink):
        return False
    header = group["header"]
    return isinstance(header, h5py.Dataset) and IMAGE_COUNTER in (header.dtype.names or ())


def _record(file: h5py.File) -> dict[str, Any] | None:
    """Return the record that this program keeps in its files, or None where there is none."""
    text = file.attrs.get("provenance")
    if not isinstance(text, str | bytes):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _is_own_cfl(path: Path) -> bool:
    try:
        lines = path.with_suffix(".hdr").read_bytes()[:4096].decode("ascii", "replace").splitlines()
    except OSError:
        return False
    return any(
        line.strip() == "# Creator" and following.startswith(CFL_CREATOR)
        for line, following in pairwise(lines)
    )
