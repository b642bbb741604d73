"""Sends a file's readouts to an MRD server as a scanner does, and keeps the images that come back."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.io.hdf5 import writing
from sbim_deploy.io.overwriting import HDF5, check_name
from sbim_deploy.mrd.file import HEADERS_AT_ONCE
from sbim_deploy.mrd.images import MrdImageFile
from sbim_deploy.mrd.messages import (
    Close,
    ConfigFile,
    ConfigText,
    Error,
    Flag,
    Header,
    Image,
    PeerIdleError,
    ProtocolError,
    Readout,
    Text,
)
from sbim_deploy.mrd.recording import MrdScan, open_scan
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits
from sbim_deploy.words import plural

BY_STAMPS = "stamps"
TICK_S = 2.5e-3  # of acquisition_time_stamp as Siemens counts it; MRD itself leaves the unit open
LONGEST_PAUSE_S = 10.0

# Other servers send their log as texts too; what is above these levels is an error.
_LEVELS_OF_NOTES = ("DEBUG", "INFO", "WARN")
_SHOWN_CHARACTERS = 500

Key = tuple[int, ...]


@dataclass(frozen=True)
class Pace:
    """How fast readouts are sent: ``interval_s`` apart, or as their time stamps say.

    An interval of 0 is as fast as the server takes them.
    """

    interval_s: float = 0.0
    by_stamps: bool = False

    def __post_init__(self) -> None:
        """Check the interval."""
        if not 0 <= self.interval_s <= LONGEST_PAUSE_S:
            raise InputError(
                f"the pace is {self.interval_s * 1000:g} ms, expected 0 to {LONGEST_PAUSE_S * 1000:g}"
            )


@dataclass(frozen=True)
class ReplaySettings:
    """Where a scan is sent, and how.

    ``parameters`` is JSON; the server has ``timeout_s`` seconds to answer.
    """

    host: str
    port: int
    config: ConfigFile | ConfigText
    parameters: str | None
    pace: Pace
    timeout_s: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 1 <= self.port <= 65535:
            raise InputError(f"the port is {self.port}, expected 1 to 65535")
        if not 0 < self.timeout_s < math.inf:
            raise InputError(f"the time-out is {self.timeout_s:g} s, expected a finite number above 0")


@dataclass(frozen=True)
class ReceivedImage:
    """An image that came: its numbers, its shape (channel, z, y, x) and its times in seconds.

    ``latency_s`` counts from the last readout of the same slice, contrast, phase, repetition and set that was
    sent before it. Noise readouts do not count; it is None where there was no other. ``received_s`` counts
    from the session's start.
    """

    series: int
    index: int
    slice: int
    contrast: int
    repetition: int
    shape: tuple[int, ...]
    latency_s: float | None
    received_s: float


@dataclass(frozen=True)
class ReplayReport:
    """What was sent and what came back. Times are in seconds from the session's start."""

    n_readouts: int
    sent_s: float
    closed_s: float
    images: tuple[ReceivedImage, ...]
    notes: tuple[str, ...]


class ReplayError(SbimDeployError):
    """The server reported an error, broke the protocol, went away, or sent no image."""


def replay_file(
    path: Path,
    output: Path,
    settings: ReplaySettings,
    report_sent: Callable[[int], None] = lambda _n: None,
    report_image: Callable[[ReceivedImage], None] = lambda _image: None,
    force: bool = False,
) -> ReplayReport:
    """Send an MRD file to a server as a scanner does, and write the images that it returns to another.

    Images are received while readouts are sent. The output appears only where the session ended well.

    Args:
        path: the raw data; waveforms are left out.
        output: the MRD file of images to write.
        settings: the server, the configuration and the pace.
        report_sent: takes the number of readouts sent so far.
        report_image: takes each image's times, in the thread that receives.
        force: whether an output that is there is replaced.

    Raises:
        InputError: the file is not MRD, the output cannot be written, or no server is at the address.
        ReplayError: the server reported an error, broke the protocol, went away or sent no image.
    """
    check_name(output, HDF5)
    with open_scan(path) as scan:
        check_pace(settings.pace, scan)
        with writing(output, force) as hdf5:
            stream = _connect(settings)
            session = _Session(stream, MrdImageFile(hdf5, scan.xml), settings, report_image)
            with ThreadPoolExecutor(1) as pool, stream:
                receiving = pool.submit(session.receive)
                try:
                    session.send(scan, receiving, report_sent)
                    problem = None
                except ProtocolError as error:
                    problem = str(error)
                end = session.wait_for_end(receiving)
            return session.report(scan.n_readouts, problem or end)


def parse_pace(text: str) -> Pace:
    """Read a pace: milliseconds between readouts, or "stamps".

    Raises:
        InputError: it is neither.
    """
    if text == BY_STAMPS:
        return Pace(by_stamps=True)
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if math.isnan(milliseconds):
        raise InputError(f"the pace is {text!r}, expected milliseconds between readouts or {BY_STAMPS!r}")
    return Pace(milliseconds / 1000)


def check_pace(pace: Pace, scan: MrdScan) -> None:
    """Check that a file has the time stamps that its pace needs.

    Raises:
        InputError: they are all the same.
    """
    if not pace.by_stamps:
        return
    first = scan.read_headers(0, 1)["acquisition_time_stamp"]
    for start in range(0, scan.n_readouts, HEADERS_AT_ONCE):
        stop = min(start + HEADERS_AT_ONCE, scan.n_readouts)
        if np.any(scan.read_headers(start, stop)["acquisition_time_stamp"] != first):
            return
    raise InputError(
        f"{scan.path}: all time stamps are {first[0]}, expected some that advance; "
        "give the milliseconds between readouts"
    )


