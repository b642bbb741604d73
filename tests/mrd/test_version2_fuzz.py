"""Whatever a stream of MRD version 2 holds, it is read or refused in one line, in little memory and time."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrd2_samples import acquisition_item, mrd, other_items, scan_header, stream_bytes
from sbim_deploy.errors import InputError
from sbim_deploy.io.yardl import MAGIC
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.version2 import Version2File
from simulated_mrd import make_scan

SCAN = make_scan(size=8, n_coils=2, oversampling=1, n_noise_readouts=1, noise=0.1)
ITEMS = [acquisition_item(each) for each in SCAN.readouts]
WHOLE = stream_bytes(scan_header(SCAN.settings), [*ITEMS[:3], *other_items()[:2], *ITEMS[3:]])
START = WHOLE.index(b"JANE")  # within the header, behind the schema
MAX_SECONDS, MAX_MEMORY = 3, 8 * 1024**2

repeatable = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "stream.bin"


def read_all(path, data: bytes) -> None:
    """Read what there is; anything but a refusal in one line fails the test, and so does a long time."""
    path.write_bytes(data)
    started, refusal = time.perf_counter(), ""
    try:
        with Version2File(path) as file:
            for _ in file.read_readouts(range(file.n_readouts)):
                pass
        with open_source(path) as source:
            source.describe()
            source.read_slice(0)
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert time.perf_counter() - started < MAX_SECONDS


@settings(repeatable, max_examples=400)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
)
def test_streams_with_changed_bytes(path, changes, behind_the_schema):
    data = bytearray(WHOLE)
    first = START if behind_the_schema else 0
    for place, value in changes:
        data[first + int(place * (len(data) - first))] = value
    read_all(path, bytes(data))


@settings(repeatable, max_examples=200)
@given(st.integers(0, len(WHOLE)), st.binary(max_size=64))
def test_streams_that_end_in_something_else(path, end, rest):
    read_all(path, WHOLE[:end] + rest)


@settings(repeatable, max_examples=200)
@given(st.integers(START, len(WHOLE)), st.integers(START, len(WHOLE)))
def test_streams_with_a_part_left_out_or_twice(path, end, again):
    read_all(path, WHOLE[:end] + WHOLE[again:])


@settings(repeatable, max_examples=200)
@given(st.binary(max_size=2048))
@example(b"\xff" * 2048)
@example(b"\x01" * 2048)
@example(bytes(2048))
def test_random_bytes_behind_the_schema(path, data):
    length = len(mrd.BinaryMrdWriter.schema.encode())
    read_all(path, WHOLE[: len(MAGIC) + 4 + 3 + length] + data)  # 3 bytes say the length


def test_long_damaged_streams_take_little_memory(path):
    """Each begins as a scan does and goes on with what some reader would take memory for."""
    empty = stream_bytes(scan_header(SCAN.settings), [])[:-1]
    n_bytes = 128 * 1024
    behind = [
        b"\xff" * n_bytes,
        b"\x01" * n_bytes,
        b"\x7f" * n_bytes,
        bytes([0xFF, 0x7F]) * (n_bytes // 2),
        b"\xff\xff\xff\x01\x00" + bytes(n_bytes),  # readouts of nothing
        b"\x01\x00" + bytes(14) + b"\xff\xff\x07" + b"\x01" * n_bytes,  # 131071 time stamps
    ]
    for data in behind:
        path.write_bytes(empty + data)
        tracemalloc.start()
        try:
            with pytest.raises(InputError), Version2File(path):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MAX_MEMORY
