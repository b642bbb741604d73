"""The images of a session: whose they are, how they are laid out, and in what units their pixels are."""

import json

import numpy as np
import pytest
from mrd_client import attributes, header_xml, kspace_of, pixels, readouts, run_session, serving, words

from letter_f import UPRIGHT, VIEWS, scanned
from sbim_deploy.mrd.identity import IdentityMode
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.recon.prepare import prepare_slice


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


PATIENT = (
    "<subjectInformation><patientName>Doe^Jane</patientName><patientID>4711</patientID>"
    "<patientBirthdate>1950-02-03</patientBirthdate></subjectInformation>"
    "<studyInformation><studyInstanceUID>1.2.3</studyInstanceUID></studyInformation>"
)
NAMED = header_xml().replace(
    "<subjectInformation><patientName>Doe^Jane</patientName></subjectInformation>", PATIENT
)


def run_zero_filled(server, xml=None, identity="default", lines=None):
    text = json.dumps({"parameters": {"config": "zero-filled", "identity": identity}})
    return run_session(server, lines or readouts(kspace_of(0)), "default", text, xml)


def test_images_name_the_patient_only_where_the_server_was_started_so(server):
    (image,) = run_zero_filled(server, NAMED)
    assert "Doe" not in image.attributes
    assert "PatientID" not in attributes(image)
    (refused,) = words(run_zero_filled(server, NAMED, "keep"))
    assert "only who starts the server can keep identities (--identity keep)" in refused
    with serving(identity=IdentityMode.KEEP) as keeping:
        meta = attributes(run_zero_filled(keeping, NAMED)[0])
        assert (meta["PatientName"], meta["PatientID"], meta["StudyInstanceUID"]) == (
            "Doe^Jane",
            "4711",
            "1.2.3",
        )
        assert any("the header has no patientGender," in each for each in meta["ImageProcessingHistory"])
        (image,) = run_zero_filled(keeping, NAMED, "anonymous")
        assert "Doe" not in image.attributes


def test_a_header_without_a_whole_patient_gives_anonymous_images_that_say_so(caplog):
    with serving(identity=IdentityMode.KEEP) as keeping:
        (image,) = run_zero_filled(keeping)  # a name, but no number and no study
    assert "Doe" not in image.attributes
    history = " ".join(attributes(image)["ImageProcessingHistory"])
    assert "anonymous: the header: has no patientID, studyInstanceUID" in history
    (logged,) = [record.fields for record in caplog.records if record.getMessage() == "anonymous"]
    assert "patientID" in logged["reason"]
    assert "Doe" not in str([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("keep_grid", [False, True])
def test_a_letter_on_the_patient_is_upright_in_the_stream_unless_the_grid_is_kept(keep_grid):
    image, geometry = scanned("coronal", (True, -1, 1))
    size = 48
    rows, columns = (size // 2 - n // 2 for n in image.shape)
    square = np.zeros((size, size), np.float32)
    square[rows : rows + image.shape[0], columns : columns + image.shape[1]] = image
    coils = square * np.array([0.6, 0.8j])[:, None, None]
    lines = readouts(centred_fft(coils).astype(np.complex64))
    for each in lines:
        for name in ("position", "read_dir", "phase_dir", "slice_dir"):
            each.header[name] = getattr(geometry, name)
    with serving(keep_grid=keep_grid) as running:
        (sent,) = run_zero_filled(running, lines=lines)
    shown = sent.data[0, 0] > 0.5 * sent.data.max()
    shown = shown[shown.any(axis=1)][:, shown.any(axis=0)]
    letter = UPRIGHT[UPRIGHT.any(axis=1)][:, UPRIGHT.any(axis=0)] > 0
    assert np.array_equal(shown, letter) != keep_grid
    along_row, down_column = VIEWS["coronal"]
    expected = (geometry.read_dir, geometry.phase_dir) if keep_grid else (along_row, down_column)
    np.testing.assert_array_equal([sent.header["read_dir"], sent.header["phase_dir"]], expected)
    assert attributes(sent)["ImageRowDir"][0] == f"{expected[0][0]:.18f}"


def test_pixels_times_the_slope_are_the_magnitudes(server):
    (image,) = run_zero_filled(server)
    slope = float(attributes(image)["RealWorldValueSlope"])
    expected = np.abs(prepare_slice(kspace_of(0)).mvue)
    np.testing.assert_allclose(pixels(image) * slope, expected, atol=0.51 * slope + 1e-5 * expected.max())
