"""One client's session takes configuration, header, parameters and readouts, and sends images.

The session's own thread reads, a sender's thread sends. While the engine's queue is full, reading stops, and
so the client has to wait too.
"""

from __future__ import annotations

import socket
import time

from sbim_deploy.errors import BackendMissingError, InputError, SbimDeployError
from sbim_deploy.kspace.placement import NotSlicesError
from sbim_deploy.mrd.header import MrdHeader, parse_mrd_header
from sbim_deploy.mrd.identity import IdentityMode, parse_identity
from sbim_deploy.mrd.images import pixel_bits
from sbim_deploy.mrd.messages import (
    Close,
    ConfigFile,
    ConfigText,
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
from sbim_deploy.recon.classical import Classical
from sbim_deploy.samplers.choice import make_plan
from sbim_deploy.samplers.presets import DEFAULT_PRESET
from sbim_deploy.serving.images import ImageForm
from sbim_deploy.serving.intake import Intake, Outlet, SliceIntake, is_volume
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
from sbim_deploy.serving.sender import Sender
from sbim_deploy.serving.settings import Service
from sbim_deploy.serving.volumes import VolumeIntake

MAX_TEXT_BYTES = 1024**2
LINGER_S = 2.0
OPENING_S = 10.0  # for configuration and header, which clients send at once
MESSAGE_TIMEOUT_S = 30.0
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
            NotSlicesError: it is nothing that is read.
            BackendMissingError: what reads it is not installed.
            InputError: see :class:`sbim_deploy.serving.intake.Intake`.
        """
        intake: Intake | None = None
        unread: SbimDeployError | None = None
        try:
            intake = self._make_intake(header, request)
        except (NotSlicesError, BackendMissingError) as error:
            unread = error
        while not isinstance(message, Close):
            assert isinstance(message, Readout | Waveform)
            if self.raw is not None:
                self.raw.append(message)
            self._has_data = True
            if isinstance(message, Readout) and intake is not None:
                try:
                    intake.add(message)
                except NotSlicesError as error:
                    intake.reset()
                    intake, unread = None, error
            if unread is not None and (self.raw is None or not self.raw.is_open):
                raise type(unread)(f"{unread}; serve --save-raw keeps what is sent in a file")
            message = self._next(Readout, Waveform, Close)
        if intake is not None:
            intake.finish()
        elif unread is not None:
            if self.raw is None:
                raise unread
            self.raw.close(complete=True)  # it has its name when the client hears it
            raise type(unread)(f"{unread}; what was sent is kept as {self.raw.outcome}")

    def _make_intake(self, header: MrdHeader, request: Request) -> Intake:
        outlet = Outlet(self._service, self._share, self.sender, request)
        return VolumeIntake(header, outlet) if is_volume(header) else SliceIntake(header, outlet)

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


def _name(kind: type[Message]) -> str:
    return _NAMES.get(kind, kind.__name__.upper())
