"""A file of Siemens' raw data goes through recon, info and a study, and its images lie in the patient."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from blob_scans import BLOBS, distance
from sbim_deploy.errors import install_command
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from twix_samples import MM, Scan, image_lines, noise_lines, protocol_values, write_twix

pytest.importorskip("twixtools", reason="twixtools is not installed: no Siemens raw data are read")

N = 32
VOXEL = (MM / N, MM / N)
OBLIQUE = (0.8, 0.2, -0.4, 0.4)
# The columns of its rotation, by the formula of quaternions: phase encoding, readout and slice.
PHASE, READ, NORMAL = np.array([[0.36, 0.48, 0.8], [-0.8, 0.6, 0.0], [-0.48, -0.64, 0.6]])
POSITIONS = [np.array([12.0, -25.0, 40.0]) + 8 * place * NORMAL for place in range(3)]
MEASURED = (1, 0, 2)
ZERO_FILLED = ("--method", "zero-filled")


@pytest.fixture
def scan(tmp_path):
    """Noise, and three oblique slices that were measured interleaved."""
    lines = [
        line
        for counter, place in enumerate(MEASURED)
        for line in image_lines(counter, shape=(N, N), position=tuple(POSITIONS[place]), quaternion=OBLIQUE)
    ]
    protocol = protocol_values(POSITIONS, NORMAL, base=N, lines=N)
    noise = Scan(noise_lines(8), {"tProtocolName": '"AdjCoilSens"'}, name="AdjCoilSens")
    return write_twix(tmp_path / "scan.dat", noise, Scan(lines, protocol))


def test_recon_info_and_the_python_api_read_it(cli, scan, tmp_path):
    out, picture = tmp_path / "out.h5", tmp_path / "out.png"
    done = cli("recon", scan, "-o", out, "--png", picture, "--steps", 3, "--threads", 1)
    assert done.code == 0, done.err
    assert picture.stat().st_size > 1000
    assert "k-space is conjugated, as raw data of 'SIEMENS' need it" in done.err
    assert "measurement 2 of 2 ('gre') is read" in done.err
    assert "noise lines are those of measurement 1 of 2 ('AdjCoilSens')" in done.err
    measured = json.loads(cli("info", out, "--json").out)["measured"]["scan"]
    told = json.loads(cli("info", scan, "--json").out)
    for found in (measured, told):
        assert found["format"] == "Siemens twix (VD or later)"
        assert found["noise_lines_of"] == "measurement 1 of 2 ('AdjCoilSens')"
        assert found["slices_as_measured"] == list(MEASURED)
        assert found["whitened"]
        assert len(found["assumed"]) == 3
    with open_result(out) as result:
        assert result.n_slices == len(POSITIONS)
        assert all(distance(result.read_image(index), VOXEL) < 0.3 for index in range(3))
    again = tmp_path / "api.h5"
    reconstruct_file(scan, again, ReconSettings(method=Classical.ZERO_FILLED))
    with open_result(again) as result:
        assert distance(result.read_image(1), VOXEL) < 0.3


def test_images_lie_where_the_object_is_in_the_patient(cli, scan, tmp_path):
    nibabel, pydicom = pytest.importorskip("nibabel"), pytest.importorskip("pydicom")
    truth = [position + BLOBS[0][1] * READ + BLOBS[0][2] * PHASE for position in POSITIONS]
    assert cli("recon", scan, "-o", tmp_path / "out.nii", *ZERO_FILLED).code == 0
    image = nibabel.load(tmp_path / "out.nii")
    for index, place in enumerate(truth):
        brightest = np.unravel_index(np.argmax(image.get_fdata()[..., index]), image.shape[:2])
        found = (image.affine @ [*brightest, index, 1])[:3] * (-1, -1, 1)
        assert np.linalg.norm(found - place) < np.linalg.norm(VOXEL)
    assert cli("recon", scan, "-o", tmp_path / "out", "--format", "dicom", *ZERO_FILLED).code == 0
    stored = sorted(map(pydicom.dcmread, (tmp_path / "out").iterdir()), key=lambda each: each.InstanceNumber)
    for each, place in zip(stored, truth, strict=True):
        row, column = np.unravel_index(np.argmax(each.pixel_array), each.pixel_array.shape)
        along_row, along_column = np.reshape(np.array(each.ImageOrientationPatient, float), (2, 3))
        found = np.array(each.ImagePositionPatient, float)
        found = found + column * each.PixelSpacing[1] * along_row + row * each.PixelSpacing[0] * along_column
        assert np.linalg.norm(found - place) < np.linalg.norm(VOXEL)
        assert (each.PatientPosition, float(each.EchoTime)) == ("HFS", 4.0)
        assert "Nobody" not in str(each)


@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason='a study needs "sbim-deploy[cluster]"'
)
def test_several_files_of_raw_data_are_a_study(cli, scan, tmp_path):
    cut, out = tmp_path / "cut.dat", tmp_path / "out"
    cut.write_bytes(scan.read_bytes()[:-3000])
    arguments = ("--steps", 1, "--backend", "onnxruntime", "--workers", 1)
    done = cli("recon", scan, cut, "-o", out, *arguments)
    assert done.code == 2
    assert "1 of 2 files failed" in done.error_line
    assert "cut.dat: measurement 2 of 2 ('gre') is listed from byte" in done.out
    with open_result(out / "scan.h5") as result:
        assert result.n_slices == len(POSITIONS)


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"sFastImaging.lEPIFactor": 64}, "is EPI"),
        ({"sKSpace.ucTrajectory": "0x4"}, "is spiral"),
        ({"sKSpace.lBaseResolution": None}, "lBaseResolution missing"),
    ],
)
@pytest.mark.parametrize("command", ["recon", "info"])
def test_what_is_not_read_is_one_line_and_exit_2(cli, tmp_path, command, protocol, words):
    path = write_twix(tmp_path / "scan.dat", Scan(image_lines(), protocol))
    done = cli(command, path, *(["-o", tmp_path / "out.h5"] if command == "recon" else []))
    assert done.code == 2
    assert f"{path}: measurement 1 of 1 ('gre'): " in done.error_line
    assert words in done.error_line


@pytest.mark.parametrize("command", ["recon", "info"])
def test_without_twixtools_the_line_names_the_extra(cli, scan, tmp_path, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "twixtools", None)
    done = cli(command, scan, *(["-o", tmp_path / "out.h5"] if command == "recon" else []))
    assert done.code != 0
    assert install_command("twix") in done.error_line
