"""MRD streams that were kept in a file: message after message, as a scanner sent them.

Such a file needs nothing at its end: where the writer was killed or the disk was full, all before is there.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import open_as
from sbim_deploy.mrd.file import MAX_READOUTS, MrdFile, check_readout
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import (
    ACQUISITION_HEADER,
    Close,
    Header,
    Image,
    Message,
    MessageId,
    PeerGoneError,
    ProtocolError,
    Readout,
)
from sbim_deploy.mrd.stream import MAX_CHANNELS, Limits, read_message, write_message

_LIMITS = Limits()
_OPENINGS = (MessageId.CONFIG_FILE, MessageId.CONFIG_TEXT, MessageId.HEADER)


class MrdRecording:
    """An open file of a kept stream, to be read as a :class:`sbim_deploy.mrd.file.MrdFile` is.

    It is read up to where it stopped, which ``remarks`` tells.

    Attributes:
        path: the file.
        xml: the header's text.
        header: what it says.
        remarks: what there is to say of its end, a sentence each.

    Raises:
        InputError: there is no such file, or no header or no readout in it.
    """

    format = "MRD (ISMRMRD stream)"
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.remarks: tuple[str, ...] = ()
        self._places = array("Q")
        try:
            self._source = _FileSource(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        try:
            self.xml, n_opening = self._read_opening()
            self.header = parse_mrd_header(self.xml, f"{path}: the header")
            self._find_readouts(n_opening)
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    @property
    def n_readouts(self) -> int:
        """The readouts of every kind that came whole."""
        return len(self._places)

    def readouts(self) -> Iterator[Readout]:
        """Read all readouts in the order of the file.

        Raises:
            InputError: see :meth:`read_readouts`.
        """
        yield from self.read_readouts(range(self.n_readouts))

    def read_headers(self, start: int, stop: int) -> NDArray[np.void]:
        """Read the headers, ACQUISITION_HEADER (stop - start,), of the readouts of a range."""
        headers = np.empty(stop - start, ACQUISITION_HEADER)
        for number in range(start, stop):
            self._source.move_to(self._places[number] + 2)
            with self._reading(number):
                headers[number - start] = _header(self._source)
        return headers

    def read_readouts(self, indices: Sequence[int]) -> Iterator[Readout]:
        """Read the readouts of these numbers, one in memory at a time.

        Raises:
            InputError: a readout's samples are compressed, or the file has changed since it was opened.
        """
        for number in indices:
            self._source.move_to(self._places[number])
            with self._reading(number):
                readout = read_message(self._source, _LIMITS)
            assert isinstance(readout, Readout)
            check_readout(readout.header, f"{self.path}: readout {number}")
            yield readout

    def _read_opening(self) -> tuple[bytes, int]:
        """Return the header's text and where it ends; a configuration may stand before it."""
        try:
            for _ in range(2):
                message = read_message(self._source, _LIMITS)
                if isinstance(message, Header):
                    return message.xml.encode(), self._source.place
        except ProtocolError as error:
            raise InputError(
                f"{self.path}: holds no whole header of a scan ({error}); nothing is left"
            ) from None
        raise InputError(f"{self.path}: begins without the header of a scan; check the file")

    def _find_readouts(self, place: int) -> None:
        """Note where each readout is, up to CLOSE or to where the stream stopped."""
        try:
            while True:
                self._source.move_to(place)
                message = self._skip_message()
                if isinstance(message, Close):
                    break
                if message is None:
                    self._places.append(place)
                place = self._source.place
                if self.n_readouts > MAX_READOUTS:
                    raise InputError(f"{self.path}: has more than {MAX_READOUTS} readouts; split the scan")
        except ProtocolError as error:
            why = "its last message is missing" if isinstance(error, PeerGoneError) else str(error)
            rest = self._source.size - place
            left = f" and the last {rest} bytes are left out" if rest else ""
            self.remarks = (
                f"the stream was cut off ({why}): {self.n_readouts} readouts came whole{left}; "
                "the last slice may lack some of its own",
            )
        if not self.n_readouts:
            raise InputError(
                f"{self.path}: holds no whole readout, expected some; nothing is left of the scan"
            )

    def _skip_message(self) -> Message | None:
        """Go past one message; None is a readout, whose samples are not read."""
        start = self._source.place
        if self._source.read_start(2) != MessageId.ACQUISITION.to_bytes(2, "little"):
            self._source.move_to(start)
            message = read_message(self._source, _LIMITS)
            if isinstance(message, Header | Image):
                raise ProtocolError(f"a message {type(message).__name__} stands among the readouts")
            return message
        header = _header(self._source)
        n_channels, n_samples = int(header["active_channels"]), int(header["number_of_samples"])
        n_bytes = n_samples * (8 * n_channels + 4 * int(header["trajectory_dimensions"]))
        if not n_bytes or n_bytes > _LIMITS.max_message_bytes or n_channels > MAX_CHANNELS:
            raise ProtocolError(f"a readout of {n_channels} channels and {n_samples} samples")
        self._source.skip(n_bytes)
        return None

    @contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        try:
            yield
        except ProtocolError as error:
            raise InputError(
                f"{self.path}: readout {number}: {error}; the file has changed since it was opened"
            ) from error


