"""The messages of MRD's stream, as records.

The messages and their ids are those of the MRD streaming protocol
(https://ismrmrd.readthedocs.io/en/latest/mrd_messages.html), with id 8, an error, from Gadgetron.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.mrd_headers import Readout

PIXEL_TYPES = {1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16"}


class ProtocolError(InputError):
    """The peer sent what is no message, or too much, or nothing in time."""


class PeerGoneError(ProtocolError):
    """The peer ended the connection between two messages, or the connection broke."""


class PeerTimeoutError(ProtocolError):
    """The peer sent or took too little in the time that it had."""


class PeerIdleError(PeerTimeoutError):
    """The peer began no message; one that it begins later can still be read."""


class MessageId(IntEnum):
    """The number that a message begins with."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ERROR = 8
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


@dataclass(frozen=True)
class ConfigFile:
    """The name of the configuration that the client asks for: 1023 bytes at most."""

    name: str


@dataclass(frozen=True)
class ConfigText:
    """The configuration itself."""

    text: str


@dataclass(frozen=True)
class Header:
    """The measurement's ISMRMRD header."""

    xml: str


@dataclass(frozen=True)
class Close:
    """The sender has no more messages."""


@dataclass(frozen=True)
class Text:
    """Text outside the data: parameters as JSON, or a note."""

    text: str


@dataclass(frozen=True)
class Error:
    """What went wrong, as Gadgetron sends and accepts it."""

    text: str


@dataclass(frozen=True, eq=False)
class Image:
    """An image: a record of IMAGE_HEADER, the XML of its attributes, pixels of one of PIXEL_TYPES.

    ``data`` is (channel, z, y, x); writing takes the header's attribute_string_len from ``attributes``.
    """

    header: np.void
    attributes: str
    data: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Waveform:
    """A physiological or other signal: a record of WAVEFORM_HEADER and uint32 (channel, sample)."""

    header: np.void
    data: NDArray[np.uint32]


Message = ConfigFile | ConfigText | Header | Close | Text | Error | Readout | Image | Waveform
