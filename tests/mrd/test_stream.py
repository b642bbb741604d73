import io
import struct

import numpy as np
import pytest

from mrd_samples import (
    Bytes,
    assert_same,
    sample_image,
    sample_messages,
    sample_readout,
    sample_waveform,
)
from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import (
    Close,
    ConfigFile,
    ConfigText,
    Error,
    Header,
    Image,
    MessageId,
    PeerGoneError,
    ProtocolError,
    Readout,
    Text,
    Waveform,
)
from sbim_deploy.mrd.stream import Limits, read_message, write_message

LIMITS = Limits(max_message_bytes=1024**2, max_text_bytes=64 * 1024)


def written(message):
    return b"".join(write_message(message))


def read(data, limits=LIMITS):
    return read_message(Bytes(data), limits)


@pytest.mark.parametrize("message", sample_messages(), ids=lambda message: type(message).__name__)
def test_what_is_written_is_read_back_to_the_last_byte(message):
    source = Bytes(written(message))
    assert_same(read_message(source, LIMITS), message)
    with pytest.raises(PeerGoneError):
        read_message(source, LIMITS)


@pytest.mark.parametrize("message", sample_messages(), ids=lambda message: type(message).__name__)
def test_a_message_that_ends_early_is_an_error_at_every_byte(message):
    whole = written(message)
    for end in range(1, len(whole)):
        with pytest.raises(ProtocolError) as caught:
            read(whole[:end])
        assert not isinstance(caught.value, PeerGoneError)


class TestAgainstTheIsmrmrdPackage:
    """Its serialiser for the bytes, except where it is known to be wrong: 32-bit integers as pixels."""

    ismrmrd = pytest.importorskip("ismrmrd")

    def bytes_of(self, item):
        stream = io.BytesIO()
        self.ismrmrd.ProtocolSerializer(stream).serialize(item)
        return stream.getvalue()

    def item_of(self, data):
        return next(self.ismrmrd.ProtocolDeserializer(io.BytesIO(data)).deserialize())

    def test_texts(self):
        from ismrmrd.serialization import ConfigFile as TheirFile
        from ismrmrd.serialization import ConfigText as TheirText

        assert written(ConfigFile("sbim µ")) == self.bytes_of(TheirFile("sbim µ"))
        assert written(ConfigText("<a µ/>")) == self.bytes_of(TheirText("<a µ/>"))
        assert written(Text("{} µ")) == self.bytes_of("{} µ")

    def test_header(self):
        header = self.ismrmrd.xsd.ismrmrdHeader(
            experimentalConditions=self.ismrmrd.xsd.experimentalConditionsType(H1resonanceFrequency_Hz=1)
        )
        assert written(Header(header.toXML())) == self.bytes_of(header)

    def test_close(self):
        stream = io.BytesIO()
        self.ismrmrd.ProtocolSerializer(stream).close()
        assert written(Close()) == stream.getvalue()

    @pytest.mark.parametrize("n_dimensions", [0, 3])
    def test_readout(self, n_dimensions):
        readout = sample_readout(n_channels=4, n_samples=7, n_dimensions=n_dimensions)
        theirs = self.item_of(written(readout))
        np.testing.assert_array_equal(theirs.data, readout.data)
        if n_dimensions:
            np.testing.assert_array_equal(theirs.traj, readout.trajectory)
        assert bytes(theirs.getHead()) == readout.header.tobytes()
        assert self.bytes_of(theirs) == written(readout)
        assert_same(read(self.bytes_of(theirs)), readout)

    @pytest.mark.parametrize("data_type", [1, 2, 3, 5, 6, 7, 8])
    def test_image(self, data_type):
        attributes = self.ismrmrd.Meta({"Comment": "µ"}).serialize()
        image = sample_image(data_type, shape=(2, 3, 4, 5), attributes=attributes)
        theirs = self.item_of(written(image))
        np.testing.assert_array_equal(theirs.data, image.data)
        assert self.bytes_of(theirs) == written(image)
        assert_same(read(self.bytes_of(theirs)), image)

    def test_waveform(self):
        waveform = sample_waveform()
        theirs = self.item_of(written(waveform))
        np.testing.assert_array_equal(theirs.data, waveform.data)
        assert self.bytes_of(theirs) == written(waveform)


def test_pixels_of_type_4_are_32_bits_on_the_wire():
    image = sample_image(data_type=4, shape=(1, 1, 2, 3), attributes="")
    assert written(image)[2 + 198 + 8 :] == image.data.astype("<i4").tobytes()
    assert len(written(image)) == 2 + 198 + 8 + 2 * 3 * 4


def test_an_error_is_gadgetron_s_with_a_length_of_64_bits():
    assert written(Error("no µ")) == struct.pack("<HQ", 8, 5) + "no µ".encode()


