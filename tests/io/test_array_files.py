"""Arrays of NumPy, MATLAB and HDF5: what was written comes back, and damage is one line."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from array_samples import WRITERS, write_matlab_6, write_matlab_7, write_matlab_73, write_npy, write_npz
from hdf5_samples import complex_noise
from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import as_array, is_array_file, open_arrays

KSPACE = complex_noise((5, 4, 3))
EVERYTHING = (slice(None),) * 3


def read_all(path: Path) -> None:
    with np.errstate(all="ignore"), open_arrays(path) as file:
        for each in file.arrays.values():
            each.read((slice(None),) * len(each.shape))


def refusal(path: Path) -> str:
    """Return the one line by which a file, or its values, are refused."""
    with pytest.raises(InputError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("write", WRITERS)
def test_parts_come_back_as_they_were_written(tmp_path, write):
    with open_arrays(write(tmp_path, kspace=KSPACE)) as file:
        (array,) = file.arrays.values()
        assert array.is_complex
        assert array.shape == KSPACE.shape
        for key in (EVERYTHING, (2, slice(None), slice(None)), (slice(None), 1, slice(None)), (4, 3, 2)):
            np.testing.assert_array_equal(array.read(key), KSPACE[key])


@pytest.mark.parametrize("do_compression", [False, True])
def test_what_scipy_writes_for_matlab_is_read_as_scipy_reads_it(tmp_path, do_compression):
    path = tmp_path / "mixed.mat"
    values = {
        "double": KSPACE.astype(np.complex128),
        "k": KSPACE,
        "whole": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        "mask": np.array([1, 0, 1], np.uint8),
        "text": "a name",
        "cells": np.array([1, "x"], object),
        "settings": {"te": 3.0},
        "a_name_that_is_longer_than_others": np.eye(3),
        "nothing": np.zeros((0, 3)),
    }
    scipy.io.savemat(path, values, do_compression=do_compression)
    expected = scipy.io.loadmat(path)
    with open_arrays(path) as file:
        assert set(file.arrays) == set(values) - {"text", "cells", "settings"}
        for name, array in file.arrays.items():
            assert array.shape == expected[name].shape
            got = array.read((slice(None),) * len(array.shape))
            np.testing.assert_allclose(got, expected[name], rtol=1e-6)
            assert np.iscomplexobj(got) == array.is_complex == np.iscomplexobj(expected[name])


MATLAB_S_OWN = Path(scipy.io.matlab.__file__).parent / "tests" / "data"


@pytest.mark.skipif(not MATLAB_S_OWN.is_dir(), reason="this SciPy came without its tests' files")
def test_files_of_many_versions_of_matlab_are_read_as_scipy_reads_them():
    n_arrays = 0
    for path in sorted(MATLAB_S_OWN.glob("*.mat")):
        with suppress(InputError), open_arrays(path) as file:
            got = {name: each.read((slice(None),) * len(each.shape)) for name, each in file.arrays.items()}
            try:
                with warnings.catch_warnings(action="ignore"):
                    expected = scipy.io.loadmat(path)
            except Exception:
                continue
            for name, values in got.items():
                np.testing.assert_allclose(values, expected[name], rtol=1e-6)
                assert values.shape == expected[name].shape
            n_arrays += len(got)
    assert n_arrays > 30


@pytest.mark.skipif(not MATLAB_S_OWN.is_dir(), reason="this SciPy came without its tests' files")
def test_a_matlab_file_of_hdf5_has_the_axes_that_matlab_shows():
    with open_arrays(MATLAB_S_OWN / "testhdf5_7.4_GLNX86.mat") as file:
        assert file.is_matlab
        array = file.arrays["testdouble"]
        assert array.shape == (1, 9)
        np.testing.assert_allclose(array.read((0, slice(None))), np.arange(9) * np.pi / 4)


def test_numbers_of_the_other_byte_order_are_read(tmp_path):
    path = tmp_path / "big.mat"
    little = io.BytesIO()
    scipy.io.savemat(little, {"abcdefgh": np.arange(6.0).reshape(2, 3)})
    content = bytearray(little.getvalue())
    content[124:128] = b"\x01\x00MI"
    body = np.frombuffer(bytes(content[128:]), "<u4")
    name = bytes(content[128:]).index(b"abcdefgh")
    turned = bytearray(body.byteswap().tobytes())
    turned[name : name + 8] = b"abcdefgh"
    values = bytes(content[128 + name + 16 :])  # after the name and the tag of the numbers
    turned[name + 16 :] = np.frombuffer(values, "<f8").byteswap().tobytes()
    path.write_bytes(bytes(content[:128]) + turned)
    np.testing.assert_array_equal(scipy.io.loadmat(path)["abcdefgh"], np.arange(6.0).reshape(2, 3))
    with open_arrays(path) as file:
        array = file.arrays["abcdefgh"]
        np.testing.assert_array_equal(array.read((slice(None),) * 2), np.arange(6.0).reshape(2, 3))


def test_objects_are_never_unpickled(tmp_path):
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)

    np.save(tmp_path / "a.npy", np.array([Payload()], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([Payload()], object))
    for name in ("a.npy", "a.npz"):
        assert "Python objects" in refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_sizes_that_a_file_claims_and_does_not_have_are_refused_before_memory_is_taken(tmp_path):
    claimed = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        claimed, {"descr": "<c8", "fortran_order": False, "shape": (2**20, 2**20, 2**10)}
    )
    (tmp_path / "a.npy").write_bytes(claimed.getvalue() + bytes(64))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", claimed.getvalue() + bytes(64))
    small = write_matlab_6(tmp_path, kspace=KSPACE)
    content = small.read_bytes()
    sizes = np.array(KSPACE.shape, "<i4").tobytes()
    small.write_bytes(content.replace(sizes, np.array([2**30, 2**30, 2**30], "<i4").tobytes()))
    for path in (tmp_path / "a.npy", tmp_path / "a.npz", small):
        refusal(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(10**9, 10**9, 10**9), (2**32, 2**32, 2, 2), (2**62, 4, 1, 8), (-1, 2)])
def test_a_shape_whose_bytes_overflow_is_refused_in_one_line(tmp_path, shape):
    with (tmp_path / "k.npy").open("wb") as file:
        header = {"descr": "<c8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    with pytest.raises(InputError, match="cannot be read as a NumPy file"):
        open_arrays(tmp_path / "k.npy")


def test_a_matlab_array_whose_size_is_not_that_of_its_values_is_refused(tmp_path):
    path = write_matlab_6(tmp_path, kspace=KSPACE)
    sizes = (np.array(size, "<i4").tobytes() for size in ((5, 4, 3), (5, 4, 2)))
    path.write_bytes(path.read_bytes().replace(*sizes))
    assert "holds 60 values, its size needs 40" in refusal(path)


def test_other_kinds_of_files_are_refused_with_the_way_out(tmp_path):
    octave = tmp_path / "octave.mat"
    octave.write_text("# Created by Octave 9.2\n# name: x\n# type: complex matrix\n")
    assert "Octave: save -v7" in refusal(octave)
    assert is_array_file(octave)
    assert "no such file" in refusal(tmp_path / "none.npy")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = KSPACE
    assert not is_array_file(tmp_path / "scan.h5")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.98])
def test_a_file_that_is_cut_short_is_refused(tmp_path, write, kept):
    path = write(tmp_path, kspace=KSPACE)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refusal(path)


@pytest.mark.parametrize("write", [write_npy, write_npz, write_matlab_6, write_matlab_7, write_matlab_73])
def test_no_flipped_byte_raises_anything_but_an_input_error(tmp_path, write):
    path = write(tmp_path, kspace=KSPACE, mask=np.ones(3))
    content = path.read_bytes()
    generator = np.random.default_rng(5)
    for position in generator.integers(0, min(len(content), 3000), 200):
        damaged = bytearray(content)
        damaged[position] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        with suppress(InputError):
            read_all(path)


def test_what_numpy_can_read_is_an_array(tmp_path):
    with h5py.File(write_matlab_73(tmp_path, kspace=KSPACE)) as file:
        np.testing.assert_array_equal(as_array(file["kspace"], "k-space").T, KSPACE)
    np.testing.assert_array_equal(as_array(KSPACE.tolist(), "k-space"), KSPACE)
    with pytest.raises(InputError, match="k-space is a list that NumPy cannot read"):
        as_array([[1, 2], [3]], "k-space")
