"""One client's session takes configuration, header, parameters and readouts, and sends images.

The session's own thread reads, a sender's thread sends. While the engine's queue is full, reading stops, and
so the client has to wait too.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from sbim_deploy.errors import BackendMissingError, InputError, SbimDeployError
from sbim_deploy.kspace.assembler import Assembler
from sbim_deploy.kspace.placement import NotSlicesError, check_is_cartesian, check_promises_slices
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.slice_buffer import AssembledSlice
from sbim_deploy.kspace.trajectory_readouts import TrajectoryAssembler, has_trajectory
from sbim_deploy.mrd.header import MrdHeader, parse_mrd_header
from sbim_deploy.mrd.identity import IdentityMode, parse_identity
from sbim_deploy.mrd.images import pixel_bits
from sbim_deploy.mrd.messages import (
    Close,
    ConfigFile,
    ConfigText,
    Flag,
    Header,
    Message,
    PeerGoneError,
    PeerIdleError,
    ProtocolError,
    Readout,
    Text,
    Waveform,
)
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits
from sbim_deploy.mrd.xml import parse_root
from sbim_deploy.mri.nonuniform import import_finufft
from sbim_deploy.recon.classical import Classical
from sbim_deploy.recon.prepare import NOISE_READOUTS, SliceProblem, prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.streams import work_bytes
from sbim_deploy.samplers.choice import make_plan
from sbim_deploy.samplers.presets import DEFAULT_PRESET
from sbim_deploy.serving.images import ImageForm
from sbim_deploy.serving.log import place_of, warn
from sbim_deploy.serving.memory import Share
from sbim_deploy.serving.parameters import (
    Parameters,
    Request,
    configuration_name,
    make_request,
    parse_parameters,
    session_identity,
)
from sbim_deploy.serving.raw_file import RawFile
from sbim_deploy.serving.sender import Pending, Sender
from sbim_deploy.serving.settings import Service
from sbim_deploy.serving.worker import SliceJob

MAX_TEXT_BYTES = 1024**2
LINGER_S = 2.0
OPENING_S = 10.0  # for configuration and header, which clients send at once
MESSAGE_TIMEOUT_S = 30.0
IN_PROGRESS = "slices in progress"
_GAVE_WAY = "nothing came on this connection, and it was ended for another: connect again, and send at once"
_NAMES: dict[type[Message], str] = {ConfigFile: "CONFIG", ConfigText: "CONFIG", Readout: "ACQUISITION"}


class Session:
    """A connection that :meth:`run` serves until its end.

    ``outcome`` says how it ended, ``raw`` is its raw data's file where they are kept, ``gives_way`` whether
    it was ended for another.
    """

    def __init__(self, connection: socket.socket, service: Service, number: int):
        idle = service.settings.idle_timeout_s
        opening = min(idle, OPENING_S)
        stream = SocketStream(connection, opening, opening)
        self.number = number
        self.gives_way = False
        self._timeouts = idle, min(idle, MESSAGE_TIMEOUT_S)
        self._opened_at: float | None = None
        self._has_data = False
        self.outcome = "completed"
        self._stream, self._service = stream, service
        self._limits = Limits(service.settings.max_message_bytes, MAX_TEXT_BYTES)
        self._share = Share(service.budget)
        self.sender = Sender(stream, service, number, self._share.release)
        self.raw: RawFile | None = None

    @property
    def is_silent(self) -> bool:
        """Whether it may give way: without a header, or without a readout some seconds after it."""
        opened_at = self._opened_at
        is_late = opened_at is None or time.monotonic() - opened_at > OPENING_S
        return is_late and not self._has_data

    @property
    def has_header(self) -> bool:
        """Whether configuration and header have come."""
        return self._opened_at is not None

    def give_way(self) -> None:
        """End the session, in words, for another that waits; from any thread."""
        self.gives_way = True
        self._stream.stop_receiving()

    def run(self) -> None:
        """Serve the client; it hears what went wrong, and CLOSE, unless it broke the connection."""
        try:
            self._receive_all()
        except PeerGoneError as error:
            if self.gives_way:
                self._refuse(error, InputError(_GAVE_WAY))
            else:
                self.outcome = "vanished"
                self.sender.give_up()
        except SbimDeployError as error:
            self._refuse(error, error)
        except Exception as error:
            warn("crash", session=self.number, error=type(error).__name__, place=place_of(error))
            self._refuse(error, RuntimeError("the server failed; its log says where"))
        finally:
            self.sender.finish()
            self._share.close()
            self._stream.close(0 if self.sender.broken.is_set() else LINGER_S)
            if self.raw is not None:
                self.raw.close(complete=self.outcome == "completed")

    def _receive_all(self) -> None:
        configuration = configuration_name(self._configuration(self._next(ConfigFile, ConfigText)))
        text = self._next(Header)
        assert isinstance(text, Header)
        header = parse_mrd_header(text.xml, "the header")
        self._stream.set_timeouts(*self._timeouts)
        self._opened_at = time.monotonic()
        if self._service.settings.save_raw is not None:
            self.raw = RawFile(self._service.settings.save_raw, self.number, text)
        message = self._next(Text, Readout, Waveform, Close)
        parameters = Parameters()
        if isinstance(message, Text):
            parameters = parse_parameters(message.text)
            message = self._next(Readout, Waveform, Close)
        request = make_request(configuration, parameters)
        mode = session_identity(self._service.settings.identity, parameters)
        self.sender.form = self._image_form(header, text.xml, mode)
        if not isinstance(request.method, Classical):
            make_plan(request.method, self._service.prior)  # refuses more steps than the model has levels
        self._receive_data(header, request, message)

    def _image_form(self, header: MrdHeader, xml: str, mode: IdentityMode) -> ImageForm:
        """Return how the images leave: where no patient can be kept they are anonymous, and say so."""
        bits, keep_grid = pixel_bits(header.bits_stored), self._service.settings.keep_grid
        if mode is IdentityMode.ANONYMOUS:
            return ImageForm(bits, keep_grid)
        try:
            identity = parse_identity(xml, "the header")
        except InputError as error:
            warn("anonymous", session=self.number, reason=str(error))  # the error names elements alone
            return ImageForm(bits, keep_grid, remarks=(f"anonymous: {error}",))
        lacking = ", ".join(identity.lacking)
        remarks = (f"the header has no {lacking}",) if lacking else ()
        return ImageForm(bits, keep_grid, identity, remarks)

    def _receive_data(self, header: MrdHeader, request: Request, message: Message) -> None:
        """Take readouts to the end; of what cannot be read they are kept alone, where raw data are kept.

        Raises:
            NotSlicesError: it is none of the slices that are read.
            BackendMissingError: what reads it is not installed.
            InputError: see :class:`sbim_deploy.kspace.assembler.Assembler`.
        """
        unread = _why_unread(header)
        assembler = self._make_assembler(header)
        while not isinstance(message, Close):
            assert isinstance(message, Readout | Waveform)
            if self.raw is not None:
                self.raw.append(message)
            self._has_data = True
            if isinstance(message, Readout) and unread is None:
                try:
                    with self._service.whole_slices if _ends_slices(message) else nullcontext():
                        complete = assembler.add(message)
                except NotSlicesError as error:
                    unread, complete = error, []
                    assembler.reset()
                self._submit(complete, request, assembler)
            if unread is not None and (self.raw is None or not self.raw.is_open):
                raise type(unread)(f"{unread}; serve --save-raw keeps what is sent in a file")
            message = self._next(Readout, Waveform, Close)
        if unread is not None:
            assert self.raw is not None
            self.raw.close(complete=True)  # it has its name when the client hears it
            raise type(unread)(f"{unread}; what was sent is kept as {self.raw.outcome}")
        with self._service.whole_slices:
            complete = assembler.finish()
        self._submit(complete, request, assembler)

    def _make_assembler(self, header: MrdHeader) -> Assembler[Any]:
        settings = self._service.settings
        kind: type[TrajectoryAssembler] | type[SliceAssembler]
        kind = TrajectoryAssembler if has_trajectory(header) else SliceAssembler
        return kind(
            header, settings.max_memory_bytes, orientation=settings.orientation, admit=self._admit
        )

    def _admit(self, n_bytes: int, shape: tuple[int, int, int], n_samples: int) -> None:
        """Take the memory of slices in progress and of the work on one of them, before it is used."""
        self._share.reserve(work_bytes(shape, self._service.width, n_samples))
        self._share.hold(IN_PROGRESS, n_bytes)

    def _submit(self, complete: list[AssembledSlice], request: Request, assembler: Assembler[Any]) -> None:
        self._share.hold(IN_PROGRESS, assembler.n_whole_bytes)
        for data in complete:
            self._share.hold(data, data.n_bytes)
        for data in complete:
            work = self._work_bytes(data)
            job = SliceJob(partial(prepare, data), request, self._service.settings.deadline_s, work)
            self.sender.put(Pending(data, job))  # before submit, which may wait until after the deadline
            self._service.worker.submit(job)

    def _work_bytes(self, data: AssembledSlice) -> int:
        """Return what the work on a slice takes at most."""
        width = self._service.width
        if data.places is None:
            return work_bytes(data.kspace.shape, width)
        return work_bytes((len(data.kspace), *data.image_shape), width, data.places[..., 0].size)

    def _next(self, *expected: type[Message]) -> Message:
        message = self._receive()
        if not isinstance(message, expected):
            wanted = " or ".join(dict.fromkeys(_name(kind) for kind in expected))
            raise ProtocolError(f"wrong order: got {_name(type(message))}, expected {wanted}")
        return message

    def _receive(self) -> Message:
        while True:
            try:
                return self._stream.receive(self._limits)
            except PeerIdleError:
                if not self.sender.is_busy:  # a client may wait for its images
                    raise

    def _configuration(self, message: Message) -> str:
        if isinstance(message, ConfigFile):
            return message.name
        assert isinstance(message, ConfigText)
        if self._service.settings.gadgetron:
            return configuration_of_xml(message.text)
        return message.text.strip()

    def _refuse(self, error: Exception, words: Exception) -> None:
        """Tell the client after the images of what it sent before. The log gets only the error's kind."""
        self.outcome = "refused" if isinstance(error, SbimDeployError) else "failed"
        warn("session-error", session=self.number, error=type(error).__name__)
        self.sender.put_error(words)


