"""Messages to send, and bytes to read them from."""

import numpy as np

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
    PeerGoneError,
    ProtocolError,
    Readout,
    Text,
    Waveform,
)


class Bytes:
    """Bytes as the source of messages."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def read_start(self, n_bytes):
        if self.place == len(self.data):
            raise PeerGoneError("the bytes are over")
        return self.read_exactly(n_bytes)

    def read_exactly(self, n_bytes):
        part = self.data[self.place : self.place + n_bytes]
        if len(part) < n_bytes:
            raise ProtocolError(f"the bytes end after {len(part)} of {n_bytes}")
        self.place += n_bytes
        return part


def random_record(dtype, rng, **fields):
    """A record whose fields are distinct, with those that are given."""
    record = np.frombuffer(bytearray(rng.integers(0, 255, dtype.itemsize, np.uint8)), dtype)[0]
    for name in dtype.names:
        if record[name].dtype.kind == "f":
            record[name] = rng.normal(size=record[name].shape)
    for name, value in fields.items():
        record[name] = value
    return record


def sample_readout(n_channels=3, n_samples=5, n_dimensions=0, seed=0):
    rng = np.random.default_rng(seed)
    header = random_record(
        ACQUISITION_HEADER,
        rng,
        active_channels=n_channels,
        number_of_samples=n_samples,
        trajectory_dimensions=n_dimensions,
    )
    data = rng.normal(size=(n_channels, n_samples, 2)).astype(np.float32).view(np.complex64)[..., 0]
    trajectory = rng.normal(size=(n_samples, n_dimensions)).astype(np.float32)
    return Readout(header, data, trajectory if n_dimensions else None)


def sample_image(data_type=2, shape=(2, 1, 3, 4), attributes="<ismrmrdMeta/>", seed=0):
    rng = np.random.default_rng(seed)
    header = random_record(
        IMAGE_HEADER,
        rng,
        data_type=data_type,
        channels=shape[0],
        matrix_size=shape[:0:-1],
        attribute_string_len=len(attributes.encode()),
    )
    data = (100 * rng.normal(size=shape)).astype(np.int8).astype(PIXEL_TYPES[data_type])
    return Image(header, attributes, data)


def sample_waveform(n_channels=2, n_samples=6, seed=0):
    rng = np.random.default_rng(seed)
    header = random_record(WAVEFORM_HEADER, rng, channels=n_channels, number_of_samples=n_samples)
    return Waveform(header, rng.integers(0, 2**32, (n_channels, n_samples), np.uint32))


def sample_messages():
    """One of each message and of each type of pixel."""
    return [
        ConfigFile("sbim-fast"),
        ConfigText("<configuration name='µ'/>"),
        Header("<ismrmrdHeader/>"),
        Close(),
        Text('{"parameters": {}}'),
        Text(""),
        Error("no such configuration"),
        sample_readout(),
        sample_readout(n_dimensions=2),
        *(sample_image(data_type) for data_type in PIXEL_TYPES),
        sample_waveform(),
    ]


def assert_same(ours, theirs):
    """Compare two messages, arrays and headers included."""
    assert type(ours) is type(theirs)
    for name in ours.__dataclass_fields__:
        one, other = getattr(ours, name), getattr(theirs, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        elif isinstance(one, np.void):
            assert one.tobytes() == other.tobytes()
        else:
            assert one == other, name
