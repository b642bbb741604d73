"""MRD (ISMRMRD) HDF5 files of raw data, in and out: the XML header and the readouts, one in memory at a time.

A file holds one group, ``dataset`` unless it was named otherwise, with ``xml`` and ``data``, a table of
readouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import h5py
import numpy as np
from h5py import h5s, h5t
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import OpenFile, find_dataset, open_as, reading, require_dataset
from sbim_deploy.mrd.header import MrdHeader, parse_mrd_header
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, COMPRESSIONS, Readout
from sbim_deploy.mrd.stored_rows import stored_rows
from sbim_deploy.mrd.stream import MAX_CHANNELS
from sbim_deploy.mrd.xml import MAX_HEADER_BYTES

DEFAULT_GROUP = "dataset"
MAX_READOUTS = 2**24
MAX_READOUT_BYTES = 256 * 1024**2
MAX_CHUNK_BYTES = 256 * 1024**2
HEADERS_AT_ONCE = 4096
MAX_COMPRESSION = 1032  # of deflate

TEXT = h5py.string_dtype("ascii")  # of UTF-8's bytes: the C library reads no other kind of string
_FLOATS = h5py.vlen_dtype(np.float32)
_SAMPLES = np.dtype([("traj", _FLOATS), ("data", _FLOATS)])
_RECORD = np.dtype([("head", ACQUISITION_HEADER), ("traj", _FLOATS), ("data", _FLOATS)])
_ROWS_OF_CHUNK = 64


class RawFile(Protocol):
    """An open file of readouts, whatever its format; :class:`MrdFile` says what each part is."""

    path: Path
    format: str
    header: MrdHeader
    remarks: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def n_readouts(self) -> int:
        """The readouts of every kind."""

    def __exit__(self, *_error: Any) -> None:
        """Close it."""

    def read_headers(self, start: int, stop: int) -> NDArray[np.void]:
        """Read the headers of the readouts of a range."""

    def read_readouts(self, indices: Sequence[int]) -> Iterator[Readout]:
        """Read the readouts of these numbers, one in memory at a time."""


class MrdFile(OpenFile):
    """An open MRD file, its header and its table checked; use it in a ``with`` statement.

    Attributes:
        path: the file.
        format: what it is.
        remarks: what was assumed of it or left out, a sentence each.
        facts: what else is to be told of it, as JSON's types.
        xml: the header's text.
        header: what it says.
        n_readouts: readouts of every kind.
        remarks: none; a kept stream has some (:class:`sbim_deploy.mrd.recording.MrdRecording`).
    """

    format = "MRD (ISMRMRD HDF5)"
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, file: h5py.File, path: Path) -> None:
        super().__init__(file, path)
        group = _find_group(file, path)
        self.xml = _read_xml(file, path, f"{group}/xml")
        self.header = parse_mrd_header(self.xml, f"{path}: {group!r}/xml")
        self._name = f"{group}/data"
        self._data = require_dataset(file, path, self._name)
        _check_table(self._data, path, self._name)
        self.n_readouts: int = self._data.shape[0]

    def readouts(self) -> Iterator[Readout]:
        """Read all readouts in the order of the file.

        Raises:
            InputError: see :meth:`read_readouts`.
        """
        yield from self.read_readouts(range(self.n_readouts))

    def read_headers(self, start: int, stop: int) -> NDArray[np.void]:
        """Read the headers, ACQUISITION_HEADER (stop - start,), of the readouts of a range.

        Raises:
            InputError: the file is damaged.
        """
        headers: NDArray[np.void] = stored_rows(self._data, self.path, start, stop)["head"].astype(
            ACQUISITION_HEADER
        )
        return headers

    def read_readouts(self, indices: Sequence[int]) -> Iterator[Readout]:
        """Read the readouts of these numbers, one in memory at a time.

        Raises:
            InputError: the file is damaged, or a readout's samples are compressed, larger than 256 MiB,
                or not as many as its header says.
        """
        # One record at a time: HDF5 allocates what it claims to hold, and one claims no more than a file has.
        kind = h5t.py_create(_SAMPLES)
        space, one = self._data.id.get_space(), h5s.create_simple((1,))
        record = np.empty(1, _SAMPLES)
        for index, header, row in self._headers(indices):
            where = f"{self.path}: readout {index}"
            check_readout(header, where)
            _check_lengths(header, int(row["data"]), int(row["traj"]), where)
            with reading(self.path, f"readout {index}"):
                space.select_hyperslab((index,), (1,))
                self._data.id.read(one, space, record, kind)
            yield _make_readout(header, record["data"][0], record["traj"][0], where)

    def _headers(self, indices: Sequence[int]) -> Iterator[tuple[int, np.void, np.void]]:
        """Yield numbers, headers and rows, read in blocks: one at a time takes as long as its samples."""
        start, stop = 0, max(indices, default=-1) + 1
        rows: NDArray[np.void] = np.empty(0, np.dtype([("head", ACQUISITION_HEADER)]))
        headers = rows["head"]
        for index in indices:
            if not start <= index < start + len(rows):
                start, end = index, min(index + HEADERS_AT_ONCE, stop)
                rows = stored_rows(self._data, self.path, start, end)
                headers = rows["head"].astype(ACQUISITION_HEADER)
            yield index, headers[index - start], rows[index - start]


def open_mrd(path: Path) -> MrdFile:
    """Open an MRD file and check everything but its readouts.

    Raises:
        InputError: the file, its header or its table of readouts is not as it must be.
    """
    return open_as(path, MrdFile)


def is_mrd(file: h5py.File, path: Path) -> bool:
    """Tell whether an open HDF5 file is MRD: whether a group of it holds ``data``, a table, and ``xml``.

    Raises:
        InputError: the file is damaged.
    """
    return bool(_mrd_groups(file, path))


def create_group(file: h5py.File, xml: bytes | None = None) -> h5py.Group:
    """Create the group of a file that holds everything else, with the header's text where there is one."""
    group = file.create_group(DEFAULT_GROUP)
    if xml is not None:
        group.create_dataset("xml", data=np.array([xml], object), dtype=TEXT)
    return group


