"""Slices of NIfTI volumes, as objects of simulated scans."""

import re
import sys

import numpy as np
import pytest

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.runs.volume import MARGIN, volume_slice


@pytest.fixture
def write_volume(tmp_path):
    nibabel = pytest.importorskip("nibabel")

    def write(volume, spacing=(1.0, 1.0, 1.0), name="head.nii.gz"):
        path = tmp_path / name
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([*spacing, 1.0])), path)
        return path

    return write


# A corner that is right, anterior and superior of the middle.
CORNER = np.zeros((20, 20, 20), np.float32)
CORNER[14:18, 14:18, 14:18] = 3


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_up_is_superior_or_anterior_and_right_is_right_or_anterior(write_volume, plane):
    image = volume_slice(write_volume(CORNER), plane, 16, 32)
    rows, columns = np.nonzero(image > 1.5)
    assert image.shape == (32, 32)
    assert rows.max() < 16
    assert columns.min() >= 16


def test_an_axis_that_the_file_has_turned_is_turned_back(write_volume):
    path = write_volume(np.ascontiguousarray(CORNER[::-1]), (-1.0, 1.0, 1.0), "flipped.nii")
    expected = volume_slice(write_volume(CORNER), "axial", 16, 32)
    np.testing.assert_array_equal(volume_slice(path, "axial", 16, 32), expected)


def test_pixels_are_square_whatever_the_voxels_are(write_volume):
    # 40 mm long and 20 mm high, of voxels that are twice as high as long.
    path = write_volume(np.ones((10, 40, 10), np.uint8), (1.0, 1.0, 2.0))
    image = volume_slice(path, "sagittal", 5, 100)
    rows, columns = (np.flatnonzero((image > 0.5).any(axis=axis)).size for axis in (1, 0))
    pixel = 40 * MARGIN / 100
    assert rows * pixel == pytest.approx(20, abs=2.5)
    assert columns * pixel == pytest.approx(40, abs=2.5)
    assert abs(image - image[::-1]).max() < 1e-5
    assert abs(image - image[:, ::-1]).max() < 1e-5


def test_a_finer_volume_is_smoothed_before_its_pixels_are_dropped(write_volume):
    stripes = np.zeros((128, 128, 1), np.float32)
    stripes[::2] = 1
    image = volume_slice(write_volume(stripes), "axial", 0, 16)
    inside = image[4:12, 4:12]
    assert inside.std() < 0.05
    assert inside.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("volume", "index", "message"),
    [
        (CORNER, 20, "head.nii.gz: has 20 axial slices, slice 20 is asked for"),
        (CORNER, 2, "nothing is in axial slice 2: choose another"),
        (np.full((4, 4, 4), np.nan, np.float32), 0, "no finite numbers"),
        (np.zeros((4, 4, 4, 3), np.float32), 0, r"shape \(4, 4, 4, 3\) of float32, expected one volume"),
        (np.zeros((4, 4, 4), np.complex64), 0, "of complex64, expected one volume of real numbers"),
    ],
)
def test_what_cannot_be_simulated_is_named(write_volume, volume, index, message):
    with pytest.raises(InputError, match=message):
        volume_slice(write_volume(volume), "axial", index, 32)


@pytest.mark.parametrize("content", [None, b"", b"not a volume", b"\x1f\x8b\x08\x00 cut short"])
def test_a_file_that_is_no_nifti_is_named(tmp_path, content):
    pytest.importorskip("nibabel")
    path = tmp_path / "bad.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.nii\.gz: cannot be read as NIfTI"):
        volume_slice(path, "axial", 0, 32)


def test_a_volume_that_was_cut_short_is_named(write_volume):
    path = write_volume(np.random.default_rng(0).random((20, 20, 20), np.float32))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        volume_slice(path, "axial", 0, 32)


def test_missing_nibabel_names_the_file_and_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(
        BackendMissingError, match=r"h\.nii: reading it needs nibabel.*" + re.escape(install_command("nifti"))
    ):
        volume_slice(tmp_path / "h.nii", "axial", 0, 32)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (42, (2000).to_bytes(2, "little") * 3, r"has shape \(2000, 2000, 2000\), expected at most"),
        (70, (9999).to_bytes(2, "little"), "cannot be read as NIfTI"),
        (40, (60).to_bytes(2, "little"), "cannot be read as NIfTI"),
    ],
)
def test_a_header_that_is_hostile_is_one_line_before_memory_is_taken(write_volume, place, value, said):
    path = write_volume(CORNER, name="head.nii")
    stored = bytearray(path.read_bytes())
    stored[place : place + len(value)] = value
    path.write_bytes(stored)
    with pytest.raises(InputError, match=said) as caught:
        volume_slice(path, "axial", 0, 16)
    assert "\n" not in str(caught.value)