def configuration_of_xml(text: str) -> str:
    """Return the configuration that Gadgetron's XML names: a <preset> anywhere in it, or the default.

    Raises:
        InputError: the text is not plain XML.
    """
    named = parse_root(text.encode(), "the configuration").find(".//{*}preset")
    return DEFAULT_PRESET if named is None else (named.text or "").strip()


def prepare(data: AssembledSlice, check: Callable[[], None] = lambda: None) -> SliceProblem:
    """Return the problem of an assembled slice, as ``recon`` makes it of the same readouts in a file.

    ``check`` is called between the parts of the work; what it raises ends it.

    Raises:
        InputError: the slice cannot be reconstructed.
    """
    if data.fault is not None:
        raise InputError(data.fault)
    if data.places is not None:
        return prepare_trajectory_slice(
            data.kspace,
            data.places,
            data.image_shape,
            data.slice,
            noise=data.noise,
            noise_source=NOISE_READOUTS,
            check=check,
        )
    return prepare_slice(
        data.kspace,
        data.slice,
        image_shape=data.image_shape,
        calibration=data.calibration,
        noise=data.noise,
        noise_source=NOISE_READOUTS,
        check=check,
    )


def _why_unread(header: MrdHeader) -> SbimDeployError | None:
    """Return why a header promises no 2D slices that can be read here, or None where there may be some."""
    if has_trajectory(header):
        try:
            check_promises_slices(header.encodings[0], "encoding space 0")
            import_finufft()
        except (NotSlicesError, BackendMissingError) as error:
            return error
        return None
    found: NotSlicesError | None = None
    for number, encoding in enumerate(header.encodings):
        try:
            check_is_cartesian(encoding, f"encoding space {number}")
            check_promises_slices(encoding, f"encoding space {number}")
        except NotSlicesError as error:
            found = found or error
        else:
            return None
    return found


def _ends_slices(readout: Readout) -> bool:
    return readout.has(Flag.LAST_IN_SLICE) or readout.has(Flag.LAST_IN_MEASUREMENT)


def _name(kind: type[Message]) -> str:
    return _NAMES.get(kind, kind.__name__.upper())
