"""The table of an MRD file by its bytes: the readouts' headers, and how many numbers each readout holds.

A readout's samples lie elsewhere in the file; the table holds their number and their place. HDF5 allocates
that number before it looks whether so many are there, and h5py has it do so for the headers alone too: so
both are read without it. The layout is that of the HDF5 File Format Specification, "Variable-Length Data":
four bytes of length, then the address of the heap and four bytes of its index. The filters of h5py's own
files (gzip, shuffle, a checksum) are undone here, so that a chunk takes no more than its size; others (LZF,
and what plugins bring) by HDF5, in a table of bytes in memory, of small chunks alone: it inflates them
without a bound.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import reading

_LENGTHS = ("traj", "data")
_IN_MEMORY_BYTES = 16  # what HDF5 says the place of the samples takes
_CHECKSUM_BYTES = 4
_MAX_FOREIGN_BYTES = 4 * 1024**2  # of a chunk, stored or not; those of readouts take some tens of KiB
_OWN_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}


def stored_rows(table: h5py.Dataset, path: Path, start: int, stop: int) -> NDArray[np.void]:
    """Return rows of a checked table, (stop - start,): ``head``, and the lengths ``traj``, ``data``.

    Raises:
        InputError: the file is damaged, or compressed by a filter that HDF5 lacks here.
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
        filters = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
        for first in range(start // length * length, stop, length):
            info = table.id.get_chunk_info_by_coord((first,))
            if info.byte_offset is None:
                continue  # never written: HDF5 reads zeros
            n_bytes = length * record.itemsize
            # HDF5 makes room for a chunk without filters by its rows, and then reads what the file says.
            if info.size > path.stat().st_size or (not filters and info.size != n_bytes):
                raise ValueError(f"a chunk takes {info.size} bytes, expected {n_bytes} without filters")
            mask, stored = table.id.read_direct_chunk((first,))
            if filters <= _OWN_FILTERS:
                stored = _unfiltered(stored, plist, mask, n_bytes)
            else:
                if max(n_bytes, len(stored)) > _MAX_FOREIGN_BYTES:
                    raise InputError(
                        f"{path}: its readouts are compressed by a filter that is not gzip, in chunks of "
                        f"{n_bytes} bytes that take {len(stored)}, expected at most {_MAX_FOREIGN_BYTES}; "
                        "repack it (h5repack -f GZIP=4)"
                    )
                stored = _unfiltered_by_hdf5(stored, plist, mask, length, record.itemsize, path)
            values = np.frombuffer(stored, record)
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


def _unfiltered(stored: bytes, plist: h5p.PropDCID, mask: int, n_bytes: int) -> bytes:
    """Undo the filters of a chunk, but those that its mask left out."""
    for number in reversed(range(plist.get_nfilters())):
        code, _, values, _ = plist.get_filter(number)
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
    if len(stored) != n_bytes:
        raise ValueError(f"a chunk has {len(stored)} bytes, expected {n_bytes}")
    return stored


def _unfiltered_by_hdf5(
    stored: bytes, plist: h5p.PropDCID, mask: int, n_rows: int, n_bytes_of_row: int, path: Path
) -> bytes:
    """Let HDF5 undo the filters of a chunk, as that of a table of bytes, which it converts in no way."""
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    for code, _, _, name in filters:
        if not h5z.filter_avail(code):
            raise InputError(
                f"{path}: its readouts are compressed by {name.decode(errors='replace') or code!r}, which "
                "HDF5 cannot undo here; where it was written, repack it (h5repack -f GZIP=4)"
            )
    created = h5p.create(h5p.DATASET_CREATE)
    created.set_chunk((n_rows,))
    for code, flags, values, _ in filters:
        created.set_filter(code, flags, values)
    row = h5t.create(h5t.OPAQUE, n_bytes_of_row)
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        table = h5d.create(file.id, b"chunk", row, h5s.create_simple((n_rows,)), created)
        table.write_direct_chunk((0,), stored, mask)
        values = np.empty(n_rows, f"V{n_bytes_of_row}")
        table.read(h5s.ALL, h5s.ALL, values, row)
    return values.tobytes()