class MrdWriter:
    """Writes a scan's header and then its readouts into an open, empty HDF5 file."""

    def __init__(self, file: h5py.File, xml: bytes) -> None:
        self._data = create_group(file, xml).create_dataset(
            "data", (0,), _RECORD, maxshape=(None,), chunks=(_ROWS_OF_CHUNK,)
        )

    def append(self, readout: Readout) -> None:
        """Write one readout; OSError where the disk does not take it."""
        record = np.empty(1, _RECORD)
        trajectory = np.empty(0, np.float32) if readout.trajectory is None else readout.trajectory
        record["head"] = readout.header
        record["data"][0] = np.ascontiguousarray(readout.data).view(np.float32).ravel()
        record["traj"][0] = np.ascontiguousarray(trajectory).ravel()
        n_readouts = self._data.shape[0]
        self._data.resize(n_readouts + 1, axis=0)
        self._data[n_readouts:] = record


def check_readout(header: np.void, where: str) -> None:
    """Check a readout by its header, before its samples are read; ``where`` names it in error messages.

    Raises:
        InputError: its samples are compressed, none, or more than 256 MiB.
    """
    if int(header["flags"]) & COMPRESSIONS:
        raise InputError(
            f"{where}: its samples are compressed, expected plain ones; convert without compression"
        )
    n_channels, n_samples = int(header["active_channels"]), int(header["number_of_samples"])
    n_dimensions = int(header["trajectory_dimensions"])
    if not 1 <= n_channels <= MAX_CHANNELS or not n_samples:
        raise InputError(
            f"{where}: has {n_channels} channels of {n_samples} samples, expected 1 to {MAX_CHANNELS} of at "
            "least one"
        )
    if (n_bytes := n_samples * (8 * n_channels + 4 * n_dimensions)) > MAX_READOUT_BYTES:
        raise InputError(f"{where}: has {n_bytes} bytes, expected at most {MAX_READOUT_BYTES}")


def _check_lengths(header: np.void, n_numbers: int, n_of_trajectory: int, where: str) -> None:
    n_channels, n_samples = int(header["active_channels"]), int(header["number_of_samples"])
    n_dimensions = int(header["trajectory_dimensions"])
    if n_numbers != 2 * n_channels * n_samples:
        raise InputError(
            f"{where}: holds {n_numbers} numbers, expected {2 * n_channels * n_samples} for "
            f"{n_channels} channels of {n_samples} complex samples; the file is damaged"
        )
    if n_of_trajectory != n_samples * n_dimensions:
        raise InputError(
            f"{where}: its trajectory holds {n_of_trajectory} numbers, expected {n_samples * n_dimensions} "
            f"for {n_samples} samples in {n_dimensions} dimensions; the file is damaged"
        )


