"""The bytes of a Siemens twix file (.dat): its measurements, and where each of their lines lies.

Files of VD, VE and XA begin with a directory of measurements, those of VB are one. A measurement is its
protocol and then lines: a header of 192 bytes and a header of 32 for each channel (VB: one of 128 bytes for
each channel), each with its samples, complex64. ACQEND ends them, SYNCDATA lines carry no samples. twixtools
has the records and the names of the flags. Its reader trusts every length and keeps an object for each line
and channel, so lines are walked here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.mrd.file import MAX_READOUTS
from sbim_deploy.records import ComplexArray

SUFFIX = ".dat"
MAX_MEASUREMENTS = 64
FID_NAVIGATOR = "noname60"

_HDF5_MAGIC = b"\x89HDF"
_FIRST_OF_VD = 10000  # its first number is less; in VB it is the length of the protocol
_FIRST_BYTES = 64
_FIRST_ENTRY = 8
_PROTOCOL_NAME = re.compile(rb"\w{4,47}\0")
_LENGTH_MASK = 2**25 - 1  # of FlagsAndDMALength
_ITEM_BYTES = 8
_HEADER_SIZES = (192, 128, 32)


@dataclass(frozen=True)
class Records:
    """twixtools' records: the headers of a line, of one in VB and of a channel, the directory, the flags."""

    line: np.dtype[np.void]
    line_vb: np.dtype[np.void]
    channel: np.dtype[np.void]
    directory: np.dtype[np.void]
    flags: dict[str, int]


@dataclass(frozen=True)
class Measurement:
    """One measurement of a file: its number, counted from 1, of how many, and its first and last bytes."""

    number: int
    of: int
    start: int
    end: int
    name: str = ""

    def __str__(self) -> str:
        named = f" ({self.name!r})" if self.name else ""
        return f"measurement {self.number} of {self.of}{named}"


