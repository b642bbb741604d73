"""Damaged HDF5 ends in one line: a loop in the library, memory without end, a crash."""

import os
import struct
import subprocess
import sys
import warnings
import zlib

import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io import hdf5_child, hdf5_trial
from sbim_deploy.io.arrays import open_arrays
from sbim_deploy.io.hdf5 import open_hdf5, read_finite, read_values
from sbim_deploy.io.hdf5_trial import try_hdf5
from sbim_deploy.io.raw_data import is_simulated, raw_data_in

TEXT = '{"name": "value"}'


@pytest.fixture
def path(tmp_path):
    """A file with one attribute, whose text lies in a global heap."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.attrs.create("identity", TEXT, dtype=h5py.string_dtype())
    return path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(hdf5_trial, "MAX_CPU_S", 1)


def patch(path, marker, offset, value):
    """Overwrite bytes at an offset from the only place of a marker."""
    data = bytearray(path.read_bytes())
    place = data.index(marker) + offset
    data[place : place + len(value)] = value
    path.write_bytes(data)


def declare_length(path, n_bytes):
    """Let the attribute's text claim a length; the text itself stays as it is."""
    data = path.read_bytes()
    patch(path, struct.pack("<IQ", len(TEXT), data.index(b"GCOL")), 0, struct.pack("<I", n_bytes))


