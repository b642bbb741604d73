"""Messages that no honest client sends, and what an honest one sends before and beside them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sbim_deploy.mrd.header import Encoding, Space, format_header
from sbim_deploy.mrd.messages import (
    ACQUISITION_HEADER,
    IMAGE_HEADER,
    WAVEFORM_HEADER,
    Close,
    ConfigFile,
    Flag,
    Header,
    Message,
    MessageId,
    Readout,
    Text,
)
from sbim_deploy.mrd.stream import write_message
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.records import FloatArray
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice

KNOWN_IDS = {each.value for each in MessageId}
FIELD_OF_VIEW_MM = 220.0
GIB = 1024**3


@dataclass(frozen=True)
class Scan:
    """An honest session and its truth: the readouts of each slice, and its magnitude (rows, columns)."""

    xml: str
    slices: tuple[tuple[Readout, ...], ...]
    truth: tuple[FloatArray, ...]

    def messages(self, config: str, parameters: str) -> list[Message]:
        """Give the session from the configuration to CLOSE."""
        readouts = [readout for each in self.slices for readout in each]
        return [ConfigFile(config), Header(self.xml), Text(parameters), *readouts, Close()]


def simulate_scan(n_slices: int, size: int, n_coils: int, acceleration: float) -> Scan:
    """Simulate brain slices as readouts, the last of each flagged."""
    settings = SimulateSettings(n_slices, n_coils, size, acceleration)
    mask = line_mask(size, acceleration)
    simulated = [simulate_slice(settings, mask, index) for index in range(n_slices)]
    space = Space((size, size, 1), (FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM, 5.0))
    lines = np.flatnonzero(mask)
    return Scan(
        format_header(Encoding(space, space)),
        tuple(
            tuple(_readout(each.kspace, number, line, line == lines[-1]) for line in lines)
            for number, each in enumerate(simulated)
        ),
        tuple(np.abs(each.reference) for each in simulated),
    )


def _readout(kspace, number: int, line: int, last: bool) -> Readout:
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["version"] = 1
    header["available_channels"] = header["active_channels"] = kspace.shape[0]
    header["number_of_samples"], header["center_sample"] = kspace.shape[1], kspace.shape[1] // 2
    header["idx"]["kspace_encode_step_1"], header["idx"]["slice"] = line, number
    header["read_dir"], header["phase_dir"], header["slice_dir"] = np.eye(3)
    header["position"] = (0, 0, 5 * number)
    header["flags"] = 1 << (Flag.LAST_IN_SLICE - 1) if last else 0
    return Readout(header, np.ascontiguousarray(kspace[:, :, line]))


def as_bytes(*messages: Message) -> bytes:
    """Give messages as one string of bytes."""
    return b"".join(bytes(buffer) for message in messages for buffer in write_message(message))


class Malformed:
    """Bytes that are no session, of every kind in turn; the same for a seed."""

    def __init__(self, scan: Scan, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._opening = as_bytes(ConfigFile("zero-filled"), Header(scan.xml))
        self._first = scan.slices[0][0]
        self._xml = scan.xml
        self._kinds: dict[str, Callable[[], bytes]] = {
            "unknown id": self._unknown_id,
            "random bytes": self._random_bytes,
            "length of a text": self._long_text,
            "length of an error": lambda: struct.pack("<HQ", 8, self._from(2**26, 2**63)),
            "text that is not UTF-8": self._bad_text,
            "readout's header": lambda: self._opening + self._record(1008, ACQUISITION_HEADER),
            "readout's sizes": self._large_readout,
            "image's header": lambda: self._opening + self._record(1022, IMAGE_HEADER),
            "waveform's header": lambda: self._opening + self._record(1026, WAVEFORM_HEADER),
            "cut short": self._cut,
            "bytes changed": self._changed,
            "XML": self._bad_xml,
            "parameters": self._bad_parameters,
            "readout out of place": self._misplaced,
            "wrong order": self._wrong_order,
        }

    @property
    def kinds(self) -> list[str]:
        """The names of the kinds."""
        return list(self._kinds)

    def make(self, kind: str) -> bytes:
        """Give the next message of a kind, with what an honest client sends before it."""
        return self._kinds[kind]()

    def _from(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high))

    def _bytes(self, n_bytes: int) -> bytes:
        return self._rng.bytes(n_bytes)

    def _prefix(self) -> bytes:
        return self._opening if self._rng.random() < 0.5 else b""

    def _unknown_id(self) -> bytes:
        number = self._from(0, 2**16)
        while number in KNOWN_IDS:
            number = self._from(0, 2**16)
        return self._prefix() + struct.pack("<H", number) + self._bytes(self._from(0, 600))

    def _random_bytes(self) -> bytes:
        return self._prefix() + self._bytes(self._from(1, 5000))

    def _long_text(self) -> bytes:
        number = int(self._rng.choice([2, 3, 5]))
        return self._prefix() + struct.pack("<HI", number, self._from(2**26, 2**32)) + self._bytes(99)

    def _bad_text(self) -> bytes:
        body = b"\xff" + self._bytes(self._from(0, 400))
        return struct.pack("<HI", int(self._rng.choice([2, 3, 5])), len(body)) + body

    def _record(self, number: int, dtype: np.dtype) -> bytes:
        return struct.pack("<H", number) + self._bytes(dtype.itemsize) + self._bytes(self._from(0, 3000))

    def _large_readout(self) -> bytes:
        header = self._first.header.copy()
        sizes = [(0, 128), (1025, 1), (65535, 1), (1, 0), (1024, 65535), (512, 20000)]
        header["active_channels"], header["number_of_samples"] = sizes[self._from(0, len(sizes))]
        header["trajectory_dimensions"] = self._from(0, 2**16)
        return self._opening + struct.pack("<H", 1008) + header.tobytes() + self._bytes(99)

    def _cut(self) -> bytes:
        whole = self._opening + as_bytes(self._first)
        return whole[: self._from(1, len(whole))]

    def _changed(self) -> bytes:
        data = bytearray(self._opening + as_bytes(self._first, self._first))
        for _ in range(self._from(1, 20)):
            data[self._from(0, len(data))] = self._from(0, 256)
        return bytes(data)

    def _bad_xml(self) -> bytes:
        size = self._from(10**4, 10**12)
        texts = [
            self._xml[: self._from(1, len(self._xml))],
            self._xml.replace("<x>", f"<x>{size}"),
            self._xml.replace("<y>", "<y>-"),
            self._xml.replace("<z>", "<z>nan"),
            self._xml.replace("cartesian", "spiral"),
            '<!DOCTYPE a [<!ENTITY b "c">]>' + self._xml,
            "<a>" * self._from(1, 5000),
            "",
        ]
        return as_bytes(ConfigFile("zero-filled"), Header(texts[self._from(0, len(texts))]), self._first)

    def _bad_parameters(self) -> bytes:
        texts = [
            "{",
            "[]",
            '{"parameters": {"steps": -1}}',
            '{"parameters": {"steps": 1e9}}',
            '{"parameters": {"samples": "all"}}',
            '{"parameters": {"config": "__import__"}}',
            '{"unknown": 1}',
            "[" * self._from(1, 5000),
            '{"parameters": {"seed": NaN}}',
        ]
        return self._opening + as_bytes(Text(texts[self._from(0, len(texts))]), self._first)

    def _misplaced(self) -> bytes:
        header = self._first.header.copy()
        changes = [
            ("encoding_space_ref", self._from(1, 2**16)),
            ("discard_pre", 65535),
            ("discard_post", 65535),
            ("center_sample", self._from(129, 2**16)),
            ("number_of_samples", 1),
            ("active_channels", 1),
            ("trajectory_dimensions", 3),
            ("flags", self._from(0, 2**62)),
        ]
        name, value = changes[self._from(0, len(changes))]
        header[name] = value
        header["idx"]["kspace_encode_step_1"] = self._from(0, 2**16)
        channels, samples = int(header["active_channels"]), int(header["number_of_samples"])
        data = self._first.data[:channels, :samples]
        trajectory = None
        if dimensions := int(header["trajectory_dimensions"]):
            trajectory = np.zeros((samples, dimensions), np.float32)
        return self._opening + as_bytes(self._first, Readout(header, data, trajectory), self._first)

    def _wrong_order(self) -> bytes:
        orders = [
            as_bytes(Header(self._xml)),
            as_bytes(self._first),
            as_bytes(Close()),
            as_bytes(ConfigFile("zero-filled"), self._first),
            as_bytes(ConfigFile("zero-filled"), ConfigFile("zero-filled")),
            as_bytes(ConfigFile("no such configuration"), Header(self._xml), self._first),
            self._opening + as_bytes(Header(self._xml)),
            self._opening + as_bytes(self._first, Text("{}")),
            self._opening + as_bytes(self._first, ConfigFile("zero-filled")),
        ]
        return orders[self._from(0, len(orders))]
