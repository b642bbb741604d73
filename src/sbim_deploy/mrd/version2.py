"""MRD version 2: raw data in a binary stream of yardl's, read as version 1's header and readouts.

The stream begins with the schema that it was written by, and is decoded by it: releases of version 2 differ
in their records, and their own readers refuse each other's streams. The fields are found by the names that
they have in releases 2.0 to 2.2 (https://github.com/ismrmrd/mrd, folder ``model``). A pass over the stream
finds the headers of the readouts and where their samples lie; samples are read when they are asked for.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.byte_source import Source
from sbim_deploy.io.yardl import MAGIC, NDJSON_START, ArraySpan, Schema, one_line, read_schema
from sbim_deploy.mrd.file import HEADERS_AT_ONCE, MAX_READOUTS, check_readout
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, COUNTERS, Readout
from sbim_deploy.mrd.version2_header import header_xml
from sbim_deploy.mrd.xml import MAX_HEADER_BYTES

PROTOCOL, HEADER, DATA, ACQUISITION = "Mrd", "header", "data", "Acquisition"
MAX_ACQUISITION_BYTES = 64 * 1024  # of a readout beside its arrays: a hundred in truth

_NAMED_ALIKE = {
    "measurement_uid": "measurementUid",
    "scan_counter": "scanCounter",
    "discard_pre": "discardPre",
    "discard_post": "discardPost",
    "encoding_space_ref": "encodingSpaceRef",
    "position": "position",
    "read_dir": "readDir",
    "phase_dir": "phaseDir",
    "slice_dir": "sliceDir",
    "patient_table_position": "patientTablePosition",
}
_COUNTERS = {
    "kspace_encode_step_1": "kspaceEncodeStep1",
    "kspace_encode_step_2": "kspaceEncodeStep2",
    **{
        name: name
        for name in COUNTERS.names or ()
        if name not in ("kspace_encode_step_1", "kspace_encode_step_2", "user")
    },
}
_LISTS = {
    "physiology_time_stamp": ("physiologyTimeStamp", 3),
    "user_int": ("userInt", 8),
    "user_float": ("userFloat", 8),
}
_MAXIMA = {
    name: int(np.iinfo(record[name]).max)
    for record in (ACQUISITION_HEADER, COUNTERS)
    for name in record.names or ()
    if record[name].kind == "u"
}
_NS_OF_MS, _NS_OF_US = 10**6, 10**3


class Version2File:
    """An open stream of MRD version 2 in a file, its headers read; use it in a ``with`` statement.

    It offers what :class:`sbim_deploy.mrd.file.MrdFile` offers.

    Attributes:
        path: the file.
        format: what it is.
        xml: the header as version 1 writes it; a stream without readouts may have none.
        header: what it says.
        n_readouts: readouts of every kind.
        left_out: how many items of other kinds there are, by their names in the schema.
        facts: what else is to be told of it, as JSON's types.
        remarks: what was left out or assumed, a sentence each.

    Raises:
        InputError: the file is no such stream, is damaged or cut short, has no header, or a readout has a
            number that no scan has.
    """

    format = "MRD version 2 (yardl binary)"
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self._file = _open(path)
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def check_readouts(self) -> None:
        """Raise InputError, with what there is, for a stream of other things than readouts."""
        if not self.n_readouts:
            held = ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items())) or "nothing"
            raise InputError(
                f"{self.path}: holds no readouts ({held}), expected raw data; name the scan's stream"
            )

    def read_headers(self, start: int, stop: int) -> NDArray[np.void]:
        """Return the headers, ACQUISITION_HEADER (stop - start,), of the readouts of a range."""
        return self._headers[start:stop]

    def read_readouts(self, indices: Sequence[int]) -> Iterator[Readout]:
        """Read the readouts of these numbers, one in memory at a time.

        Raises:
            InputError: a readout has no samples, or more than 256 MiB; or the file cannot be read any more.
        """
        for index in indices:
            header = self._headers[index]
            where = f"{self.path}: readout {index}"
            check_readout(header, where)
            n_channels, n_samples = int(header["active_channels"]), int(header["number_of_samples"])
            n_dimensions = int(header["trajectory_dimensions"])
            samples, trajectory = (int(place) for place in self._places[index])
            data = self._read_array(samples, (n_channels, n_samples), "<c8", where)
            along = None
            if n_dimensions:
                along = self._read_array(trajectory, (n_dimensions, n_samples), "<f4", where).T
            yield Readout(header, data, along)

    def _read_array(self, place: int, shape: tuple[int, ...], dtype: str, where: str) -> NDArray[Any]:
        values = bytearray(math.prod(shape) * np.dtype(dtype).itemsize)
        rest = memoryview(values)
        try:
            self._file.seek(place)
            while rest:
                n_read = self._file.readinto(rest)
                if not n_read:
                    raise InputError(f"{where}: its samples are no longer there; fetch the file again")
                rest = rest[n_read:]
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({error.strerror}); fetch the file again") from error
        return np.frombuffer(values, dtype).reshape(shape)

    def _read(self) -> None:
        """Read the scan's header and those of all readouts, and step over everything else."""
        where = str(self.path)
        source = Source(self._file, os.fstat(self._file.fileno()).st_size, where)
        schema = read_schema(source, where)
        if schema.protocol != PROTOCOL or list(schema.steps) != [HEADER, DATA]:
            raise InputError(
                f"{where}: holds the protocol {schema.protocol[:40]!r} of {list(schema.steps)[:5]}, expected "
                f"{PROTOCOL!r} of {[HEADER, DATA]}, a scan"
            )
        source.begin("the header", MAX_HEADER_BYTES)
        record = schema.kind(schema.steps[HEADER]).read(source, True)
        if record is not None:
            with _understood(f"{where}: the header"):
                self.xml = header_xml(record, schema)
            self.header = parse_mrd_header(self.xml, f"{where}: the header")
        table = _Table(where)
        self._read_items(source, schema, table)
        self._headers, self._places = table.finished()
        self.n_readouts = len(self._headers)
        if record is None and self.n_readouts:
            raise InputError(f"{where}: its header is missing, and with it the size of the image; write one")
        self.remarks = (*self._remarks_of_the_end(source), *table.remarks)

    def _read_items(self, source: Source, schema: Schema, table: _Table) -> None:
        union = schema.items(DATA)
        cases = [one_line(case[0]) if case else "nothing" for case in union.cases]
        if ACQUISITION not in cases:
            raise InputError(f"{self.path}: its schema has no {ACQUISITION} among its items, expected a scan")
        read, wanted = union.read, cases.index(ACQUISITION)
        n_items = 0
        source.begin("the number of items", None)
        while n_more := source.count(union.least, "items"):
            if n_items + n_more > MAX_READOUTS:
                raise InputError(f"{self.path}: has more than {MAX_READOUTS} items; split it")
            for _ in range(n_more):
                source.begin(f"item {n_items}", MAX_ACQUISITION_BYTES)
                n_items += 1
                index = source.peek()
                if index == wanted:
                    table.add(read(source, True))
                else:
                    source.begin(source.within, None)
                    read(source, False)
                    self.left_out[cases[index]] += 1
            source.begin("the number of items", None)

    def _remarks_of_the_end(self, source: Source) -> list[str]:
        remarks = []
        if self.left_out:
            listed = ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items()))
            remarks.append(f"items of the stream that are no readouts are left out: {listed}")
        if source.left:
            n_left = source.left
            if source.take(min(n_left, len(MAGIC))) == MAGIC:
                raise InputError(
                    f"{self.path}: another stream begins at byte {source.size - n_left}, expected one scan "
                    "in a file; split it there"
                )
            remarks.append(f"what follows the end of the stream is left out ({n_left} bytes)")
        return remarks


