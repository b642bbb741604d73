"""How images leave by recon's options: one factor for a scan, upright, and whose they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from oblique_scan import SIZE, write_scan

from blob_scans import blob_readouts, spaces_xml, write_readouts
from letter_f import EDGES, UPRIGHT, VIEWS, edge_letters, scanned
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.pages import montage
from sbim_deploy.results.result_file import open_result


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    pytest.importorskip("ismrmrd")
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


QUICK = ("--method", "zero-filled")


def dicom_of(cli, pydicom, scan: Path, out: Path, *options: object) -> list:
    """The DICOM files that recon makes of a scan, in order."""
    done = cli("recon", scan, "-o", out, "--format", "dicom", *QUICK, *options)
    assert done.code == 0, done.err
    return [pydicom.dcmread(path) for path in sorted(out.iterdir())]


def slope(dataset) -> float:
    return dataset.RealWorldValueMappingSequence[0].RealWorldValueSlope


def test_a_scan_has_one_factor_however_it_is_cut(cli, scan, tmp_path):
    pydicom, ismrmrd = pytest.importorskip("pydicom"), pytest.importorskip("ismrmrd")
    whole = dicom_of(cli, pydicom, scan, tmp_path / "whole")
    assert len(whole) == 6
    assert len({(slope(each), each.WindowWidth) for each in whole}) == 1
    # The second repetition is half as bright.
    for cut in (("--slices", "4:5"), ("--slices", "1:2")):
        assert {slope(each) for each in dicom_of(cli, pydicom, scan, tmp_path / cut[1], *cut)} == {
            slope(whole[0])
        }
    (alone,) = dicom_of(cli, pydicom, scan, tmp_path / "alone", "--slices", "4:5")
    np.testing.assert_array_equal(alone.pixel_array, whole[4].pixel_array)
    for name, cut in (("a.h5", "0:6"), ("b.h5", "4:5")):
        done = cli("recon", scan, "-o", tmp_path / name, "--format", "mrd", *QUICK, "--slices", cut)
        assert done.code == 0, done.err
    slopes = []
    for name, series in (("a.h5", 1), ("a.h5", 2), ("b.h5", 1)):
        with ismrmrd.Dataset(tmp_path / name, mode="r") as dataset:
            slopes.append(float(dataset.read_image(f"image_{series}", 0).meta["RealWorldValueSlope"]))
    assert len(set(slopes)) == 1
    assert slopes[0] == pytest.approx(slope(whole[0]) * 32767 / 4095)


def test_files_of_a_study_share_the_factor_of_scale_and_what_it_clips_is_said(cli, scan, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    datasets = dicom_of(cli, pydicom, scan, tmp_path / "wide", "--scale", 50)
    assert {slope(each) for each in datasets} == {50 / 32767}
    done = cli("recon", scan, "-o", tmp_path / "o", "--format", "dicom", *QUICK, "--scale", 0.5)
    assert done.code == 0
    assert "warning: " in done.err
    assert "pixels are brighter than 0.5" in done.err
    assert "give --scale 4" in done.err


def test_images_are_anonymous_until_the_patient_is_asked_for(cli, scan, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    anonymous = dicom_of(cli, pydicom, scan, tmp_path / "anonymous")[0]
    assert anonymous.PatientIdentityRemoved == "YES"
    assert anonymous.StudyInstanceUID.startswith("2.25.")
    kept = dicom_of(cli, pydicom, scan, tmp_path / "kept", "--identity", "keep")[0]
    assert (kept.PatientName, kept.PatientID, kept.StudyDate) == ("Doe^Jane", "4711", "20240506")
    assert (kept.StudyInstanceUID, kept.FrameOfReferenceUID) == ("1.2.840.99.7", "1.2.840.99.8")
    assert kept.SeriesDescription == "repetition 0 oblique sbim-deploy zero-filled, research use only"[:64]
    said = cli("recon", scan, "-o", tmp_path / "o", "--format", "dicom", *QUICK, "--identity", "keep").err
    assert "the header has no patientBirthdate, patientGender, studyTime," in said


def test_mrd_images_of_the_real_patient_have_the_header_of_their_scan(cli, scan, tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    out = tmp_path / "o.h5"
    done = cli("recon", scan, "-o", out, "--format", "mrd", *QUICK, "--identity", "keep")
    assert done.code == 0, done.err
    with ismrmrd.Dataset(out, mode="r") as dataset, ismrmrd.Dataset(scan, mode="r") as raw:
        assert dataset.read_xml_header() == raw.read_xml_header()
        image = dataset.read_image("image_1", 0)
    assert (image.meta["PatientID"], image.meta["StudyInstanceUID"]) == ("4711", "1.2.840.99.7")
    assert image.getHead().measurement_uid == 42
    assert "format: MRD images" in cli("info", out).out


def test_no_output_of_an_anonymous_run_has_the_patient_in_it(cli, scan, tmp_path):
    for module in ("pydicom", "nibabel"):
        pytest.importorskip(module)
    for name, options in (
        ("o.h5", ("--report", tmp_path / "o.html", "--png", tmp_path / "o.png")),
        ("o.nii", ()),
        ("dicom", ("--format", "dicom")),
        ("mrd.h5", ("--format", "mrd")),
    ):
        assert cli("recon", scan, "-o", tmp_path / name, *options, *QUICK).code == 0
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(paths) == 11
    for path in paths:
        stored = path.read_bytes()
        secrets = (b"Doe", b"4711", b"1.2.840.99", b"2024-05", b"20240506", b"oblique")
        assert not [secret for secret in secrets if secret in stored], path


def test_a_salt_joins_files_of_a_study(cli, scan, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    other = tmp_path / "other.h5"
    shutil.copy(scan, other)
    with h5py.File(other, "a") as file:
        table = file["dataset/data"][:1]
        table["head"]["scan_counter"] = 9
        file["dataset/data"][:1] = table
    secret = tmp_path / "secret.txt"
    secret.write_text("a long secret\n")
    studies = {}
    for number, path in enumerate((scan, other)):
        for salt in ((), ("--salt", secret)):
            (dataset,) = dicom_of(
                cli, pydicom, path, tmp_path / f"{number}{len(salt)}", "--slices", "0:1", *salt
            )
            studies[number, len(salt)] = (
                dataset.StudyInstanceUID,
                dataset.FrameOfReferenceUID,
                dataset.PatientID,
            )
    assert studies[0, 2] == studies[1, 2]
    assert len(set(studies.values())) == 3


def write_letter(path: Path, view: str, way: tuple[bool, int, int]) -> Path:
    """A fully sampled scan of two coils of the letter F, in the middle of a square."""
    image, geometry = scanned(view, way)
    rows, columns = (size // 2 - n // 2 for size, n in zip((SIZE, SIZE), image.shape, strict=True))
    square = np.zeros((SIZE, SIZE), np.float32)
    square[rows : rows + image.shape[0], columns : columns + image.shape[1]] = image
    coils = square * np.array([0.6, 0.8j])[:, None, None]
    names = ("position", "read_dir", "phase_dir", "slice_dir")
    directions = {name: getattr(geometry, name) for name in names}
    extents = tuple(SIZE * mm / n for mm, n in zip(geometry.field_of_view_mm, image.shape, strict=False))
    space = ((SIZE, SIZE), extents)
    readouts = blob_readouts(centred_fft(coils).astype(np.complex64), **directions)
    return write_readouts(path, spaces_xml(space, space), readouts)


def outline(image: np.ndarray) -> np.ndarray:
    """What is bright in an image, without the dark around it."""
    bright = np.abs(image) > 0.5 * np.abs(image).max()
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("along_rows", [False, True])
def test_a_letter_on_the_patient_is_upright_in_dicom_and_pictures(
    cli, tmp_path, monkeypatch, view, along_rows
):
    pydicom = pytest.importorskip("pydicom")
    drawn, write = [], montage.write_montage
    monkeypatch.setattr(
        montage, "write_montage", lambda *given, **named: (drawn.append(given[1]), write(*given, **named))
    )
    scan, expected = write_letter(tmp_path / "scan.h5", view, (along_rows, -1, 1)), outline(UPRIGHT)
    png, page = tmp_path / "o.png", tmp_path / "o.html"
    (dataset,) = dicom_of(cli, pydicom, scan, tmp_path / "o", "--png", png, "--report", page)
    np.testing.assert_array_equal(outline(dataset.pixel_array), expected)
    assert edge_letters(dataset.ImageOrientationPatient) == EDGES[view]
    for panel in drawn[0][0]:
        np.testing.assert_array_equal(outline(panel.image), expected)
    assert drawn[0][0][0].note == f"slice 0, {view}"
    assert "Slices are upright" in page.read_text()
    # On the grid of k-space it is not; the result stays there, and says so.
    on_grid = ("--keep-grid", "--png", png, "--report", page, "--force")
    done = cli("recon", scan, "-o", tmp_path / "o.h5", *QUICK, *on_grid)
    assert done.code == 0, done.err
    with open_result(tmp_path / "o.h5") as result:
        stored = outline(result.read_image(0))
        assert result.provenance.grid.startswith("of k-space: rows along the readout")
    assert stored.shape != expected.shape or (stored != expected).any()
    np.testing.assert_array_equal(outline(drawn[1][0][1].image), stored)
    assert "left and right cannot be told" in page.read_text()


def test_a_slice_with_unsound_directions_leaves_the_picture_of_the_others(cli, scan, tmp_path):
    odd = tmp_path / "odd.h5"
    shutil.copy(scan, odd)
    with h5py.File(odd, "a") as file:
        table = file["dataset/data"][:]
        heads = table["head"]
        heads["read_dir"][heads["idx"]["slice"] == 2] *= 3
        table["head"] = heads
        file["dataset/data"][:] = table
    png = tmp_path / "o.png"
    done = cli("recon", odd, "-o", tmp_path / "o.h5", "--png", png, "--slices", "0:2", *QUICK)
    assert done.code == 0, done.err
    assert png.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--identity", "half"), "unknown identity 'half': expected one of anonymous, keep"),
        (("--identity", "keep"), "--identity keep is of --format dicom and mrd, not of h5"),
        (("--scale", "2"), "--scale is of --format dicom and mrd, not of h5"),
        (("--format", "dicom", "--scale", "0"), "scale is 0: expected a number from 1e-30 to 1e+30"),
        (("--format", "dicom", "--scale", "nan"), "scale is nan"),
        (("--format", "dicom", "--salt", "nowhere.txt"), "nowhere.txt: cannot be read"),
    ],
)
def test_wishes_that_do_not_go_together_are_one_line(cli, scan, tmp_path, options, said):
    pytest.importorskip("pydicom")
    done = cli("recon", scan, "-o", tmp_path / "o.h5", *options, *QUICK)
    assert done.code == 2
    assert said in done.error_line
    assert not list(tmp_path.iterdir())


def test_a_patient_that_the_raw_data_do_not_name_cannot_be_kept(cli, scan, simulated, tmp_path):
    pytest.importorskip("pydicom")
    bare = tmp_path / "bare.h5"
    shutil.copy(scan, bare)
    with h5py.File(bare, "a") as file:
        xml = file["dataset/xml"][0].replace(b"4711", b"")
        del file["dataset/xml"]
        file["dataset/xml"] = [xml]
    keep = ("--format", "dicom", "--identity", "keep", *QUICK)
    refusals = {bare: "the header: has no patientID that DICOM", simulated: "only MRD files say whose"}
    for path, said in refusals.items():
        done = cli("recon", path, "-o", tmp_path / "o", *keep)
        assert done.code == 2
        assert said in done.error_line
    done = cli("recon", scan, scan.parent, "-o", tmp_path / "o", "--identity", "keep")
    assert "--identity is of one file" in done.error_line
