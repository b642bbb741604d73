"""k-space and maps in plain arrays: the right one is found, with its axes, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from array_samples import (
    MATLAB,
    WITH_NAMES,
    WRITERS,
    compound,
    write_hdf5,
    write_matlab_73,
    write_npy,
    write_npz,
)
from hdf5_samples import complex_noise
from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.kspace.sources import open_source, open_source_maps
from sbim_deploy.runs.info import describe

COILS = complex_noise((4, 20, 18))
SLICES = complex_noise((3, 4, 20, 18))


def refusal(path: Path, reading: Reading) -> str:
    with pytest.raises(InputError) as caught:
        open_source(path, reading)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "fetch it again" not in message
    return message


@pytest.mark.parametrize("write", WRITERS)
def test_coils_rows_columns_are_guessed_and_said_in_every_format(tmp_path, write):
    with open_source(write(tmp_path, kspace=COILS)) as scan:
        assert (scan.n_slices, scan.n_coils, scan.n_rows, scan.n_columns) == (1, 4, 20, 18)
        np.testing.assert_array_equal(scan.read_slice(0), COILS)
        told = scan.describe()
        assert told["layout"] == "coil,row,column"
        assert "4 x 20 x 18" in told["assumed"][0]
        with pytest.raises(InputError, match="no slice 1, expected 0 to 0"):
            scan.read_slice(1)


@pytest.mark.parametrize("write", WRITERS)
def test_a_layout_that_is_named_is_taken_in_every_format(tmp_path, write):
    stored = SLICES.transpose(2, 3, 1, 0)
    with open_source(write(tmp_path, kspace=stored), Reading("row,column,coil,slice")) as scan:
        assert (scan.n_slices, scan.n_coils, scan.n_rows, scan.n_columns) == (3, 4, 20, 18)
        for index in range(3):
            np.testing.assert_array_equal(scan.read_slice(index), SLICES[index])
        assert scan.describe()["assumed"] is None
    with open_source(write(tmp_path, kspace=COILS), Reading("slice,column,row")) as scan:
        np.testing.assert_array_equal(scan.read_slice(2), COILS[2:3].transpose(0, 2, 1))


@pytest.mark.parametrize("write", MATLAB)
def test_the_axes_of_matlab_s_arrays_are_named_in_matlab_s_order(tmp_path, write):
    with open_source(write(tmp_path, kspace=COILS.transpose(1, 2, 0))) as scan:
        assert scan.describe()["layout"] == "row,column,coil"
        assert "in MATLAB's order" in scan.describe()["assumed"][0]
        np.testing.assert_array_equal(scan.read_slice(0), COILS)


def test_a_single_image_of_k_space_has_one_coil(tmp_path):
    with open_source(write_npy(tmp_path, kspace=COILS[0])) as scan:
        np.testing.assert_array_equal(scan.read_slice(0), COILS[:1])


@pytest.mark.parametrize("write", WITH_NAMES)
def test_the_array_is_found_by_its_kind_its_name_or_the_name_that_is_given(tmp_path, write):
    path = write(tmp_path, sens=SLICES[1], kspace=COILS, image=np.ones((20, 18)))
    with open_source(path) as scan:
        np.testing.assert_array_equal(scan.read_slice(0), COILS)
    with open_source(path, Reading(variable="sens")) as scan:
        np.testing.assert_array_equal(scan.read_slice(0), SLICES[1])
        assert scan.describe()["variable"] == "sens"
    assert "has no variable 'x': it holds " in refusal(path, Reading(variable="x"))
    assert "image" in refusal(path, Reading(variable="image"))


@pytest.mark.parametrize("write", [write_npz, *MATLAB])
def test_the_only_complex_array_is_taken_and_several_are_named(tmp_path, write):
    with open_source(write(tmp_path, x1=COILS, image=np.ones((20, 18)))) as scan:
        np.testing.assert_array_equal(scan.read_slice(0), COILS)
    message = refusal(write(tmp_path, x1=COILS, x2=COILS), Reading())
    assert "x1 (4, 20, 18), x2 (4, 20, 18): say it by --variable" in message
    assert "real + 1j * imaginary" in refusal(write(tmp_path, x=np.ones((4, 20, 18, 2))), Reading())


def test_fastmri_s_own_files_take_a_layout_too(make_file: Any) -> None:
    stored = SLICES.transpose(0, 2, 3, 1)
    with open_source(make_file(kspace=stored), Reading("slice,row,column,coil")) as scan:
        np.testing.assert_array_equal(scan.read_slice(2), SLICES[2])
        assert scan.describe()["format"] == "fastMRI HDF5"
        assert scan.describe()["layout"] == "slice,row,column,coil"


@pytest.mark.parametrize("stored", [SLICES, COILS])
def test_a_table_of_real_and_imaginary_parts_in_hdf5_is_complex(make_file: Any, stored: Any) -> None:
    path = make_file(kspace=compound(stored), mask=np.ones(18))
    with open_source(path) as scan:
        np.testing.assert_array_equal(scan.read_slice(0), stored if stored is COILS else stored[0])
        assert scan.mask is not None
    assert describe(path)["layout"].endswith("coil,row,column")


def test_formats_that_say_their_axes_take_no_layout(tmp_path):
    write_cfl(tmp_path / "k.cfl", COILS.transpose(1, 2, 0)[:, :, None])
    assert "leave --layout" in refusal(tmp_path / "k.cfl", Reading("coil,row,column"))


@pytest.mark.parametrize("write", [write_npz, *MATLAB, write_hdf5])
@pytest.mark.parametrize("shape", [(18,), (1, 18), (20, 18)])
def test_a_mask_beside_an_array_is_read(tmp_path, write, shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    with open_source(write(tmp_path, kspace=COILS, mask=mask.astype(np.uint8))) as scan:
        np.testing.assert_array_equal(scan.mask, mask if shape == (20, 18) else mask.ravel())


def test_a_mask_lies_as_its_k_space(tmp_path):
    mask = np.random.default_rng(0).random((18, 20)) < 0.5
    path = write_npz(tmp_path, kspace=COILS.transpose(0, 2, 1), mask=mask)
    with open_source(path, Reading("coil,column,row")) as scan:
        np.testing.assert_array_equal(scan.mask, mask.T)


@pytest.mark.parametrize(
    "stored", [lambda m: m[:, 0], lambda m: m[:, :1], lambda m: m, lambda m: m.transpose(1, 2, 0)]
)
def test_a_mask_for_each_slice_is_applied_to_its_slice(tmp_path, stored):
    mask = np.repeat(np.random.default_rng(0).random((3, 1, 18)) < 0.5, 20, axis=1)
    kept = stored(mask)
    with open_source(write_npz(tmp_path, kspace=SLICES, mask=kept), Reading("slice,coil,row,column")) as scan:
        assert scan.mask is None
        assert scan.describe()["mask"] == "in the file, one for each slice"
        for index in range(3):
            np.testing.assert_array_equal(scan.read_slice(index), SLICES[index] * mask[index])


@pytest.mark.parametrize("write", WRITERS)
def test_coil_maps_are_read_by_their_sizes(tmp_path, write):
    for stored in (COILS, COILS.transpose(1, 2, 0)):
        path = write(tmp_path, kspace=stored)
        if write is write_hdf5:
            with h5py.File(path, "w") as file:
                file["s_maps"] = COILS[None]
        with open_source_maps(path, 1, 4, [(40, 18), (20, 18)]) as maps:
            np.testing.assert_array_equal(maps.read_maps(0), COILS)
    if write is not write_hdf5:
        with pytest.raises(InputError, match=r"maps have shape \(20, 18, 4\), expected \(1, 6, 20, 18\)"):
            open_source_maps(path, 1, 6, [(20, 18)])


def test_maps_that_are_all_zero_and_values_that_are_not_finite_are_refused(tmp_path):
    zero = open_source_maps(write_npy(tmp_path, kspace=0 * COILS), 1, 4, [(20, 18)])
    with zero as maps, pytest.raises(InputError, match="all zero"):
        maps.read_maps(0)
    bad = COILS.copy()
    bad[1, 2, 3:5] = np.nan
    for path in (write_npy(tmp_path, kspace=bad), write_matlab_73(tmp_path, kspace=bad)):
        with open_source(path) as scan, pytest.raises(InputError, match=r"slice 0.* has 2 of 1440 values"):
            scan.read_slice(0)


def test_a_slice_too_large_for_memory_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("ksp", (64, 2**14, 2**14), np.complex64, chunks=(1, 64, 64))
    assert "a slice has 137438953472 bytes, expected at most 2147483648" in refusal(path, Reading())
    assert "an empty axis" in refusal(write_npz(tmp_path, kspace=COILS[:0]), Reading("coil,row,column"))