class Clock:
    """Tells when each readout of a scan is due, in seconds from the first."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._due = 0.0
        self._stamp: int | None = None

    def due(self, readout: Readout) -> float:
        """Move on to the next readout.

        Stamps that go back count as no time. Pauses of more than 10 s, which a scan has after its noise
        readouts, count as 10 s.
        """
        stamp = int(readout.header["acquisition_time_stamp"])
        if self._stamp is not None:
            interval = (stamp - self._stamp) * TICK_S if self._pace.by_stamps else self._pace.interval_s
            self._due += min(max(interval, 0.0), LONGEST_PAUSE_S)
        self._stamp = stamp
        return self._due


class _Session:
    """What the thread that sends and the one that receives know of each other."""

    def __init__(
        self,
        stream: SocketStream,
        images: MrdImageFile,
        settings: ReplaySettings,
        report_image: Callable[[ReceivedImage], None],
    ) -> None:
        self._stream, self._file, self._settings = stream, images, settings
        self._report_image = report_image
        self._started = time.monotonic()
        self._all_sent = math.inf  # the server's time to answer begins when it has everything
        self._last_sent: dict[Key, float] = {}
        self._n_sent = 0
        self._images: list[ReceivedImage] = []
        self._notes: list[str] = []
        self._complaints: list[str] = []

    def send(self, scan: MrdScan, receiving: Future[None], report_sent: Callable[[int], None]) -> None:
        """Send the session from the configuration to CLOSE, until the server ends it."""
        self._stream.send(self._settings.config)
        self._stream.send(Header(_header_text(scan)))
        if self._settings.parameters is not None:
            self._stream.send(Text(self._settings.parameters))
        clock, started = Clock(self._settings.pace), time.monotonic()
        for readout in scan.readouts():
            delay = started + clock.due(readout) - time.monotonic()
            if delay > 0:
                wait([receiving], delay)
            if receiving.done():
                return
            if not readout.has(Flag.IS_NOISE_MEASUREMENT):
                self._last_sent[_key(readout.header["idx"])] = time.monotonic()
            self._stream.send(readout)
            self._n_sent += 1
            report_sent(self._n_sent)
        self._stream.send(Close())
        self._all_sent = time.monotonic()

    def receive(self) -> None:
        """Take what the server sends until its CLOSE."""
        while True:
            try:
                message = self._stream.receive(Limits())
            except PeerIdleError:
                if time.monotonic() - self._all_sent < self._settings.timeout_s:
                    continue
                raise
            match message:
                case Close():
                    return
                case Image():
                    self._keep(message, time.monotonic())
                case Error(text):
                    self._complaints.append(_one_line(text))
                case Text(text):
                    words = _one_line(text)
                    is_note = words.startswith(_LEVELS_OF_NOTES)
                    (self._notes if is_note else self._complaints).append(words)

    def wait_for_end(self, receiving: Future[None]) -> str | None:
        """Wait until the server has ended the session, and say what was wrong with the end."""
        # Where sending failed, the server may still have said why.
        self._all_sent = min(self._all_sent, time.monotonic())
        try:
            receiving.result()
        except ProtocolError as error:
            return str(error)
        return None

    def report(self, n_readouts: int, problem: str | None) -> ReplayReport:
        """Sum up a session that ended well, or raise ReplayError."""
        where = f"{self._settings.host}:{self._settings.port}"
        progress = (
            f"{self._n_sent} of {plural(n_readouts, 'readout')} sent, "
            f"{plural(len(self._images), 'image')} received"
        )
        if self._complaints:
            more = f" (and {len(self._complaints) - 1} more)" if len(self._complaints) > 1 else ""
            raise ReplayError(f"{where} reported: {self._complaints[0]}{more}; {progress}")
        if problem is not None:
            raise ReplayError(f"{where}: {problem}; {progress}; look into the server's log")
        if self._n_sent < n_readouts:
            raise ReplayError(f"{where} ended the session early: {progress}; look into the server's log")
        if not self._images:
            raise ReplayError(f"{where} sent no image: {progress}; look into the server's log")
        return ReplayReport(
            n_readouts=self._n_sent,
            sent_s=self._all_sent - self._started,
            closed_s=time.monotonic() - self._started,
            images=tuple(self._images),
            notes=tuple(self._notes),
        )

    def _keep(self, image: Image, now: float) -> None:
        header = image.header
        last = self._last_sent.get(_key(header))
        received = ReceivedImage(
            series=int(header["image_series_index"]),
            index=int(header["image_index"]),
            slice=int(header["slice"]),
            contrast=int(header["contrast"]),
            repetition=int(header["repetition"]),
            shape=image.data.shape,
            latency_s=None if last is None else now - last,
            received_s=now - self._started,
        )
        self._file.append(image)
        self._images.append(received)
        self._report_image(received)


def _connect(settings: ReplaySettings) -> SocketStream:
    address = (settings.host, settings.port)
    try:
        connection = socket.create_connection(address, settings.timeout_s)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{settings.host}:{settings.port}: cannot connect ({reason}); start a server there, or check the "
            "host and the port"
        ) from error
    return SocketStream(connection, settings.timeout_s, settings.timeout_s)


def _header_text(scan: MrdScan) -> str:
    try:
        return scan.xml.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{scan.path}: its XML header is not UTF-8 ({error.reason}); convert it") from None


def _key(counters: np.void) -> Key:
    return tuple(int(counters[name]) for name in ("slice", "contrast", "phase", "repetition", "set"))


def _one_line(text: str) -> str:
    # What a server says must not move the cursor of the terminal.
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in line[:_SHOWN_CHARACTERS])
