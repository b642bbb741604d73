from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.results.nifti import write_nifti
from series_samples import BRIGHT, stack, world

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
    with pytest.raises(BackendMissingError, match=r'pip install .*\[nifti\]"'):
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


def test_interleaved_slices_are_sorted_and_lie_where_they_are(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    places = (0, 10, 5, 15)
    series = stack(places)
    write_nifti(tmp_path / "out.nii", series.volume, (9.0, 9.0, 9.0), series.geometries)
    image = nibabel.load(tmp_path / "out.nii")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_dim_info() == (0, 1, 2)
    stored = np.asarray(image.dataobj)
    for brightness, voxel in enumerate(BRIGHT, 5):
        (found,) = np.argwhere(stored == brightness)
        np.testing.assert_allclose(
            (image.affine @ (*found, 1))[:3], world(*voxel, places) * (-1, -1, 1), atol=1e-4
        )


def test_slices_that_are_no_stack_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    series = stack((0, 5, 10, 16))
    volume, geometries = series.volume, series.geometries
    with pytest.raises(InputError, match="do not lie at equal distances"):
        write_nifti(tmp_path / "out.nii", volume, None, geometries)
    with pytest.raises(InputError, match="3 of 4 slices have a known place"):
        write_nifti(tmp_path / "out.nii", volume, None, [None, *geometries[1:]])
    assert not list(tmp_path.iterdir())


def test_several_volumes_of_one_place_are_the_fourth_axis(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    series = stack()
    write_nifti(tmp_path / "out.nii", np.stack([series.volume, 2 * series.volume]), None, series.geometries)
    stored = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
    assert stored.shape == (*series.volume.shape[1:], 4, 2)
    np.testing.assert_array_equal(stored[..., 1], 2 * np.moveaxis(series.volume, 0, -1))