def _make_readout(
    header: np.void, samples: NDArray[np.float32], trajectory: NDArray[np.float32], where: str
) -> Readout:
    _check_lengths(header, samples.size, trajectory.size, where)
    n_channels, n_samples = int(header["active_channels"]), int(header["number_of_samples"])
    n_dimensions = int(header["trajectory_dimensions"])
    data = np.ascontiguousarray(samples).view(np.complex64).reshape(n_channels, n_samples)
    return Readout(header, data, trajectory.reshape(n_samples, n_dimensions) if n_dimensions else None)


def _find_group(file: h5py.File, path: Path) -> str:
    groups = _mrd_groups(file, path)
    if DEFAULT_GROUP in groups:
        return DEFAULT_GROUP
    if len(groups) == 1:
        return groups[0]
    if groups:
        raise InputError(
            f"{path}: {len(groups)} groups hold readouts ({', '.join(map(repr, groups[:5]))}), "
            f"expected one or {DEFAULT_GROUP!r}; copy the wanted one into a file of its own"
        )
    raise InputError(f"{path}: no group with 'data' and 'xml', expected an MRD file; check the file")


def _mrd_groups(file: h5py.File, path: Path) -> list[str]:
    with reading(path, "the list of groups"):
        names = [
            name
            for name in file
            if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Group)
        ]
        return sorted(name for name in names if _is_table(file[name]) and "xml" in file[name])


def _is_table(group: h5py.Group) -> bool:
    if not isinstance(group.get("data", getlink=True), h5py.HardLink):
        return False
    data = group["data"]
    return isinstance(data, h5py.Dataset) and data.dtype.names is not None and "head" in data.dtype.names


def _read_xml(file: h5py.File, path: Path, name: str) -> bytes:
    dataset = find_dataset(file, path, name)
    with reading(path, repr(name)):
        text = None
        if dataset is not None and dataset.size == 1 and dataset.dtype.itemsize <= MAX_HEADER_BYTES:
            text = np.ravel(dataset[()])[0]
    if isinstance(text, str):
        text = text.encode(errors="surrogatepass")
    if not isinstance(text, bytes):
        raise InputError(
            f"{path}: {name!r} is not one short string, expected the ISMRMRD XML; check the file"
        )
    return text


def _check_table(data: h5py.Dataset, path: Path, name: str) -> None:
    with reading(path, repr(name)):
        shape, dtype, chunks = data.shape, data.dtype, data.chunks
        n_stored, filtered = data.id.get_storage_size(), data.id.get_create_plist().get_nfilters() > 0
    if shape is None or len(shape) != 1 or not 1 <= shape[0] <= MAX_READOUTS:
        raise InputError(f"{path}: {name!r} has shape {shape}, expected 1 to {MAX_READOUTS} readouts")
    if chunks is not None and chunks[0] * dtype.itemsize > MAX_CHUNK_BYTES:
        raise InputError(f"{path}: {name!r} has chunks of {chunks[0]} readouts, too large; repack the file")
    # A few bytes can claim millions of readouts that were never stored.
    if n_stored * (MAX_COMPRESSION if filtered else 1) < shape[0] * dtype.itemsize:
        raise InputError(
            f"{path}: {name!r} has {n_stored} bytes for {shape[0]} readouts, expected {dtype.itemsize} "
            "for each; the file is incomplete, fetch it again"
        )
    fields = dtype.fields or {}
    samples = [
        h5py.check_vlen_dtype(fields[part][0]) if part in fields else None for part in ("traj", "data")
    ]
    same_header = "head" in fields and _parts(fields["head"][0]) == _parts(ACQUISITION_HEADER)
    if not same_header or samples != [np.dtype(np.float32)] * 2:
        raise InputError(
            f"{path}: {name!r} is not a table of ISMRMRD 1 acquisitions; convert it to ISMRMRD 1.4"
        )


def _parts(dtype: np.dtype[np.void]) -> list[object]:
    """Return the fields of a record, whether they are floats, and their shapes; of records within it too."""
    fields: Mapping[str, Any] = dtype.fields or {}
    kinds = [(name, fields[name][0], fields[name][0].base.kind) for name in dtype.names or ()]
    return [(name, _parts(of), "i" if kind == "u" else kind, of.shape) for name, of, kind in kinds]