MrdScan = MrdFile | MrdRecording
"""A scan's raw data, in HDF5 or as a kept stream."""


class RecordingWriter:
    """Appends messages to a new file; each is handed to the system at once and whole, nothing is kept back.

    Args:
        path: the file, which must not be there; it is for its owner alone.
        opening: the scan's header.

    Raises:
        OSError: the file cannot be made, or the disk did not take the header.
    """

    def __init__(self, path: Path, opening: Header) -> None:
        self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb", buffering=0)
        try:
            self.append(opening)
        except BaseException:
            self._file.close()
            raise

    def append(self, message: Message) -> None:
        """Write one message; OSError where the disk does not take it."""
        for buffer in write_message(message):
            left = memoryview(buffer)
            while left:
                left = left[self._file.write(left) :]

    def close(self) -> None:
        """Bring the file to the disk and close it; OSError where the disk does not take it."""
        if not self._file.closed:
            with self._file:
                os.fsync(self._file.fileno())


def is_recording(path: Path) -> bool:
    """Tell whether a file begins as a stream of a scan does, and is not HDF5, whatever its name."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
        return int.from_bytes(start, "little") in _OPENINGS and not h5py.is_hdf5(path)
    except OSError:
        return False


def open_scan(path: Path) -> MrdScan:
    """Open a scan's raw data, in HDF5 or as a kept stream.

    Raises:
        InputError: see :class:`MrdRecording` and :func:`sbim_deploy.mrd.file.open_mrd`.
    """
    return MrdRecording(path) if is_recording(path) else open_as(path, MrdFile)


class _FileSource:
    """A file as the source of messages."""

    def __init__(self, path: Path) -> None:
        self._file: BufferedReader = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    @property
    def place(self) -> int:
        """Where the next byte is read."""
        return self._file.tell()

    def move_to(self, place: int) -> None:
        """Read on from a place."""
        self._file.seek(place)

    def skip(self, n_bytes: int) -> None:
        """Go past bytes of a message; ProtocolError where the file ends before."""
        self._check(n_bytes)
        self._file.seek(n_bytes, os.SEEK_CUR)

    def read_start(self, n_bytes: int) -> memoryview:
        """Return the first bytes of a message; PeerGoneError where the file ends before it."""
        if self.place >= self.size:
            raise PeerGoneError("the file ends")
        return self.read_exactly(n_bytes)

    def read_exactly(self, n_bytes: int) -> memoryview:
        """Return the next bytes, whose number is compared with the file's before memory is taken."""
        self._check(n_bytes)
        data = memoryview(bytearray(n_bytes))
        if self._file.readinto(data) < n_bytes:
            raise ProtocolError("the file became shorter while it was read")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check(self, n_bytes: int) -> None:
        if n_bytes > (left := self.size - self.place):
            raise ProtocolError(f"the file ends in a message, after {left} of {n_bytes} bytes of a part")


def _header(source: _FileSource) -> np.void:
    record: np.void = np.frombuffer(source.read_exactly(ACQUISITION_HEADER.itemsize), ACQUISITION_HEADER)[0]
    return record
