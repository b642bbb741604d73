from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hdf5_samples import complex_noise
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.fastmri import KspaceSlice, open_kspace, write_kspace

COILS, ROWS, COLUMNS = 3, 8, 6
VOXEL = (1.5, 2.0, 4.0)


def slices(number: int, fail_at: int | None = None) -> Iterator[KspaceSlice]:
    for index in range(number):
        if index == fail_at:
            raise RuntimeError("interrupted")
        kspace, maps = complex_noise((COILS, ROWS, COLUMNS), index), complex_noise((COILS, ROWS, COLUMNS), 99)
        yield KspaceSlice(kspace, reference=kspace[0], maps=maps)


@pytest.mark.parametrize("mask_shape", [(COLUMNS,), (ROWS, COLUMNS)])
def test_what_is_written_reads_back(tmp_path: Path, mask_shape: tuple[int, ...]) -> None:
    path = tmp_path / "scan.h5"
    mask = np.zeros(mask_shape, bool)
    mask[..., ::2] = True
    write_kspace(path, slices(4), mask, VOXEL, {"seed": 7})
    with open_kspace(path) as scan:
        assert (scan.n_slices, scan.n_coils, scan.n_rows, scan.n_columns) == (4, COILS, ROWS, COLUMNS)
        assert scan.encoded_shape == scan.recon_shape == (ROWS, COLUMNS)
        assert scan.voxel_mm == VOXEL
        np.testing.assert_array_equal(scan.mask, mask)
        for index, each in enumerate(slices(4)):
            np.testing.assert_array_equal(scan.read_slice(index), each.kspace)
            np.testing.assert_array_equal(scan.read_maps(index), each.maps)
            np.testing.assert_array_equal(scan.read_reference(index), each.reference)
    with h5py.File(path) as file:
        assert json.loads(file.attrs["provenance"]) == {"seed": 7}
        for name in ("kspace", "s_maps", "reference"):
            assert file[name].dtype == np.complex64


def test_interrupted_writing_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    path.write_text("older")
    with pytest.raises(RuntimeError, match="interrupted"):
        write_kspace(path, slices(4, fail_at=2), np.ones(COLUMNS, bool), VOXEL, {})
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_no_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no slice"):
        write_kspace(tmp_path / "scan.h5", slices(0), np.ones(COLUMNS, bool), VOXEL, {})
    assert not list(tmp_path.iterdir())


def test_slices_and_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    kspace = complex_noise((COILS, ROWS, COLUMNS))
    with pytest.raises(ValueError, match="maps"):
        KspaceSlice(kspace, kspace[0], kspace[:1])
    with pytest.raises(ValueError, match="reference"):
        KspaceSlice(kspace, kspace[0, 1:], kspace)
    with pytest.raises(ValueError, match="mask"):
        write_kspace(tmp_path / "scan.h5", slices(1), np.ones(COLUMNS + 1, bool), VOXEL, {})
    smaller = kspace[:, 1:]
    mixed = [KspaceSlice(each, each[0], each) for each in (kspace, smaller)]
    with pytest.raises(ValueError, match="slice 1"):
        write_kspace(tmp_path / "scan.h5", mixed, np.ones(COLUMNS, bool), VOXEL, {})
    assert not list(tmp_path.iterdir())