def refusal(path):
    with pytest.raises(InputError) as caught:
        open_hdf5(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def heap_of_sizes_that_wrap(path):
    """Objects of the heap whose sizes are such that its reader never comes to its end."""
    data = path.read_bytes()
    place = data.index(TEXT.encode()) + 24  # the object after the text: what is left of the heap
    changed = bytearray(data)
    changed[place : place + 1] = b"\x47"  # no longer the free space, but an object of no size
    changed[place + 8 : place + 16] = bytes(8)
    path.write_bytes(changed)


limits_time = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system limits no computing time")
limits_memory = pytest.mark.skipif(sys.platform != "linux", reason="the system limits no memory")


@limits_time
def test_a_file_that_never_ends_is_one_line_and_the_next_is_read(path, quick, cli, tmp_path):
    good = tmp_path / "good.h5"
    good.write_bytes(path.read_bytes())
    heap_of_sizes_that_wrap(path)
    done = cli("info", path)
    assert done.code == 2
    assert "attribute 'identity' cannot be read to its end" in done.error_line
    assert "1 s of computing" in done.error_line
    with open_hdf5(good) as file:
        assert file.attrs["identity"] == TEXT


def test_a_file_that_fails_its_trial_is_not_written_over(path, monkeypatch):
    def refuse(path):
        raise InputError(f"{path}: hangs")

    monkeypatch.setattr("sbim_deploy.io.raw_data.try_hdf5", refuse)
    assert not is_simulated(path)
    with pytest.raises(InputError, match="nothing tells that it is no raw data"):
        raw_data_in(path)


def test_a_file_that_waits_for_ever_is_refused_by_the_clock(path, monkeypatch):
    try_hdf5(path)
    monkeypatch.setattr(hdf5_trial, "MAX_WALL_S", 0.2)
    waiting = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child = hdf5_trial._child._process
    monkeypatch.setattr(hdf5_trial._child, "_process", waiting)
    try:
        assert "was not read to its end after 0.2 s" in refusal(path)
    finally:
        child.kill()
        child.communicate()


@limits_memory
@pytest.mark.parametrize("n_bytes", [2**28, 2**31, 2**32 - 1])
def test_a_length_that_takes_too_much_memory_is_refused(path, n_bytes):
    try_hdf5(path)
    child = hdf5_trial._child
    declare_length(path, n_bytes)
    assert "attribute 'identity' takes more than 256 MiB of memory to read" in refusal(path)
    assert hdf5_trial._child is child  # a refusal ends no process


def test_what_is_not_limited_here_is_read_all_the_same(path, monkeypatch):
    """Windows has no module of limits; macOS has no /proc."""
    monkeypatch.setattr(hdf5_child, "resource", None)
    answers = []
    monkeypatch.setattr(hdf5_child, "_answer", lambda **what: answers.append(what))
    assert hdf5_child._try_file(h5py, str(path), 5, 2**28)
    assert answers[-1] == {"at": "the names in '/'"}


def test_one_process_reads_all_files(path):
    try_hdf5(path)
    first = hdf5_trial._child
    try_hdf5(path)
    assert first is not None
    assert hdf5_trial._child is first


def test_a_crash_of_the_process_is_told(path, monkeypatch):
    try_hdf5(path)
    hdf5_trial._child._process.kill()
    assert "makes HDF5 crash" in refusal(path)
    try_hdf5(path)


def test_without_python_the_file_is_read_all_the_same_and_that_is_told_once(path, monkeypatch):
    monkeypatch.setattr(hdf5_trial, "_child", None)
    monkeypatch.setattr(hdf5_trial, "_warned", False)
    monkeypatch.setattr("sys.executable", "/opt/viewer")
    with pytest.warns(RuntimeWarning, match="without a trial"):
        try_hdf5(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try_hdf5(path)


def write_bomb(path, n_bytes):
    """Three slices in chunks of their own, of which the last inflates to many more bytes than it has."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("kspace", (3, 64, 64), "c8", chunks=(1, 64, 64), compression="gzip")
        dataset[:2] = np.ones((2, 64, 64), np.complex64)
        dataset.id.write_direct_chunk((2, 0, 0), zlib.compress(bytes(n_bytes)))


@limits_memory
def test_a_chunk_behind_the_first_that_inflates_to_gigabytes_is_refused(tmp_path):
    write_bomb(tmp_path / "bomb.h5", 300 * 2**20)
    with open_hdf5(tmp_path / "bomb.h5") as file:
        dataset = file["kspace"]
        assert (read_finite(dataset, tmp_path / "bomb.h5", 1, np.complex64) == 1).all()
        with pytest.raises(InputError, match=r"'kspace' at \[2\] cannot be read, or not within 256"):
            read_finite(dataset, tmp_path / "bomb.h5", 2, np.complex64)
    with open_arrays(tmp_path / "bomb.h5") as arrays, pytest.raises(InputError, match="not within 256 MiB"):
        arrays.arrays["kspace"].read((2, slice(None), slice(None)))


def test_chunks_that_are_as_large_as_they_say_are_read_compressed_or_not(tmp_path):
    """Zeros take a thousandth of their bytes, and noise all of them: neither is refused."""
    noise = np.random.default_rng(0).standard_normal((2, 700, 700)).astype(np.complex64)
    with h5py.File(tmp_path / "good.h5", "w") as file:
        for name, values in (("zeros", np.zeros_like(noise)), ("noise", noise)):
            file.create_dataset(name, data=values, chunks=values.shape, compression="gzip", shuffle=True)
    with open_hdf5(tmp_path / "good.h5") as file:
        assert not read_finite(file["zeros"], tmp_path / "good.h5", 1, np.complex64).any()
        np.testing.assert_array_equal(
            read_finite(file["noise"], tmp_path / "good.h5", 1, np.complex64), noise[1]
        )


@limits_memory
def test_a_text_behind_the_first_that_claims_gigabytes_is_refused(tmp_path):
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("texts", data=["first", TEXT], dtype=h5py.string_dtype())
    declare_length(path, 2**31)
    with open_hdf5(path) as file, pytest.raises(InputError, match="not within 256 MiB"):
        read_values(file["texts"], path)


def test_values_that_were_never_written_are_not_made(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        dataset = file.create_dataset("numbers", (2**40,), "i8", chunks=(1024,))
        with pytest.raises(InputError, match="a part takes 8796093022208 bytes, expected at most 2147483648"):
            read_values(dataset, tmp_path / "empty.h5")