def is_twix(path: Path) -> bool:
    """Tell by its first bytes, or by its name where these are not HDF5's, whether a file is twix."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(_FIRST_BYTES)
    except OSError:
        return False
    return _kind(start) is not None or (path.suffix.lower() == SUFFIX and not start.startswith(_HDF5_MAGIC))


def load_records() -> Records:
    """Return the records of the format.

    Raises:
        BackendMissingError: twixtools is not installed, or of another format than this.
    """
    install = install_command("twix")
    try:
        from twixtools import hdr_def, mdh_def
    except ImportError as error:
        raise BackendMissingError(
            f"Siemens' raw data need {error.name or 'twixtools'}, which is not installed; run: {install}"
        ) from error
    flags = {name: 1 << bit for name, bit in mdh_def.mask_dict.items()}
    flags.setdefault(FID_NAVIGATOR, 1 << 60)  # the format gives it no name
    records = Records(
        line=np.dtype(mdh_def.Scan_header),
        line_vb=np.dtype(mdh_def.VB17_header),
        channel=np.dtype(mdh_def.Channel_header),
        directory=np.dtype(hdr_def.MultiRaidFileHeader),
        flags=flags,
    )
    sizes = tuple(each.itemsize for each in (records.line, records.line_vb, records.channel))
    if sizes != _HEADER_SIZES:
        raise BackendMissingError(
            f"twixtools has headers of {sizes} bytes, expected {_HEADER_SIZES}: {install}"
        )
    return records


class TwixBytes:
    """An open twix file, mapped into memory and not read.

    Attributes:
        path: the file.
        is_vb: whether it is of VB.
        flags: the bit of each flag, by twixtools' names.
        measurements: what its directory lists, in order.

    Raises:
        InputError: it is not twix, or its directory is damaged.
        BackendMissingError: twixtools is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        records = load_records()
        try:
            self.n_bytes = os.path.getsize(path)
            self._map: NDArray[np.uint8] = (
                np.memmap(path, np.uint8, mode="r") if self.n_bytes else np.zeros(0, np.uint8)
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); check the file") from error
        kind = _kind(self.take(0, _FIRST_BYTES))
        if kind is None:
            raise InputError(
                f"{path}: is no twix file: it begins with neither a directory of measurements (VD, VE, XA) "
                "nor a protocol (VB); is it Siemens' raw data, and whole?"
            )
        self.is_vb = kind == "VB"
        self.flags = records.flags
        self._line = records.line_vb if self.is_vb else records.line
        self._channel = records.line_vb if self.is_vb else records.channel
        self._n_before_channels = 0 if self.is_vb else records.line.itemsize
        self.measurements = (
            [Measurement(1, 1, 0, self.n_bytes)] if self.is_vb else self._directory(records.directory)
        )

    def close(self) -> None:
        """Let go of the file."""
        self._map = np.zeros(0, np.uint8)

    def take(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range, as far as the file has them."""
        return self._map[start:stop].tobytes()

    def records_at(self, offsets: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the headers (line,) of the lines that lie at ``offsets``."""
        places = offsets[:, None] + np.arange(self._line.itemsize)
        records: NDArray[np.void] = self._map[places].reshape(-1).view(self._line)
        return records

    def channels_at(self, offset: int, n_channels: int, n_samples: int) -> NDArray[np.void]:
        """Return the channels of the line at ``offset``: ``head`` and ``samples``."""
        channel = np.dtype([("head", self._channel), ("samples", "<c8", (n_samples,))])
        start = offset + self._n_before_channels
        return np.frombuffer(self.take(start, start + n_channels * channel.itemsize), channel)

    def walk(self, measurement: Measurement, start: int) -> Lines:
        """Return the lines of a measurement, which begin at ``start``.

        Raises:
            InputError: a line is empty, has no length, or does not end within the measurement.
        """
        where, end = f"{self.path}: {measurement}", measurement.end
        n_head, per_line, per_channel = self._line.itemsize, self._n_before_channels, self._channel.itemsize
        fields: Any = self._line.fields
        flags_at = int(fields["EvalInfoMask"][1])  # and then the samples and the channels
        view = memoryview(self._map)  # type: ignore[arg-type]
        last, sync = self.flags["ACQEND"], self.flags["SYNCDATA"]
        offsets: list[int] = []
        n_sync, place, is_complete = 0, start, False
        while place + n_head <= end:
            mask, n_samples, n_channels = struct.unpack_from("<QHH", view, place + flags_at)
            if mask & last:
                is_complete = True
                break
            if mask & sync:
                (length,) = struct.unpack_from("<I", view, place)
                n_bytes = length & _LENGTH_MASK
                n_sync += 1
            else:
                n_bytes = per_line + n_channels * (per_channel + _ITEM_BYTES * n_samples)
                offsets.append(place)
                if not n_samples or not n_channels or len(offsets) > MAX_READOUTS:
                    raise InputError(
                        f"{where}: line {len(offsets)} has {n_channels} channels of {n_samples} samples, "
                        f"expected some, and at most {MAX_READOUTS} lines; it is damaged, fetch it again"
                    )
            if n_bytes < n_head or place + n_bytes > end:
                raise InputError(
                    f"{where}: line {len(offsets) + n_sync} at byte {place} has {n_bytes} bytes, expected "
                    f"{n_head} to {end - place}; the file is cut short or damaged, fetch it again"
                )
            place += n_bytes
        return Lines(self, np.array(offsets, np.int64), n_sync, is_complete)

    def _directory(self, record: np.dtype[np.void]) -> list[Measurement]:
        listed = self.take(0, record.itemsize)
        if len(listed) < record.itemsize:
            raise InputError(f"{self.path}: ends within its directory; it is cut short, fetch it again")
        directory = np.frombuffer(listed, record)[0]
        count = int(directory["hdr"]["count_"])
        found = []
        for number, entry in enumerate(directory["entry"][:count], 1):
            start, length = int(entry["off_"]), int(entry["len_"])
            # A single measurement may be listed without its length.
            end = start + length if length or number < count else self.n_bytes
            name = bytes(entry["protName_"]).decode("latin-1")
            found.append(Measurement(number, count, start, end, "".join(filter(str.isprintable, name))))
        return found

    def check_within(self, measurement: Measurement) -> None:
        """Check that a measurement lies within the file.

        Raises:
            InputError: it does not.
        """
        if not 0 <= measurement.start < measurement.end <= self.n_bytes:
            raise InputError(
                f"{self.path}: {measurement} is listed from byte {measurement.start} to {measurement.end}, "
                f"the file has {self.n_bytes}; it is cut short or damaged, fetch it again"
            )


class Lines:
    """The lines of a measurement that have samples.

    Attributes:
        n_sync: how many SYNCDATA lines are left out.
        is_complete: whether ACQEND ends them.
        flags: the bit of each flag, by twixtools' names.
    """

    def __init__(
        self, file: TwixBytes, offsets: NDArray[np.int64], n_sync: int = 0, is_complete: bool = True
    ) -> None:
        self.n_sync, self.is_complete = n_sync, is_complete
        self.flags: Mapping[str, int] = file.flags
        self._file, self._offsets = file, offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def after(self, other: Lines, numbers: Sequence[int]) -> Lines:
        """Return these lines with some of another measurement of the file before them."""
        offsets = np.concatenate([other._offsets[list(numbers)], self._offsets])
        return Lines(self._file, offsets, self.n_sync, self.is_complete)

    def headers(self, numbers: slice | NDArray[np.intp]) -> NDArray[np.void]:
        """Read the headers of some lines, as twixtools names their parts."""
        return self._file.records_at(self._offsets[numbers])

    def samples(self, number: int, header: Any) -> ComplexArray:
        """Read the samples (channel, sample) of a line, whose header is given."""
        samples: ComplexArray = self._channels(number, header)["samples"].astype(np.complex64)
        return samples

    def channel_ids(self, number: int) -> tuple[int, ...]:
        """Return which receiver channel each of a line's channels is."""
        (header,) = self.headers(slice(number, number + 1))
        ids: NDArray[np.uint16] = self._channels(number, header)["head"]["ChannelId"]
        return tuple(ids.tolist())

    def _channels(self, number: int, header: Any) -> NDArray[np.void]:
        return self._file.channels_at(
            int(self._offsets[number]), int(header["UsedChannels"]), int(header["SamplesInScan"])
        )


def _kind(start: bytes) -> str | None:
    """Tell a file of VD and later from one of VB by its first bytes; None is neither."""
    if len(start) < _FIRST_BYTES:
        return None
    first, second = struct.unpack_from("<II", start)
    (entry,) = struct.unpack_from("<Q", start, _FIRST_ENTRY + 8)
    if first < _FIRST_OF_VD and 1 <= second <= MAX_MEASUREMENTS and entry >= _FIRST_ENTRY + 152 * second:
        return "VD"
    return "VB" if first >= _FIRST_ENTRY and _PROTOCOL_NAME.match(start, 8) else None