@pytest.mark.parametrize("nuls", [0, 1, 3])
@pytest.mark.parametrize(
    ("message_id", "length", "expected"),
    [
        (2, "<I", ConfigText("<a/>")),
        (3, "<I", Header("<a/>")),
        (5, "<I", Text("<a/>")),
        (8, "<Q", Error("<a/>")),
    ],
)
def test_a_text_may_end_with_nuls_that_its_length_counts(message_id, length, expected, nuls):
    body = b"<a/>" + b"\0" * nuls
    assert read(struct.pack("<H", message_id) + struct.pack(length, len(body)) + body) == expected


def test_a_configuration_s_name_ends_at_the_first_nul():
    assert read(struct.pack("<H", 1) + b"sbim\0left over".ljust(1024, b"x")) == ConfigFile("sbim")
    assert read(struct.pack("<H", 1) + b"x" * 1024) == ConfigFile("x" * 1024)


def changed(message, **fields):
    header = message.header.copy()
    for name, value in fields.items():
        header[name] = value
    return struct.pack("<H", message_id_of(message)) + header.tobytes()


def message_id_of(message):
    kinds = {Readout: MessageId.ACQUISITION, Image: MessageId.IMAGE, Waveform: MessageId.WAVEFORM}
    return kinds[type(message)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("<H", 1030), ["1030", "1008, 1022"]),
        (struct.pack("<H", 0), ["id 0"]),
        (struct.pack("<HI", 2, 2**32 - 1), ["4294967295", "65536"]),
        (struct.pack("<HI", 3, 65537), ["header", "65537"]),
        (struct.pack("<HI", 5, 2**31), ["text", "65536"]),
        (struct.pack("<HQ", 8, 2**64 - 1), ["error", str(2**64 - 1)]),
        (struct.pack("<HI", 5, 2) + b"\xff\xfe", ["UTF-8"]),
        (struct.pack("<H", 1) + b"\xff" * 1024, ["UTF-8"]),
        (changed(sample_readout(), active_channels=0), ["0 active channels"]),
        (changed(sample_readout(), active_channels=1025), ["1025 active channels", "1024"]),
        (changed(sample_readout(), number_of_samples=0), ["0 samples"]),
        (changed(sample_readout(), active_channels=1024, number_of_samples=65535), ["536862720"]),
        (
            changed(sample_readout(), number_of_samples=65535, trajectory_dimensions=65535),
            ["a readout", "1048576"],
        ),
        (changed(sample_image(), data_type=0), ["data type is 0", "1 to 8"]),
        (changed(sample_image(), data_type=9), ["data type is 9"]),
        (changed(sample_image(), matrix_size=(4, 0, 1)), ["(2, 1, 0, 4)"]),
        (changed(sample_image(), channels=0), ["(0, 1, 3, 4)"]),
        (changed(sample_image(8), matrix_size=65535, channels=65535), [str(65535**4 * 16)]),
        (changed(sample_image()) + struct.pack("<Q", 2**63), ["attributes", str(2**63)]),
        (changed(sample_waveform(), channels=0), ["waveform of 0 channels"]),
        (changed(sample_waveform(), channels=65535, number_of_samples=65535), ["a waveform"]),
    ],
)
def test_a_bad_message_is_refused_before_its_body_is_read(data, words):
    source = Bytes(data)
    with pytest.raises(ProtocolError) as caught:
        read_message(source, LIMITS)
    assert source.place == len(data)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (ConfigFile("x" * 1024), "1024 bytes"),
        (ConfigFile("a\0b"), "NUL"),
        (Text("\ud800"), "UTF-8"),
        (Readout(sample_readout().header, np.zeros((1, 5), np.complex64)), "(3, 5)"),
        (Readout(sample_readout(n_dimensions=2).header, sample_readout().data), "(5, 2)"),
        (Readout(sample_readout().header, sample_readout().data, np.zeros((5, 2), np.float32)), "(5, 0)"),
        (Image(sample_image(2).header, "", sample_image(5).data), "float32"),
        (Image(sample_image(2).header, "", sample_image(2).data[:1]), "(2, 1, 3, 4)"),
        (Waveform(sample_waveform().header, np.zeros((1, 1), np.uint32)), "(2, 6)"),
    ],
)
def test_what_contradicts_itself_is_not_written(message, words):
    with pytest.raises(InputError) as caught:
        write_message(message)
    assert words in str(caught.value)


def test_limits_below_a_byte_are_refused():
    with pytest.raises(InputError, match="at least one byte"):
        Limits(max_message_bytes=0)


def test_data_in_any_order_of_memory_are_written_in_the_wire_s():
    readout = sample_readout(n_channels=3, n_samples=4)
    turned = Readout(readout.header, np.asfortranarray(readout.data))
    assert written(turned) == written(readout)
