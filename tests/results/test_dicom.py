from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from letter_f import EDGES, PIXEL_MM, UPRIGHT, VIEWS, WAYS, edge_letters, place_of, scanned
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.mrd.header import Protocol
from sbim_deploy.results.dicom import write_dicom
from sbim_deploy.results.intensity import Intensity
from sbim_deploy.results.nifti import write_nifti
from series_samples import BRIGHT, DERIVATION, PROTOCOL, PSEUDONYM, SHAPE, VOXEL_MM, oblique, stack, world

LPS_TO_RAS = np.array([-1, -1, 1])


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom")


def tool(name: str, package: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not on the PATH: apt-get install {package}")
    return program


def written(folder: Path, protocol: Protocol = PROTOCOL, keep_grid: bool = False, **changes) -> list[Path]:
    write_dicom(folder, [stack(**changes)], DERIVATION, protocol, PSEUDONYM, VOXEL_MM, keep_grid=keep_grid)
    return sorted(folder.iterdir())


def brightest(volume: np.ndarray, n: int = len(BRIGHT)) -> list[tuple[int, ...]]:
    """The n brightest voxels, the least bright first."""
    order = np.argsort(volume, axis=None)[-n:]
    return [tuple(int(each) for each in np.unravel_index(place, volume.shape)) for place in order]


@pytest.mark.parametrize("keep_grid", [False, True])
def test_pixels_lie_where_the_geometry_says(tmp_path, pydicom, keep_grid):
    for index, path in enumerate(written(tmp_path / "out", keep_grid=keep_grid)):
        dataset = pydicom.dcmread(path)
        (row, column) = brightest(dataset.pixel_array, 1)[0]
        along_row, down_column = np.reshape(dataset.ImageOrientationPatient, (2, 3)).astype(float)
        row_mm, column_mm = (float(each) for each in dataset.PixelSpacing)
        place = (
            np.array(dataset.ImagePositionPatient, float)
            + column * column_mm * along_row
            + row * row_mm * down_column
        )
        np.testing.assert_allclose(place, world(*BRIGHT[index]), atol=1e-6)
        assert (float(dataset.SliceThickness), float(dataset.SpacingBetweenSlices)) == (4, 5)
        if keep_grid:
            assert (index, row, column) == BRIGHT[index]
        assert dataset.InPlanePhaseEncodingDirection == "ROW"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("way", WAYS)
def test_a_letter_on_the_patient_is_upright_in_viewers(tmp_path, pydicom, view, way):
    volume, geometry = scanned(view, way)
    changes = {"volume": volume[None], "slices": (0,), "geometries": [geometry]}
    (path,) = written(tmp_path / "out", places=(0,), **changes)
    dataset = pydicom.dcmread(path)
    np.testing.assert_array_equal(dataset.pixel_array > 0, UPRIGHT > 0)
    assert edge_letters(dataset.ImageOrientationPatient) == EDGES[view]
    assert list(dataset.PixelSpacing) == list(PIXEL_MM)
    np.testing.assert_allclose(np.array(dataset.ImagePositionPatient, float), place_of(view, 0, 0))
    # The phase encode runs down the picture's columns where the readout runs along its rows.
    assert dataset.InPlanePhaseEncodingDirection == ("COL" if way[0] else "ROW")


@pytest.mark.parametrize("keep_grid", [False, True])
@pytest.mark.parametrize("places", [(0, 5, 10, 15), (15, 10, 5, 0)])
def test_dicom_and_nifti_of_an_oblique_stack_agree_in_the_world(tmp_path, pydicom, places, keep_grid):
    nibabel = pytest.importorskip("nibabel")
    program = tool("dcm2niix", "dcm2niix")
    series = stack(places)
    write_dicom(tmp_path / "dicom", [series], DERIVATION, PROTOCOL, PSEUDONYM, keep_grid=keep_grid)
    write_nifti(tmp_path / "ours.nii", series.volume, None, series.geometries)
    options = ["-b", "n", "-z", "n", "-f", "theirs", "-o", str(tmp_path)]
    subprocess.run([program, *options, str(tmp_path / "dicom")], check=True, capture_output=True)
    expected = [world(*voxel, places) * LPS_TO_RAS for voxel in BRIGHT]
    for name in ("ours.nii", "theirs.nii"):
        image = nibabel.load(tmp_path / name)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
        found = brightest(np.asarray(image.dataobj))
        for affine in (image.get_sform(), image.get_qform()):
            reached = [(affine @ (*voxel, 1))[:3] for voxel in found]
            np.testing.assert_allclose(reached, expected, atol=1e-3)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("way", WAYS[::3])
def test_upright_dicom_and_nifti_on_the_grid_agree_in_the_world(tmp_path, pydicom, view, way):
    nibabel = pytest.importorskip("nibabel")
    program = tool("dcm2niix", "dcm2niix")
    image, geometry = scanned(view, way)
    normal, places = np.array(geometry.slice_dir), (0, 6, 12)
    geometries = [
        dataclasses.replace(geometry, position=tuple(geometry.position + mm * normal)) for mm in places
    ]
    bright = (2, 3)  # (row, column) as scanned
    volume = np.stack([image] * 3)
    volume[1][bright] = 9
    changes = {"volume": volume, "slices": range(3), "geometries": geometries}
    written(tmp_path / "dicom", places=places, **changes)
    write_nifti(tmp_path / "ours.nii", volume, None, geometries)
    options = ["-b", "n", "-z", "n", "-f", "theirs", "-o", str(tmp_path)]
    subprocess.run([program, *options, str(tmp_path / "dicom")], check=True, capture_output=True)
    steps = np.divide(geometry.field_of_view_mm[:2], image.shape)
    across = (np.array(bright) - np.array(image.shape) // 2) * steps
    truth = np.array(geometries[1].position) + across @ np.array([geometry.read_dir, geometry.phase_dir])
    for name in ("ours.nii", "theirs.nii"):
        stored = nibabel.load(tmp_path / name)
        voxel = brightest(np.asarray(stored.dataobj), 1)[0]
        np.testing.assert_allclose((stored.affine @ (*voxel, 1))[:3], truth * LPS_TO_RAS, atol=1e-3)


def test_dciodvfy_finds_no_error(tmp_path, pydicom):
    program = tool("dciodvfy", "dicom3tools")
    kinds = {
        "placed": {},
        "inversion": {"protocol": dataclasses.replace(PROTOCOL, ti_ms=(500.0,), field_strength_t=3.0)},
        "bare": {"protocol": Protocol()},
        "unplaced": {"geometries": [None] * 4},
    }
    for name, changes in kinds.items():
        for path in written(tmp_path / name, **changes):
            done = subprocess.run([program, str(path)], capture_output=True, text=True)
            assert "Error" not in done.stderr, f"{name}: {done.stderr}"
            assert ("SCImage" if name == "unplaced" else "MRImage") in done.stderr


def test_what_the_files_say_of_themselves(tmp_path, pydicom):
    dataset = pydicom.dcmread(written(tmp_path / "out")[1])
    assert dataset.SeriesDescription == "sbim-deploy dds, research use only"
    assert dataset.ImageType[:2] == ["DERIVED", "PRIMARY"]
    for part in ("acquired on Vendor", "dds, 30 network calls", "abababab", "acceleration 3.87"):
        assert part in dataset.DerivationDescription
    assert dataset.ImageComments == "residual 0.1000; research use only"
    assert (dataset.PatientName, dataset.BurnedInAnnotation) == ("Anonymous^", "NO")
    assert (float(dataset.RepetitionTime), float(dataset.EchoTime)) == (2000, 10)
    assert dataset.ContributingEquipmentSequence[0].Manufacturer == "sbim-deploy"
    assert dataset.InstanceNumber == 2


def test_a_doubtful_image_says_so_first_in_its_comment(tmp_path, pydicom):
    doubts = ["", "DOUBTFUL: the receiver was overdriven", "", ""]
    comments = [pydicom.dcmread(path).ImageComments for path in written(tmp_path / "out", doubts=doubts)]
    assert comments[0] == "residual 0.1000; research use only"
    assert comments[1] == "DOUBTFUL: the receiver was overdriven; residual 0.1000; research use only"


def test_one_scale_keeps_the_brightness_of_slices_comparable(tmp_path, pydicom):
    images = [pydicom.dcmread(path).pixel_array for path in written(tmp_path / "out")]
    assert [int(image.max()) for image in images] == [round(32767 * each / 8) for each in (5, 6, 7, 8)]


def test_stored_pixels_times_the_slope_are_magnitudes_and_series_have_one_window(tmp_path, pydicom):
    first = stack()
    second = stack(number=2, volume=first.volume / 4)
    intensity = Intensity(full_scale=20.0, white=7.0)
    write_dicom(tmp_path / "out", [first, second], DERIVATION, PROTOCOL, PSEUDONYM, None, intensity, True)
    datasets = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").iterdir())]
    expected = np.concatenate([first.volume, second.volume])
    for dataset, magnitude in zip(datasets, expected, strict=True):
        (mapping,) = dataset.RealWorldValueMappingSequence
        assert (mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped) == (0, 32767)
        slope, intercept = mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept
        assert slope == pytest.approx(20 / 32767)
        stored = dataset.pixel_array.astype(float)
        np.testing.assert_allclose(stored * slope + intercept, magnitude, atol=0.51 * slope)
        # A rescale is none of MR Image Storage, and the window would be in its units.
        assert "RescaleSlope" not in dataset
        assert float(dataset.WindowWidth) * slope == pytest.approx(7)
    assert len({(each.WindowCenter, each.WindowWidth) for each in datasets}) == 1


@pytest.mark.parametrize(("te_ms", "number"), [((10.0, 20.0), 2), ((10.0,), None), ((10.0, 10.0), None)])
def test_several_echoes_are_numbered(tmp_path, pydicom, te_ms, number):
    protocol = dataclasses.replace(PROTOCOL, te_ms=te_ms)
    dataset = pydicom.dcmread(written(tmp_path / "out", protocol, contrast=1)[0])
    assert dataset.get("EchoNumbers") == number


def test_the_same_images_give_the_same_files_and_others_other_identifiers(tmp_path, pydicom):
    first, again = written(tmp_path / "first"), written(tmp_path / "again")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    moved = [oblique(place + 1) for place in (0, 5, 10, 15)]
    others = written(tmp_path / "moved", geometries=moved)
    datasets = [pydicom.dcmread(path) for path in (*first, *others)]
    assert len({each.SOPInstanceUID for each in datasets}) == 8
    assert len({each.SeriesInstanceUID for each in datasets}) == 2
    assert len({each.StudyInstanceUID for each in datasets}) == 1
    assert len({each.FrameOfReferenceUID for each in datasets}) == 1


def test_without_geometry_no_orientation_is_claimed(tmp_path, pydicom):
    dataset = pydicom.dcmread(written(tmp_path / "out", geometries=[None] * 4)[0])
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert "ImageOrientationPatient" not in dataset
    assert "ImagePositionPatient" not in dataset
    assert list(dataset.PixelSpacing) == [2, 3]
    assert dataset.pixel_array.shape == SHAPE


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, pydicom, monkeypatch):
    geometries = stack().geometries
    with pytest.raises(InputError, match="3 of 4 slices have a known place"):
        written(tmp_path / "out", geometries=[None, *geometries[1:]])
    flat = [*geometries[:3], dataclasses.replace(geometries[3], read_dir=(0.0, 0.0, 0.0))]
    with pytest.raises(InputError, match="perpendicular unit vectors"):
        written(tmp_path / "out", geometries=flat)
    assert not list(tmp_path.iterdir())
    written(tmp_path / "out")
    with pytest.raises(InputError, match="is no empty folder"):
        written(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[dicom\]"'):
        written(tmp_path / "other")


def test_slices_that_are_no_stack_still_have_their_places(tmp_path, pydicom):
    geometries = [oblique(place) for place in (0, 5, 11, 12)]
    datasets = [pydicom.dcmread(path) for path in written(tmp_path / "out", geometries=geometries)]
    assert all("SpacingBetweenSlices" not in each for each in datasets)
    assert len({tuple(each.ImagePositionPatient) for each in datasets}) == 4


def test_series_of_a_scan_share_the_scale_and_the_study(tmp_path, pydicom):
    first = stack(label="repetition 0")
    second = stack(number=2, label="repetition 1", contrast=1, volume=first.volume / 2)
    write_dicom(tmp_path / "out", [first, second], DERIVATION, PROTOCOL, PSEUDONYM)
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths[3:5]] == ["S1_IM00004.dcm", "S2_IM00001.dcm"]
    datasets = [pydicom.dcmread(path) for path in paths]
    assert [int(each.pixel_array.max()) for each in datasets[3::4]] == [32767, 16384]
    assert [float(each.EchoTime) for each in datasets[3::4]] == [10, 20]
    assert [int(each.SeriesNumber) for each in datasets[3::4]] == [1, 2]
    assert datasets[7].SeriesDescription == "repetition 1 sbim-deploy dds, research use only"
    assert len({each.SeriesInstanceUID for each in datasets}) == 2
    assert len({each.SOPInstanceUID for each in datasets}) == 8
    assert len({(each.StudyInstanceUID, each.FrameOfReferenceUID) for each in datasets}) == 1
