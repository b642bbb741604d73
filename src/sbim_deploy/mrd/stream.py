"""Messages to bytes and back: each is a uint16 id and its body, all little-endian.

The peer is a stranger: every length is compared with ``Limits`` before memory is taken for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import (
    ACQUISITION_HEADER,
    IMAGE_HEADER,
    PIXEL_TYPES,
    WAVEFORM_HEADER,
    Close,
    ConfigFile,
    ConfigText,
    Error,
    Header,
    Image,
    Message,
    MessageId,
    ProtocolError,
    Readout,
    Text,
    Waveform,
)

CONFIG_FILE_BYTES = 1024
MAX_CHANNELS = 1024  # the bits of channel_mask

Buffer = bytes | memoryview


@dataclass(frozen=True)
class Limits:
    """The most bytes that a peer may make us take: of samples or pixels in a message, and of text in one."""

    max_message_bytes: int = 256 * 1024**2
    max_text_bytes: int = 16 * 1024**2

    def __post_init__(self) -> None:
        """Raise InputError for a limit below one byte."""
        if min(self.max_message_bytes, self.max_text_bytes) < 1:
            raise InputError(f"limits of a message are {self}, expected at least one byte")


class ByteSource(Protocol):
    """Where messages come from."""

    def read_start(self, n_bytes: int) -> Buffer:
        """Return the first bytes of a message; raise PeerGoneError where the stream ends before the first."""

    def read_exactly(self, n_bytes: int) -> Buffer:
        """Return the next bytes of the message; raise ProtocolError where the stream ends before the last."""


def read_message(source: ByteSource, limits: Limits) -> Message:
    """Read one message.

    Raises:
        PeerGoneError: the stream ended before the message, as a peer's does that is done.
        ProtocolError: the id is unknown, a length is above its limit, the header contradicts itself, a
            text is not UTF-8, or the stream ended in the message. Nothing after it can be read.
    """
    (number,) = struct.unpack("<H", source.read_start(2))
    try:
        message_id = MessageId(number)
    except ValueError:
        known = ", ".join(str(each.value) for each in MessageId)
        raise ProtocolError(f"message id {number} is unknown, expected one of {known}") from None
    return _READERS[message_id](source, limits)


def write_message(message: Message) -> list[Buffer]:
    """Return a message as buffers of bytes to send one after the other; samples and pixels are not copied.

    Texts go without a trailing NUL.

    Raises:
        InputError: the message contradicts itself, or does not fit the format.
    """
    match message:
        case ConfigFile(name):
            return [_id(MessageId.CONFIG_FILE) + _config_name(name)]
        case ConfigText(text):
            return [_id(MessageId.CONFIG_TEXT) + _counted("<I", text)]
        case Header(xml):
            return [_id(MessageId.HEADER) + _counted("<I", xml)]
        case Close():
            return [_id(MessageId.CLOSE)]
        case Text(text):
            return [_id(MessageId.TEXT) + _counted("<I", text)]
        case Error(text):
            return [_id(MessageId.ERROR) + _counted("<Q", text)]
        case Readout():
            return _write_readout(message)
        case Image():
            return _write_image(message)
        case Waveform(header, data):
            _check_shape(data, _check_waveform(header), "waveform")
            return [_id(MessageId.WAVEFORM) + header.tobytes(), _bytes_of(data, "<u4")]
        case _:
            assert_never(message)


def _read_config_file(source: ByteSource, _limits: Limits) -> ConfigFile:
    name, _, _ = bytes(source.read_exactly(CONFIG_FILE_BYTES)).partition(b"\0")
    return ConfigFile(_decode(name, "the configuration's name"))


def _read_text(source: ByteSource, limits: Limits, length_format: str, what: str) -> str:
    (length,) = struct.unpack(length_format, source.read_exactly(struct.calcsize(length_format)))
    _check_size(length, limits.max_text_bytes, what)
    # Some peers end a text with a NUL that the length counts, some do not.
    return _decode(bytes(source.read_exactly(length)).rstrip(b"\0"), what)


def _read_readout(source: ByteSource, limits: Limits) -> Readout:
    header = _read_record(source, ACQUISITION_HEADER)
    n_channels, n_samples, n_dimensions = _check_readout(header)
    trajectory_bytes = n_samples * n_dimensions * 4
    data_bytes = n_channels * n_samples * 8
    _check_size(trajectory_bytes + data_bytes, limits.max_message_bytes, "a readout")
    trajectory = None
    if n_dimensions:
        trajectory = _read_array(source, "<f4", (n_samples, n_dimensions))
    return Readout(header, _read_array(source, "<c8", (n_channels, n_samples)), trajectory)


def _read_image(source: ByteSource, limits: Limits) -> Image:
    header = _read_record(source, IMAGE_HEADER)
    dtype, shape = _check_image(header)
    n_bytes = math.prod(shape) * dtype.itemsize
    _check_size(n_bytes, limits.max_message_bytes, "an image")
    attributes = _read_text(source, limits, "<Q", "an image's attributes")
    return Image(header, attributes, _read_array(source, dtype, shape))


def _read_waveform(source: ByteSource, limits: Limits) -> Waveform:
    header = _read_record(source, WAVEFORM_HEADER)
    shape = _check_waveform(header)
    _check_size(shape[0] * shape[1] * 4, limits.max_message_bytes, "a waveform")
    return Waveform(header, _read_array(source, "<u4", shape))


_READERS: dict[MessageId, Callable[[ByteSource, Limits], Message]] = {
    MessageId.CONFIG_FILE: _read_config_file,
    MessageId.CONFIG_TEXT: lambda source, limits: ConfigText(
        _read_text(source, limits, "<I", "a configuration")
    ),
    MessageId.HEADER: lambda source, limits: Header(_read_text(source, limits, "<I", "the header")),
    MessageId.CLOSE: lambda _source, _limits: Close(),
    MessageId.TEXT: lambda source, limits: Text(_read_text(source, limits, "<I", "a text")),
    MessageId.ERROR: lambda source, limits: Error(_read_text(source, limits, "<Q", "an error's text")),
    MessageId.ACQUISITION: _read_readout,
    MessageId.IMAGE: _read_image,
    MessageId.WAVEFORM: _read_waveform,
}


def _read_record(source: ByteSource, dtype: np.dtype[np.void]) -> np.void:
    record: np.void = np.frombuffer(bytearray(source.read_exactly(dtype.itemsize)), dtype)[0]
    return record


def _read_array(source: ByteSource, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(source.read_exactly(n_bytes), dtype).reshape(shape)


def _check_readout(header: np.void) -> tuple[int, int, int]:
    n_channels, n_samples = int(header["active_channels"]), int(header["number_of_samples"])
    if not 1 <= n_channels <= MAX_CHANNELS or not n_samples:
        raise ProtocolError(
            f"a readout of {n_channels} active channels and {n_samples} samples, "
            f"expected 1 to {MAX_CHANNELS} and at least 1"
        )
    return n_channels, n_samples, int(header["trajectory_dimensions"])


def _check_image(header: np.void) -> tuple[np.dtype[Any], tuple[int, ...]]:
    data_type = int(header["data_type"])
    if data_type not in PIXEL_TYPES:
        raise ProtocolError(f"an image's data type is {data_type}, expected 1 to 8")
    shape = (int(header["channels"]), *(int(size) for size in header["matrix_size"][::-1]))
    if 0 in shape:
        raise ProtocolError(f"an image of (channels, z, y, x) {shape}, expected at least one of each")
    return np.dtype(PIXEL_TYPES[data_type]), shape


def _check_waveform(header: np.void) -> tuple[int, int]:
    n_channels, n_samples = int(header["channels"]), int(header["number_of_samples"])
    if not n_channels or not n_samples:
        raise ProtocolError(f"a waveform of {n_channels} channels and {n_samples} samples, expected some")
    return n_channels, n_samples


def _check_size(n_bytes: int, limit: int, what: str) -> None:
    if n_bytes > limit:
        raise ProtocolError(
            f"{what} is {n_bytes} bytes, expected at most {limit}; send less or raise the limit"
        )


def _check_shape(data: NDArray[Any], expected: tuple[int, ...], what: str) -> None:
    if data.shape != expected:
        raise InputError(f"a {what}'s data are {data.shape}, expected {expected} of its header")


def _decode(text: bytes, what: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{what} is not UTF-8 ({error.reason} at byte {error.start})") from None


def _id(message_id: MessageId) -> bytes:
    return struct.pack("<H", message_id)


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"a text cannot be sent as UTF-8 ({error.reason} at {error.start})") from None


def _counted(length_format: str, text: str) -> bytes:
    encoded = _encode(text)
    try:
        return struct.pack(length_format, len(encoded)) + encoded
    except struct.error:
        raise InputError(f"a text is {len(encoded)} bytes, expected less than 4 GiB") from None


def _config_name(name: str) -> bytes:
    encoded = _encode(name)
    if len(encoded) >= CONFIG_FILE_BYTES or b"\0" in encoded:
        raise InputError(
            f"the configuration's name is {len(encoded)} bytes, expected at most {CONFIG_FILE_BYTES - 1}, "
            "none of them NUL"
        )
    return encoded.ljust(CONFIG_FILE_BYTES, b"\0")


def _write_readout(readout: Readout) -> list[Buffer]:
    n_channels, n_samples, n_dimensions = _check_readout(readout.header)
    _check_shape(readout.data, (n_channels, n_samples), "readout")
    buffers: list[Buffer] = [_id(MessageId.ACQUISITION) + readout.header.tobytes()]
    if readout.trajectory is not None or n_dimensions:
        trajectory = np.zeros((n_samples, 0)) if readout.trajectory is None else readout.trajectory
        _check_shape(trajectory, (n_samples, n_dimensions), "trajectory")
        buffers.append(_bytes_of(trajectory, "<f4"))
    return [*buffers, _bytes_of(readout.data, "<c8")]


def _write_image(image: Image) -> list[Buffer]:
    dtype, shape = _check_image(image.header)
    _check_shape(image.data, shape, "image")
    if image.data.dtype != dtype:
        raise InputError(
            f"an image's data are {image.data.dtype}, expected {dtype} of its header's data type"
        )
    attributes = _counted("<Q", image.attributes)
    header = image.header.copy()
    header["attribute_string_len"] = len(attributes) - 8
    return [_id(MessageId.IMAGE) + header.tobytes() + attributes, _bytes_of(image.data, dtype)]


def _bytes_of(data: NDArray[Any], dtype: DTypeLike) -> memoryview:
    # A view as bytes first: memoryview cannot cast complex numbers.
    return np.ascontiguousarray(data, dtype).reshape(-1).view(np.uint8).data
