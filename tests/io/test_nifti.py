from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.io.nifti import write_nifti

VOLUME = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_volume_reads_back_with_slices_last(tmp_path: Path, name: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    write_nifti(tmp_path / name, VOLUME, (0.5, 0.75, 4.0))
    image = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.moveaxis(VOLUME, 0, -1))
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.75, 4.0))
    assert image.header.get_xyzt_units()[0] == "mm"
    assert b"research use only" in bytes(image.header["descrip"])
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 0)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_unknown_voxel_size_has_no_unit(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    write_nifti(tmp_path / "out.nii", VOLUME, None)
    header = nibabel.load(tmp_path / "out.nii").header
    assert header.get_zooms() == (1.0, 1.0, 1.0)
    assert header.get_xyzt_units()[0] == "unknown"


def test_missing_nibabel_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(BackendMissingError, match=r'pip install "sbim-deploy\[nifti\]"'):
        write_nifti(tmp_path / "out.nii", VOLUME, None)


def test_other_suffixes_and_missing_folders_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    with pytest.raises(InputError, match="must end in"):
        write_nifti(tmp_path / "out.img", VOLUME, None)
    with pytest.raises(InputError, match="does not exist"):
        write_nifti(tmp_path / "none" / "out.nii", VOLUME, None)
    with pytest.raises(ValueError, match="slices, rows, columns"):
        write_nifti(tmp_path / "out.nii", VOLUME[0], None)
    assert not list(tmp_path.iterdir())
