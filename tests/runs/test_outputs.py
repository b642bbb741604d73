"""Results in other formats, from the k-space file to the world."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from oblique_scan import BRIGHT, SIZE, bright_place, write_scan

from bart_tool import bart
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.cfl import CflFile
from sbim_deploy.kspace.mrd import MrdKspace
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.outputs import Output, format_by_name, result_path, write_output

FEW = ("--steps", 2, "--backend", "onnxruntime")
LPS_TO_RAS = np.array([-1, -1, 1])


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    pytest.importorskip("ismrmrd")
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture(scope="module")
def result(scan) -> Path:
    from sbim_deploy.runs.reconstruct_file import reconstruct_file
    from sbim_deploy.runs.settings import ReconSettings
    from sbim_deploy.samplers.choice import SamplerChoice

    path = scan.with_name("result.h5")
    reconstruct_file(scan, path, ReconSettings(choice=SamplerChoice("dds", 2), backend="onnxruntime"))
    return path


def brightest(image: np.ndarray) -> tuple[int, ...]:
    return tuple(int(each) for each in np.unravel_index(np.argmax(image), image.shape))


def brightest_place(dataset) -> np.ndarray:
    """Where a DICOM file's brightest pixel is, mm to the left, to the back and up."""
    row, column = brightest(dataset.pixel_array)
    along_row, down_column = np.reshape(np.array(dataset.ImageOrientationPatient, float), (2, 3))
    row_mm, column_mm = (float(each) for each in dataset.PixelSpacing)
    across = row * row_mm * down_column + column * column_mm * along_row
    return np.array(dataset.ImagePositionPatient, float) + across


def dcm2niix(folder: Path, target: Path) -> list[Path]:
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not on the PATH: apt-get install dcm2niix")
    options = ["-b", "n", "-z", "n", "-f", "s%s", "-o", str(target)]
    subprocess.run([program, *options, str(folder)], check=True, capture_output=True)
    return sorted(target.glob("*.nii"))


