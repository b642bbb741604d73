"""Whatever the bytes are, reading gives a message or a ProtocolError, in no more memory than the limit."""

import socket
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrd_samples import Bytes, assert_same, random_record, sample_messages
from sbim_deploy.mrd.messages import (
    ACQUISITION_HEADER,
    IMAGE_HEADER,
    PIXEL_TYPES,
    WAVEFORM_HEADER,
    ConfigFile,
    ConfigText,
    Error,
    Header,
    Image,
    MessageId,
    ProtocolError,
    Readout,
    Text,
    Waveform,
)
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits, read_message, write_message

LIMITS = Limits(max_message_bytes=1024**2, max_text_bytes=64 * 1024)
IDS = [each.value for each in MessageId]
WHOLE = [b"".join(write_message(message)) for message in sample_messages()]

repeatable = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def read_all(data):
    """Read messages until the first that is wrong; anything but ProtocolError fails the test."""
    source, messages = Bytes(data), []
    while True:
        try:
            messages.append(read_message(source, LIMITS))
        except ProtocolError:
            return messages


@settings(repeatable, max_examples=500)
@given(st.binary(max_size=4096))
def test_random_bytes(data):
    read_all(data)


@settings(repeatable, max_examples=500)
@given(st.sampled_from(IDS), st.binary(max_size=4096))
@example(1008, b"\xff" * 4096)
@example(1022, b"\xff" * 4096)
@example(1022, b"\x01" * 4096)
def test_random_bodies_of_known_messages(number, body):
    read_all(struct.pack("<H", number) + body)


@settings(repeatable, max_examples=1000)
@given(
    st.lists(st.sampled_from(WHOLE), min_size=1, max_size=3),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_messages_with_changed_bytes_and_cut_short(whole, changes, end):
    data = bytearray(b"".join(whole))
    for place, value in changes:
        data[int(place * len(data))] = value
    read_all(bytes(data[: int(end * len(data)) + 1]))


@settings(repeatable, max_examples=300)
@given(st.sampled_from(WHOLE), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_messages_with_changed_headers(whole, place, value):
    data = bytearray(whole)
    data[place : place + len(value)] = value
    read_all(bytes(data))


@settings(repeatable, max_examples=300)
@given(st.sampled_from(WHOLE), st.sampled_from(WHOLE), st.floats(0, 1), st.floats(0, 1))
def test_messages_spliced_into_each_other(one, other, cut, resume):
    read_all(one[: int(cut * len(one))] + other[int(resume * len(other)) :])


texts = st.text(max_size=200).filter(lambda text: not text.endswith("\0"))
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=255)


@st.composite
def arrays_with_headers(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from([Readout, Image, Waveform]))
    sizes = st.integers(1, 6)
    if kind is Readout:
        n_channels, n_samples, n_dimensions = draw(sizes), draw(sizes), draw(st.integers(0, 3))
        header = random_record(ACQUISITION_HEADER, rng, active_channels=n_channels)
        header["number_of_samples"], header["trajectory_dimensions"] = n_samples, n_dimensions
        trajectory = rng.normal(size=(n_samples, n_dimensions)).astype(np.float32) if n_dimensions else None
        return Readout(header, rng.normal(size=(n_channels, n_samples)).astype(np.complex64), trajectory)
    if kind is Image:
        shape, data_type = draw(st.tuples(sizes, sizes, sizes, sizes)), draw(st.sampled_from([*PIXEL_TYPES]))
        attributes = draw(texts)
        header = random_record(IMAGE_HEADER, rng, data_type=data_type, channels=shape[0])
        header["matrix_size"], header["attribute_string_len"] = shape[:0:-1], len(attributes.encode())
        return Image(header, attributes, rng.integers(0, 99, shape).astype(PIXEL_TYPES[data_type]))
    shape = draw(st.tuples(sizes, sizes))
    header = random_record(WAVEFORM_HEADER, rng, channels=shape[0], number_of_samples=shape[1])
    return Waveform(header, rng.integers(0, 2**32, shape, np.uint32))


messages = st.one_of(
    names.map(ConfigFile),
    texts.map(ConfigText),
    texts.map(Header),
    texts.map(Text),
    texts.map(Error),
    arrays_with_headers(),
)


@settings(repeatable, max_examples=300)
@given(st.lists(messages, max_size=4))
def test_any_messages_are_read_back_as_they_were_written(sent):
    received = read_all(b"".join(buffer for message in sent for buffer in write_message(message)))
    for ours, theirs in zip(sent, received, strict=True):
        assert_same(ours, theirs)


def record(dtype, **fields):
    header = np.zeros((), dtype)[()]
    for name, value in fields.items():
        header[name] = value
    return header.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<HI", 2, 2**32 - 1),
        struct.pack("<HI", 3, 2**32 - 1),
        struct.pack("<HI", 5, 2**32 - 1),
        struct.pack("<HQ", 8, 2**64 - 1),
        struct.pack("<H", 1008) + record(ACQUISITION_HEADER, active_channels=1024, number_of_samples=65535),
        struct.pack("<H", 1008)
        + record(ACQUISITION_HEADER, active_channels=1, number_of_samples=65535, trajectory_dimensions=65535),
        struct.pack("<H", 1022) + record(IMAGE_HEADER, data_type=8, matrix_size=65535, channels=65535),
        struct.pack("<H", 1022)
        + record(IMAGE_HEADER, data_type=1, matrix_size=1, channels=1)
        + struct.pack("<Q", 2**64 - 1),
        struct.pack("<H", 1026) + record(WAVEFORM_HEADER, channels=65535, number_of_samples=65535),
    ],
)
def test_a_declared_length_takes_no_memory(data):
    near, far = socket.socketpair()
    with SocketStream(near, 1, 1) as stream, far:
        far.sendall(data)
        tracemalloc.start()
        try:
            with pytest.raises(ProtocolError, match="expected at most"):
                stream.receive(LIMITS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 100_000
