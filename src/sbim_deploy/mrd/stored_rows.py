"""The table of an MRD file by its bytes: the readouts' headers, and how many numbers each readout holds.

A readout's samples lie elsewhere in the file; the table holds their number and their place. HDF5 allocates
that number before it looks whether so many are there, and h5py has it do so for the headers alone too: so
both are read without it. The layout is that of the HDF5 File Format Specification, "Variable-Length Data":
four bytes of length, then the address of the heap and four bytes of its index.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5z
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import reading

_LENGTHS = ("traj", "data")
_IN_MEMORY_BYTES = 16  # what HDF5 says the place of the samples takes
_CHECKSUM_BYTES = 4


def stored_rows(table: h5py.Dataset, path: Path, start: int, stop: int) -> NDArray[np.void]:
    """Return rows of a checked table, (stop - start,): ``head``, and the lengths ``traj``, ``data``.

    Raises:
        InputError: the file is damaged, or the table is compressed in an unusual way.
    """
    with reading(path, f"{table.name.strip('/')!r}"):
        record = _record_of(table)
        rows = np.zeros(stop - start, record)
        plist = table.id.get_create_plist()
        layout = plist.get_layout()
        if layout == h5d.CONTIGUOUS:
            if (place := table.id.get_offset()) is not None:
                with path.open("rb") as file:
                    file.seek(place + start * record.itemsize)
                    rows[:] = np.frombuffer(file.read(len(rows) * record.itemsize), record)
            return rows
        if layout != h5d.CHUNKED:
            raise ValueError("it lies in its own header")
        (length,) = table.chunks
        for first in range(start // length * length, stop, length):
            info = table.id.get_chunk_info_by_coord((first,))
            if info.byte_offset is None:
                continue  # never written: HDF5 reads zeros
            mask, stored = table.id.read_direct_chunk((first,))
            values = np.frombuffer(_unfiltered(stored, plist, mask, length * record.itemsize, path), record)
            low, high = max(first, start), min(first + length, stop)
            rows[low - start : high - start] = values[low - first : high - first]
    return rows


def _record_of(table: h5py.Dataset) -> np.dtype[np.void]:
    """Return a record as it is stored, without what is not read."""
    kind = table.id.get_type()
    n_bytes_of_address, _ = table.file.id.get_create_plist().get_sizes()
    shrunk = _IN_MEMORY_BYTES - (4 + n_bytes_of_address + 4)
    parts = sorted((kind.get_member_offset(i), kind.get_member_name(i)) for i in range(kind.get_nmembers()))
    offsets, n_before = {}, 0
    for offset, name in parts:
        offsets[name.decode()] = offset - n_before * shrunk
        n_before += name.decode() in _LENGTHS
    return np.dtype(
        {
            "names": ["head", *_LENGTHS],
            "formats": [table.dtype["head"], "<u4", "<u4"],
            "offsets": [offsets[name] for name in ("head", *_LENGTHS)],
            "itemsize": kind.get_size() - n_before * shrunk,
        }
    )


def _unfiltered(stored: bytes, plist: Any, mask: int, n_bytes: int, path: Path) -> bytes:
    """Undo the filters of a chunk, but those that its mask left out."""
    for number in reversed(range(plist.get_nfilters())):
        code, _, values, name = plist.get_filter(number)
        if mask >> number & 1:
            continue
        if code == h5z.FILTER_FLETCHER32:
            stored = stored[:-_CHECKSUM_BYTES]
        elif code == h5z.FILTER_DEFLATE:
            try:
                stored = zlib.decompressobj().decompress(stored, n_bytes + _CHECKSUM_BYTES)
            except zlib.error as error:
                raise ValueError(str(error)) from error
        elif code == h5z.FILTER_SHUFFLE:
            width = values[0] or 1
            whole = len(stored) // width * width
            turned = np.frombuffer(stored[:whole], np.uint8).reshape(width, -1).T
            stored = turned.tobytes() + stored[whole:]
        else:
            raise InputError(
                f"{path}: its readouts are compressed by {name.decode(errors='replace')!r}, expected gzip "
                "or none; repack it (h5repack -f NONE)"
            )
    if len(stored) != n_bytes:
        raise ValueError(f"a chunk has {len(stored)} bytes, expected {n_bytes}")
    return stored