def test_dicom_nifti_and_mrd_put_a_scan_s_bright_pixels_in_one_place(scan, result, tmp_path):
    pydicom, nibabel = pytest.importorskip("pydicom"), pytest.importorskip("nibabel")
    ismrmrd = pytest.importorskip("ismrmrd")
    with open_source(scan) as source:
        for name, kind in (("dicom", "dicom"), ("ours.nii", "nifti"), ("out.h5", "mrd")):
            write_output(Output(tmp_path / name, kind), result, source)
    ours = nibabel.load(tmp_path / "ours.nii")
    assert ours.shape == (SIZE, SIZE, 3, 2)
    (tmp_path / "theirs").mkdir()
    theirs = [nibabel.load(path) for path in dcm2niix(tmp_path / "dicom", tmp_path / "theirs")]
    assert [each.shape for each in theirs] == [(SIZE, SIZE, 3)] * 2
    files = [pydicom.dcmread(path) for path in sorted((tmp_path / "dicom").iterdir())]
    with ismrmrd.Dataset(tmp_path / "out.h5", mode="r") as dataset:
        mrd = [dataset.read_image(f"image_{1 + n // 3}", n % 3) for n in range(6)]
    for index, (row, column) in enumerate(BRIGHT):
        expected = bright_place(index)
        for repetition in range(2):
            stored = np.asarray(ours.dataobj)[:, :, index, repetition]
            assert brightest(stored) == (row, column)
            place = (ours.affine @ (row, column, index, 1))[:3]
            np.testing.assert_allclose(place, expected * LPS_TO_RAS, atol=1e-3)
            dicom = files[3 * repetition + index]
            np.testing.assert_allclose(brightest_place(dicom), expected, atol=1e-3)
            volume = np.asarray(theirs[repetition].dataobj)
            voxels = [(*brightest(volume[:, :, each]), each) for each in range(3)]
            places = [(theirs[repetition].affine @ (*voxel, 1))[:3] * LPS_TO_RAS for voxel in voxels]
            assert min(np.linalg.norm(each - expected) for each in places) < 1e-3
            image = mrd[3 * repetition + index]
            head = image.getHead()
            y, x = brightest(image.data[0, 0])
            steps = np.array(head.field_of_view[:2]) / head.matrix_size[:2]
            place = (
                np.array(head.position)
                + (x - head.matrix_size[0] // 2) * steps[0] * np.array(head.read_dir)
                + (y - head.matrix_size[1] // 2) * steps[1] * np.array(head.phase_dir)
            )
            np.testing.assert_allclose(place, expected, atol=1e-3)
            assert (head.repetition, head.slice, head.measurement_uid) == (repetition, index, 0)
    assert files[0].SeriesDescription == "repetition 0 sbim-deploy dds, research use only"
    bright = [int(each.pixel_array.max()) for each in files]
    assert max(bright[3:]) < 0.6 * max(bright[:3])


def test_cfl_holds_the_complex_images_by_slice(scan, result, tmp_path):
    with open_source(scan) as source:
        write_output(Output(tmp_path / "out.cfl", "cfl"), result, source)
    with CflFile(tmp_path / "out.cfl") as images, open_result(result) as expected:
        assert images.n_slices == 6
        for index in range(6):
            np.testing.assert_array_equal(images.read_coils(index)[0], expected.read_image(index))


@pytest.mark.parametrize(
    ("kind", "name"), [("mrd", "o.h5"), ("dicom", "o"), (None, "o.nii"), (None, "o.cfl")]
)
def test_recon_writes_one_format_and_leaves_nothing_else(cli, scan, tmp_path, kind, name):
    for module in ("pydicom", "nibabel"):
        pytest.importorskip(module)
    out = tmp_path / "out"
    out.mkdir()
    options = () if kind is None else ("--format", kind)
    done = cli("recon", scan, "-o", out / name, *options, "--slices", "0:3", *FEW)
    assert done.code == 0, done.err
    assert f"{out / name}: 3 slices" in done.err
    expected = {"o.cfl", "o.hdr"} if name == "o.cfl" else {name}
    assert {path.name for path in out.iterdir()} == expected


@pytest.mark.parametrize("is_mrd", [False, True])
def test_the_input_is_opened_once_whatever_is_written(cli, simulated, scan, tmp_path, monkeypatch, is_mrd):
    pytest.importorskip("pydicom")
    path = scan if is_mrd else simulated
    opened, made, assembled = [], h5py.File.__init__, []
    assemble = MrdKspace._assemble

    def open_file(self, name, *arguments, **options):
        opened.append(str(name))
        made(self, name, *arguments, **options)

    monkeypatch.setattr(h5py.File, "__init__", open_file)
    monkeypatch.setattr(
        MrdKspace, "_assemble", lambda self, key: (assembled.append(key), assemble(self, key))[1]
    )
    options = ("--format", "dicom", "--slices", "0:2", "--png", tmp_path / "p.png", *FEW)
    done = cli("recon", path, "-o", tmp_path / "o", *options)
    assert done.code == 0, done.err
    # Beside readouts the picture looks for a reference.
    assert opened.count(str(path)) == (2 if is_mrd else 1)
    # Once for its image; and the scale of the scan is that of all its slices, wanted or not.
    counts = Counter(assembled)
    assert sorted(counts.values()) == ([1] * 4 + [2] * 2 if is_mrd else [])


def test_images_that_cannot_be_written_are_kept_and_resumed(cli, scan, tmp_path, monkeypatch):
    pytest.importorskip("pydicom")
    from sbim_deploy.runs import outputs

    out = tmp_path / "o"
    command = ("recon", scan, "-o", out, "--format", "dicom", "--slices", "0:1", *FEW)

    def fail(*_arguments):
        raise InputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(outputs.dicom, "write_dicom", fail)
        stopped = cli(*command)
    assert stopped.code == 2
    assert "--resume writes them without reconstructing again" in stopped.err
    assert [path.name for path in tmp_path.iterdir()] == [".o.h5"]
    resumed = cli(*command, "--resume")
    assert resumed.code == 0
    assert "resuming: 1 of 1 slice done" in resumed.err
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_files_without_a_place_are_written_and_the_user_is_told(cli, simulated, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    done = cli("recon", simulated, "-o", tmp_path / "o", "--format", "dicom", "--slices", "0:1", *FEW)
    assert done.code == 0
    assert "does not say how the patient lay" in done.err
    dataset = pydicom.dcmread(tmp_path / "o" / "S1_IM00001.dcm")
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage


def test_wishes_that_cannot_be_met_end_before_the_work(cli, scan, simulated, tmp_path):
    pytest.importorskip("pydicom")
    pytest.importorskip("nibabel")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    for options, reason in (
        (("-o", tmp_path / "o", "--format", "tiff"), "unknown format 'tiff'"),
        (("-o", tmp_path / "o", "--format", "nifti"), "must end in .nii"),
        (("-o", tmp_path / "o", "--format", "cfl"), "must end in .cfl"),
        (("-o", tmp_path / "full", "--format", "dicom"), "is no empty folder"),
        (("-o", tmp_path / "o", "--orientation", "up"), "expected one of auto, plain, turned"),
    ):
        done = cli("recon", scan, *options)
        assert done.code == 2
        assert reason in done.error_line
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_slices_that_are_no_stack_are_refused_as_nifti_before_the_work(cli, scan, tmp_path):
    pytest.importorskip("nibabel")
    odd = tmp_path / "odd.h5"
    shutil.copy(scan, odd)
    with h5py.File(odd, "a") as file:
        table = file["dataset/data"][:]
        heads = table["head"]
        heads["position"][heads["idx"]["slice"] == 2] += 3
        table["head"] = heads
        file["dataset/data"][:] = table
    done = cli("recon", odd, "-o", tmp_path / "o.nii", *FEW)
    assert done.code == 2
    assert "do not lie" in done.error_line
    assert [path.name for path in tmp_path.iterdir()] == ["odd.h5"]


def test_the_format_goes_by_the_name():
    names = ("a.h5", "a", "a.nii", "a.nii.gz", "a.cfl", "a.hdf5", "a.mrd2", "a.bin")
    formats = ["h5", "h5", "nifti", "nifti", "cfl", "h5", "mrd2", "mrd2"]
    assert [format_by_name(Path(name)) for name in names] == formats
    with pytest.raises(InputError, match=r"a.tiff: ends in .tiff, expected .h5.*, .cfl or .mrd2; say which"):
        format_by_name(Path("a.tiff"))
    assert result_path(Output(Path("b/a.h5"))) == Path("b/a.h5")
    assert result_path(Output(Path("b/a"), "dicom")) == Path("b/.a.h5")


def test_bart_s_kspace_and_maps_give_bart_s_image(cli, tmp_path):
    bart(tmp_path, "phantom", "-x", 64, "-k", "-s", 4, "kspace")
    bart(tmp_path, "ecalib", "-m", 1, "-r", 24, "kspace", "maps")
    bart(tmp_path, "pics", "-S", "kspace", "maps", "pics")
    described = cli("info", tmp_path / "kspace.cfl").out
    assert "format: BART .cfl" in described
    assert "coils: 4" in described
    for maps in ((), ("--maps", tmp_path / "maps.cfl")):
        png = tmp_path / "picture.png"
        options = ("--png", png, *maps, "--steps", 8, "--backend", "onnxruntime")
        done = cli("recon", tmp_path / "kspace.cfl", "-o", tmp_path / "out.cfl", *options, "--force")
        assert done.code == 0, done.err
        assert png.exists()
        with CflFile(tmp_path / "out.cfl") as ours, CflFile(tmp_path / "pics.cfl") as theirs:
            image, expected = np.abs(ours.read_coils(0)[0]), np.abs(theirs.read_coils(0)[0])
        # Fully sampled: what the sampler adds is small, and the scale is the data's. BART's maps end early.
        difference = (image - expected)[expected > 0]
        assert np.linalg.norm(difference) < 0.05 * np.linalg.norm(expected)


def test_maps_of_another_size_are_refused(cli, simulated, tmp_path):
    bart(tmp_path, "phantom", "-x", 32, "-S", 4, "maps")
    done = cli(
        "recon", simulated, "-o", tmp_path / "o.h5", "--maps", tmp_path / "maps.cfl", "--slices", "0:1"
    )
    assert done.code == 2
    assert "maps are (1, 4, 32, 32)" in done.error_line