class _Table:
    """The readouts' headers, as version 1 has them, and the places of their samples and trajectories."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._headers: list[NDArray[np.void]] = []
        self._places: list[NDArray[np.int64]] = []
        self._n_rows = 0
        self._n_without_center = self._n_with_phase = 0

    @property
    def remarks(self) -> list[str]:
        """What was assumed of the readouts."""
        remarks = []
        if self._n_without_center:
            remarks.append(
                f"readouts that do not say which sample is the centre of k-space ({self._n_without_center}): "
                "taken as the middle one"
            )
        if self._n_with_phase:
            remarks.append(
                f"readouts that carry a phase of each sample ({self._n_with_phase}): taken as applied already"
            )
        return remarks

    def add(self, acquisition: Any) -> None:
        """Add a readout by its record."""
        row = self._n_rows % HEADERS_AT_ONCE
        if row == 0:
            self._headers.append(np.zeros(HEADERS_AT_ONCE, ACQUISITION_HEADER))
            self._places.append(np.zeros((HEADERS_AT_ONCE, 2), np.int64))
        where = f"{self._where}: readout {self._n_rows}"
        with _understood(where):
            self._fill(self._headers[-1][row], self._places[-1][row], acquisition, where)
        self._n_rows += 1

    def finished(self) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """Return the headers (readouts,) and the places (readouts, 2)."""
        if not self._n_rows:
            return np.zeros(0, ACQUISITION_HEADER), np.zeros((0, 2), np.int64)
        return np.concatenate(self._headers)[: self._n_rows], np.concatenate(self._places)[: self._n_rows]

    def _fill(self, header: np.void, places: NDArray[np.int64], acquisition: Any, where: str) -> None:
        head: Mapping[str, Any] = acquisition.get("head", acquisition)  # release 2.0 has no head apart
        data, trajectory, phase = (acquisition.get(name) for name in ("data", "trajectory", "phase"))
        n_channels, n_samples = data.shape
        header["version"] = 1
        header["flags"] = head["flags"]
        sizes = {
            "active_channels": n_channels,
            "available_channels": n_channels,
            "number_of_samples": n_samples,
        }
        places[0] = _place_of(data, "<c8")
        if trajectory is not None and math.prod(trajectory.shape):
            sizes["trajectory_dimensions"] = trajectory.shape[0]
            places[1] = _place_of(trajectory, "<f4")
            if trajectory.shape[1:] != (n_samples,):
                raise InputError(
                    f"{where}: its trajectory is {trajectory.shape}, expected (dimensions, {n_samples})"
                )
        self._n_with_phase += isinstance(phase, ArraySpan) and math.prod(phase.shape) > 0
        center = head["centerSample"]
        if center is None:
            center = n_samples // 2
            self._n_without_center += 1
        sizes["center_sample"] = center
        for name, theirs in _NAMED_ALIKE.items():
            sizes[name] = head[theirs]
        for name, value in sizes.items():
            _assign(header, name, value, where)
        for name, theirs in _COUNTERS.items():
            _assign(header["idx"], name, head["idx"][theirs], where)
        dwell_ns, stamp_ns = head.get("sampleTimeNs"), head.get("acquisitionTimeStampNs")
        header["sample_time_us"] = head.get("sampleTimeUs") or (dwell_ns or 0) / _NS_OF_US
        stamp = head.get("acquisitionTimeStamp") or (stamp_ns or 0) // _NS_OF_MS
        header["acquisition_time_stamp"] = stamp % 2**32
        for name, (theirs, length) in _LISTS.items():
            values = head.get(theirs)
            if values is None:
                values = [each // _NS_OF_MS % 2**32 for each in head.get(f"{theirs}Ns") or ()]
            header[name][: min(length, len(values))] = values[:length]


def _assign(record: np.void, name: str, value: Any, where: str) -> None:
    """Set a field; what is missing is 0."""
    if value is None:
        return
    if name in _MAXIMA and value > _MAXIMA[name]:
        raise InputError(f"{where}: {name} is {value}, expected at most {_MAXIMA[name]}")
    record[name] = value


def _place_of(span: ArraySpan, dtype: str) -> int:
    if span.dtype != np.dtype(dtype):
        raise ValueError(f"an array of {span.dtype}, expected {dtype}")
    return span.place


def _open(path: Path) -> FileIO:
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    start = file.read(len(NDJSON_START))
    file.seek(0)
    if start.startswith(NDJSON_START):
        file.close()
        raise InputError(
            f"{path}: is an MRD version 2 stream as text (NDJSON), expected a binary one; write it with "
            "mrd.BinaryMrdWriter"
        )
    return file


@contextmanager
def _understood(where: str) -> Iterator[None]:
    """Turn what records raise that are not as MRD's are into one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        reason = one_line(f"{type(error).__name__} {error}")
        raise InputError(
            f"{where}: is not as MRD version 2 has it ({reason}), of releases 2.0 to 2.2; check what wrote it"
        ) from error
