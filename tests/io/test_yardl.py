"""yardl's binary format by its definition: schemas and bytes are written by hand here."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.byte_source import WINDOW_BYTES, Source
from sbim_deploy.io.yardl import MAGIC, ArraySpan, Schema, is_yardl, read_schema

AXES = [{"name": "a"}, {"name": "b"}]


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def text(value: str) -> bytes:
    return varint(len(value.encode())) + value.encode()


def schema_of(*types, items="string") -> dict:
    stream = {"stream": {"items": items}}
    return {"protocol": {"name": "P", "sequence": [{"name": "data", "type": stream}]}, "types": [*types]}


def stream_of(schema, body: bytes = b"", version: int = 1) -> bytes:
    written = schema if isinstance(schema, str) else json.dumps(schema)
    return MAGIC + struct.pack("<i", version) + text(written) + body


@pytest.fixture
def open_bytes(tmp_path):
    """Opens bytes as a file."""
    files = []

    def opened(data: bytes) -> Source:
        path = tmp_path / "stream.bin"
        path.write_bytes(data)
        files.append(path.open("rb", buffering=0))
        return Source(files[-1], len(data), "stream.bin")

    yield opened
    for file in files:
        file.close()


@pytest.fixture
def decode(open_bytes):
    """Reads a value of a type from bytes, and checks that stepping over it ends at the same place."""

    def decoded(written, body: bytes, *types):
        ends = []
        for keep in (True, False):
            source = open_bytes(stream_of(schema_of(*types, items=written), body + b"\x7f"))
            kind = read_schema(source, "stream.bin").items("data")
            source.begin("a value", None)
            place = source.place
            value = kind.read(source, keep)
            assert kind.least <= source.place - place
            ends.append((value, source.left))
        (value, left), (nothing, left_over) = ends
        assert left == left_over == 1
        assert nothing is None or not isinstance(nothing, dict | list | ArraySpan)
        return value

    return decoded


@pytest.mark.parametrize(
    ("written", "body", "expected"),
    [
        ("bool", b"\x01", True),
        ("int8", b"\xff", -1),
        ("uint8", b"\xff", 255),
        ("int16", varint(5), -3),
        ("uint16", varint(65535), 65535),
        ("int32", varint(2**32 - 2), 2**31 - 1),
        ("uint32", varint(2**32 - 1), 2**32 - 1),
        ("int64", varint(2**64 - 1), -(2**63)),
        ("uint64", varint(2**64 - 1), 2**64 - 1),
        ("size", varint(300), 300),
        ("float32", struct.pack("<f", 1.5), 1.5),
        ("float64", struct.pack("<d", -0.1), -0.1),
        ("complexfloat32", struct.pack("<ff", 1.5, -2), 1.5 - 2j),
        ("complexfloat64", struct.pack("<dd", 0.1, 2), 0.1 + 2j),
        ("string", text("µT " * 9000), "µT " * 9000),
        ("date", varint(3), -2),
        ([None, "uint32"], b"\x00", None),
        ([None, "uint32"], b"\x01\x07", 7),
        ([{"tag": "a", "type": "string"}, {"tag": "b", "type": "int32"}], b"\x01\x02", 1),
        ([None, {"tag": "a", "type": "string"}, {"tag": "b", "type": "int32"}], b"\x00", None),
        ({"vector": {"items": "uint32"}}, b"\x03\x01\x02\x03", [1, 2, 3]),
        ({"vector": {"items": "uint32", "length": 2}}, b"\x01\x02", [1, 2]),
        ({"map": {"keys": "string", "values": "int32"}}, b"\x01" + text("k") + b"\x02", {"k": 1}),
    ],
)
def test_values_are_what_the_bytes_mean(decode, written, body, expected):
    assert decode(written, body) == expected


def test_records_enumerations_aliases_and_type_parameters(decode):
    types = [
        {"name": "Pair", "typeParameters": ["T"], "fields": [
            {"name": "first", "type": "T"}, {"name": "second", "type": {"vector": {"items": "T"}}},
        ]},
        {"name": "Colour", "values": [{"symbol": "red", "value": -1}, {"symbol": "blue", "value": 4}]},
        {"name": "Flags", "base": "uint64", "values": [{"symbol": "a", "value": 1}]},
        {"name": "Colours", "type": {"name": "N.Pair", "typeArguments": ["N.Colour"]}},
        {"name": "All", "fields": [
            {"name": "colours", "type": "N.Colours"}, {"name": "f", "type": "N.Flags"},
        ]},
    ]  # fmt: skip
    value = decode("N.All", b"\x08\x02\x01\x08" + varint(2**63), *types)
    assert value == {"colours": {"first": 4, "second": [-1, 4]}, "f": 2**63}
    schema = Schema(json.dumps(schema_of(*types)).encode(), "the schema")
    assert schema.symbols("Colour") == {-1: "red", 4: "blue"}
    assert schema.symbols("Shape") == {}


def test_a_type_with_parameters_is_another_type_for_every_argument(decode):
    inner = ["int32", "string", "bool", "uint8", "float32"] * 8
    types = [
        {"name": "One", "typeParameters": ["T"], "fields": [{"name": "of", "type": "T"}]},
        {"name": "All", "fields": [
            {"name": f"f{place}", "type": {"name": "One", "typeArguments": [{"vector": {"items": each}}]}}
            for place, each in enumerate(inner)
        ]},
    ]  # fmt: skip
    one_of = {"int32": b"\x06", "string": text("a"), "bool": b"\x01", "uint8": b"\x09", "float32": bytes(4)}
    values = {"int32": 3, "string": "a", "bool": True, "uint8": 9, "float32": 0.0}
    found = decode("N.All", b"".join(b"\x01" + one_of[each] for each in inner), *types)
    assert [each["of"] for each in found.values()] == [[values[each]] for each in inner]


def test_arrays_are_told_by_their_place_and_small_ones_of_fixed_size_are_read(decode):
    numbers = np.arange(6, dtype="<f4")
    fixed = decode(
        {"array": {"items": "float32", "dimensions": [{"length": 3}, {"length": 2}]}}, numbers.tobytes()
    )
    np.testing.assert_array_equal(fixed, numbers.reshape(3, 2))
    far = np.zeros(2 * WINDOW_BYTES, "<c8")
    span = decode(
        {"array": {"items": "complexfloat32", "dimensions": AXES}},
        varint(2) + varint(len(far) // 2) + far.tobytes(),
    )
    assert (span.shape, span.dtype) == ((2, WINDOW_BYTES), np.dtype("<c8"))
    body = b"\x02\x02\x03" + b"".join(varint(each) for each in (1, 200, 3, 2**31, 5, 6))
    assert decode({"array": {"items": "uint32"}}, body).shape == (2, 3)
    many = b"".join(varint(each) for each in range(20_000))
    assert decode({"array": {"items": "uint32", "dimensions": 1}}, varint(20_000) + many).shape == (20_000,)
    texts = b"\x02" + text("a") + text("bc")
    assert decode({"array": {"items": "string", "dimensions": [{"name": "n"}]}}, texts).dtype is None


def test_an_array_s_place_is_where_its_numbers_are(open_bytes):
    numbers = np.arange(6, dtype="<f4")
    kind = {"array": {"items": "float32", "dimensions": AXES}}
    data = stream_of(schema_of(items=kind), b"\x02\x03" + numbers.tobytes())
    source = open_bytes(data)
    span = read_schema(source, "stream.bin").items("data").read(source, True)
    np.testing.assert_array_equal(np.frombuffer(data, "<f4", 6, span.place), numbers)


HUGE = varint(2**40)


@pytest.mark.parametrize(
    ("written", "body", "words"),
    [
        ("string", HUGE, "1099511627776 bytes of text need"),
        ({"vector": {"items": "uint32"}}, HUGE, "1099511627776 items need"),
        ({"vector": {"items": "string", "length": 2**40}}, b"", "1099511627776 items need"),
        ({"map": {"keys": "string", "values": "int32"}}, HUGE, "1099511627776 entries need"),
        ({"array": {"items": "complexfloat32", "dimensions": AXES}}, b"\1" + HUGE, "8796093022208 bytes"),
        ({"array": {"items": "uint32", "dimensions": AXES}}, HUGE * 2, "1208925819614629174706176 numbers"),
        ({"array": {"items": "string", "dimensions": AXES}}, HUGE + b"\x01", "1099511627776 numbers"),
        ({"array": {"items": "uint8"}}, HUGE, "array of 1099511627776 axes, expected at most 32"),
        ({"array": {"items": "float32", "dimensions": [{"length": 2**40}]}}, b"", "need 4398046511104 bytes"),
        ("uint32", varint(2**40), "expected 32 bits"),
        ("int16", varint(2**40), "does not fit 16 bits"),
        ("uint64", b"\xff" * 11, "more than 64 bits"),
        ("uint64", b"\xff" * 9 + b"\x02", "more than 64 bits"),
        ([None, "uint32"], b"\x02", "expected less than 2"),
        ("bool", b"\x02", "expected 0 or 1"),
        ("string", b"\x02\xff\xff", "not UTF-8"),
        ("uint32", b"", "cut short"),
    ],
)  # fmt: skip
def test_what_no_sound_stream_has_is_refused_in_no_memory_and_no_time(open_bytes, written, body, words):
    source = open_bytes(stream_of(schema_of(items=written), body))
    kind = read_schema(source, "stream.bin").items("data")
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(InputError, match=words) as refused:
            kind.read(source, True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("stream.bin: ")
    assert peak < 200_000
    assert time.perf_counter() - started < 1


def test_a_value_that_is_kept_has_a_bound_and_its_arrays_do_not_count(open_bytes):
    kind = {"vector": {"items": "string"}}
    source = open_bytes(stream_of(schema_of(items=kind), varint(50_000) + text("ab") * 50_000))
    schema = read_schema(source, "stream.bin")
    source.begin("item 3", 100_000)
    with pytest.raises(InputError, match=r"item 3, byte \d+: has more than 100000 bytes beside its arrays"):
        schema.items("data").read(source, True)
    wide = {"array": {"items": "float32", "dimensions": [{"name": "n"}]}}
    source = open_bytes(stream_of(schema_of(items=wide), (varint(5000) + bytes(20_000)) * 20))
    schema = read_schema(source, "stream.bin")
    source.begin("item 0", 2 * WINDOW_BYTES)
    for _ in range(20):
        schema.items("data").read(source, True)
    assert source.left == 0


def doubling(n: int) -> list[dict]:
    """Types each of which holds two of the next, in two ways that no cache takes for one."""
    inner = {"vector": {"items": "T"}}
    record = [
        {"name": f"G{place}", "typeParameters": ["T"], "fields": [
            {"name": name, "type": {"name": f"N.G{place + 1}", "typeArguments": [inner]}} for name in "ab"
        ]}
        for place in range(n)
    ]  # fmt: skip
    return [*record, {"name": f"G{n}", "typeParameters": ["T"], "fields": [{"name": "x", "type": "T"}]}]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("not JSON", "is not JSON"),
        ("[]", "expected an object"),
        ("[" * 100_000, "is not JSON"),
        ({}, "is not understood"),
        ({"protocol": {"name": "P", "sequence": 3}, "types": []}, "is not understood"),
        ({"protocol": {"name": "P", "sequence": []}, "types": [3]}, "is not understood"),
        ({"protocol": {"name": "P", "sequence": []}, "types": []}, "is not understood"),
        (schema_of(items="N.Absent"), "is not understood"),
        (schema_of(items=None), "is not understood"),
        (schema_of(items={"stream": {"items": "int32"}}), "is not understood"),
        (schema_of(items={"vector": {"items": "int32", "length": 0}}), "is not understood"),
        (schema_of(items={"vector": {"items": "int32", "length": "4"}}), "is not understood"),
        (schema_of(items={"array": {"items": "int32", "dimensions": [{"length": 0}]}}), "is not understood"),
        (schema_of(items={"array": {"items": "int32", "dimensions": 10**12}}), "is not understood"),
        (schema_of({"name": "E", "fields": []}, items="N.E"), "a record without fields"),
        (schema_of({"name": "A", "type": "N.A"}, items="N.A"), "without an end"),
        (schema_of({"name": "A", "fields": [{"name": "a", "type": "N.A"}]}, items="N.A"), "without an end"),
        (schema_of(*doubling(40), items={"name": "N.G0", "typeArguments": ["int32"]}), "without an end"),
    ],
)  # fmt: skip
def test_a_schema_that_is_none_is_refused_at_once(open_bytes, schema, words):
    started = time.perf_counter()
    with pytest.raises(InputError, match=words) as refused:
        read_schema(open_bytes(stream_of(schema)), "stream.bin").items("data")
    assert "\n" not in str(refused.value)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begins with b''"),
        (b"yard", "begins with b'yard'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "begins with b'\\\\x89HDF"),
        (b"yardl", "cut short"),
        (b"yardl\x01\0\0\0" + varint(2**40), "1099511627776 bytes of text need"),
        (b"yardl\x01\0\0\0" + varint(2**21) + bytes(2**21), "expected at most 1048576"),
        (stream_of(schema_of(), version=2), "version 2 of yardl's binary format, expected 1"),
    ],
)
def test_a_file_of_another_make_is_refused(open_bytes, data, words):
    with pytest.raises(InputError, match=words):
        read_schema(open_bytes(data), "stream.bin")


def test_the_first_bytes_tell_a_stream(tmp_path):
    path = tmp_path / "stream"
    assert not is_yardl(path)
    for start, expected in (
        (b"yardl\x01", True),
        (b'{"yardl":{"version":1', True),
        (b"yard", False),
        (b"", False),
    ):
        path.write_bytes(start)
        assert is_yardl(path) == expected
