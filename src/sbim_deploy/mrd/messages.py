"""The messages of MRD's stream as records: ids, flags, fixed headers byte by byte, and the peer's errors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.records import ComplexArray, FloatArray

COUNTERS = np.dtype(
    [
        ("kspace_encode_step_1", "<u2"),
        ("kspace_encode_step_2", "<u2"),
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("segment", "<u2"),
        ("user", "<u2", (8,)),
    ]
)

_PLACE = [
    ("position", "<f4", (3,)),
    ("read_dir", "<f4", (3,)),
    ("phase_dir", "<f4", (3,)),
    ("slice_dir", "<f4", (3,)),
    ("patient_table_position", "<f4", (3,)),
]
_USER = [("user_int", "<i4", (8,)), ("user_float", "<f4", (8,))]

ACQUISITION_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        *_PLACE,
        ("idx", COUNTERS),
        *_USER,
    ]
)

IMAGE_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", "<f4", (3,)),
        ("channels", "<u2"),
        *_PLACE,
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("image_type", "<u2"),
        ("image_index", "<u2"),
        ("image_series_index", "<u2"),
        *_USER,
        ("attribute_string_len", "<u4"),
    ]
)

WAVEFORM_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("time_stamp", "<u4"),
        ("number_of_samples", "<u2"),
        ("channels", "<u2"),
        ("sample_time_us", "<f4"),
        ("waveform_id", "<u2"),
    ],
    align=True,  # the one header that the C library does not pack: 40 bytes
)

PIXEL_TYPES = {1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16"}


class Flag(IntEnum):
    """Flags of a readout that matter here; flag n is bit n - 1 of the header's ``flags``."""

    FIRST_IN_ENCODE_STEP1 = 1
    LAST_IN_ENCODE_STEP1 = 2
    FIRST_IN_ENCODE_STEP2 = 3
    LAST_IN_ENCODE_STEP2 = 4
    FIRST_IN_SLICE = 7
    LAST_IN_SLICE = 8
    FIRST_IN_REPETITION = 13
    LAST_IN_REPETITION = 14
    IS_NOISE_MEASUREMENT = 19
    IS_PARALLEL_CALIBRATION = 20
    IS_PARALLEL_CALIBRATION_AND_IMAGING = 21
    IS_REVERSE = 22
    IS_NAVIGATION_DATA = 23
    IS_PHASECORR_DATA = 24
    LAST_IN_MEASUREMENT = 25
    IS_HPFEEDBACK_DATA = 26
    IS_DUMMYSCAN_DATA = 27
    IS_RTFEEDBACK_DATA = 28
    IS_SURFACECOILCORRECTIONSCAN_DATA = 29
    IS_PHASE_STABILIZATION_REFERENCE = 30
    IS_PHASE_STABILIZATION = 31
    COMPRESSION1 = 53
    COMPRESSION2 = 54
    COMPRESSION3 = 55
    COMPRESSION4 = 56


COMPRESSIONS = sum(1 << (flag - 1) for flag in Flag if flag.name.startswith("COMPRESSION"))


@dataclass(frozen=True)
class Readout:
    """One acquisition: its header (a record of ACQUISITION_HEADER), its samples and its trajectory.

    ``data`` is complex64 (channel, sample), ``trajectory`` float32 (sample, dimension) or None.
    """

    header: np.void
    data: ComplexArray
    trajectory: FloatArray | None = None

    def has(self, flag: Flag) -> bool:
        """Tell whether the readout carries a flag."""
        return bool(int(self.header["flags"]) >> (flag - 1) & 1)


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
