"""Damaged HDF5 ends in one line: a loop in the library, memory without end, a crash."""

import os
import warnings

import h5py
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io import hdf5_trial
from sbim_deploy.io.hdf5 import open_hdf5
from sbim_deploy.io.hdf5_trial import try_hdf5

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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not limit computing time")
def test_a_file_that_never_ends_is_refused_with_what_hung(path, quick):
    heap_of_sizes_that_wrap(path)
    said = refusal(path)
    assert "attribute 'identity' cannot be read to its end" in said
    assert "1 s of computing" in said


def test_the_file_after_one_that_hung_is_read(path, quick, tmp_path):
    good = tmp_path / "good.h5"
    good.write_bytes(path.read_bytes())
    heap_of_sizes_that_wrap(path)
    refusal(path)
    with open_hdf5(good) as file:
        assert file.attrs["identity"] == TEXT


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
