"""Whose images they are: an archive takes ours beside the scanner's, as nobody's or as the real patient's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.header import Protocol
from sbim_deploy.mrd.identity import Identity, parse_identity
from sbim_deploy.results.dicom import write_dicom
from sbim_deploy.results.dicom_identity import Pseudonym, make_pseudonym
from series_samples import DERIVATION, PROTOCOL, PSEUDONYM, stack

SECRETS = ("Doe", "Jane", "4711", "1950", "2024", "Brain", "MRSCANNER", "Hospital", "1.2.840.5")
HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<subjectInformation><patientName>Doe^Jane</patientName><patientID>4711</patientID>
<patientBirthdate>1950-02-03</patientBirthdate><patientGender>F</patientGender></subjectInformation>
<studyInformation><studyDate>2024-05-06</studyDate><studyTime>07:08:09</studyTime><studyID>ST1</studyID>
<accessionNumber>88</accessionNumber><referringPhysicianName>House^G</referringPhysicianName>
<studyDescription>Brain of Jane</studyDescription><studyInstanceUID>1.2.840.5.1</studyInstanceUID>
</studyInformation><measurementInformation><protocolName>t2_Jane</protocolName>
<sequenceName>tse_Doe</sequenceName><frameOfReferenceUID>1.2.840.5.2</frameOfReferenceUID>
</measurementInformation><acquisitionSystemInformation><institutionName>Hospital</institutionName>
<stationName>MRSCANNER</stationName></acquisitionSystemInformation></ismrmrdHeader>"""


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom")


def identity() -> Identity:
    return parse_identity(HEADER, "the header")


def scanners_own(pydicom, folder: Path) -> list[Path]:
    """Two slices of the same study as the scanner sends them, made without the package."""
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    folder.mkdir()
    paths = []
    for number in (1, 2):
        dataset = pydicom.Dataset()
        dataset.SpecificCharacterSet, dataset.SOPClassUID = "ISO_IR 100", MRImageStorage
        dataset.SOPInstanceUID, dataset.SeriesInstanceUID = f"1.2.840.5.3.{number}", "1.2.840.5.3"
        dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "1.2.840.5.1", "1.2.840.5.2"
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "4711"
        dataset.PatientBirthDate, dataset.PatientSex = "19500203", "F"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20240506", "070809", "ST1"
        dataset.AccessionNumber, dataset.ReferringPhysicianName = "88", "House^G"
        dataset.StudyDescription, dataset.SeriesDescription = "Brain of Jane", "t2_Jane"
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "MR", 5, number
        dataset.Manufacturer, dataset.StationName = "Vendor", "MRSCANNER"
        dataset.Laterality, dataset.PositionReferenceIndicator, dataset.PatientPosition = "", "", "HFS"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
        dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", 1
        dataset.RepetitionTime, dataset.EchoTime, dataset.FlipAngle = 2000, 10, 90
        dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 4
        dataset.ImagePositionPatient = [0, 0, 5 * number]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns, dataset.PixelRepresentation = 4, 4, 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelData = np.zeros((4, 4), "<u2").tobytes()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        paths.append(folder / f"{number}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def ours(folder: Path, who: Identity | Pseudonym, protocol: Protocol = PROTOCOL) -> list[Path]:
    second = stack(number=2, label="repetition 1", contrast=1)
    write_dicom(folder, [stack(), second], DERIVATION, protocol, who)
    return sorted(folder.iterdir())


def complaints(name: str, *paths: Path) -> list[str]:
    """What a program of dicom3tools calls an error; dcentvfy compares files with each other."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not on the PATH: apt-get install dicom3tools")
    runs = [paths] if name == "dcentvfy" else [(path,) for path in paths]
    said = [subprocess.run([program, *map(str, run)], capture_output=True, text=True).stderr for run in runs]
    return [line for text in said for line in text.splitlines() if "Error" in line]


@pytest.mark.parametrize("mode", ["anonymous", "keep"])
def test_an_archive_takes_ours_beside_the_scanner_s(tmp_path, pydicom, mode):
    who = identity() if mode == "keep" else make_pseudonym("ab" * 32)
    scanner, made = scanners_own(pydicom, tmp_path / "scanner"), ours(tmp_path / "ours", who)
    assert complaints("dcentvfy", *scanner, *made) == []
    assert complaints("dciodvfy", *made) == []
    theirs, mine = pydicom.dcmread(scanner[0]), pydicom.dcmread(made[0])
    shared = {"StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate"}
    assert {name for name in shared if theirs[name].value == mine[name].value} == (
        shared if mode == "keep" else set()
    )


def test_half_an_identity_is_what_archives_refuse(tmp_path, pydicom):
    scanner = scanners_own(pydicom, tmp_path / "scanner")
    (first, *_) = ours(tmp_path / "ours", make_pseudonym("ab" * 32))
    dataset = pydicom.dcmread(first)
    dataset.StudyInstanceUID = "1.2.840.5.1"
    dataset.save_as(tmp_path / "half.dcm")
    assert any("PatientID" in each for each in complaints("dcentvfy", *scanner, tmp_path / "half.dcm"))


def test_anonymous_images_have_nothing_of_the_scan_s_patient_study_and_texts(tmp_path, pydicom):
    made = ours(tmp_path / "ours", make_pseudonym("ab" * 32, "a long secret", HEADER.encode()))
    for path in made:
        stored = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in stored]
    dataset = pydicom.dcmread(made[0])
    assert (dataset.PatientName, dataset.PatientIdentityRemoved) == ("Anonymous^", "YES")
    assert dataset.PatientID.startswith("anonymous-")
    assert dataset.DeidentificationMethod
    assert dataset.LongitudinalTemporalInformationModified == "REMOVED"
    assert (dataset.StudyDate, dataset.StudyTime, dataset.StudyID) == ("", "", "")
    assert not {"StationName", "InstitutionName", "StudyDescription", "ProtocolName", "SequenceName"} & set(
        dataset.dir()
    )


def test_the_real_patient_is_named_as_the_raw_data_have_it(tmp_path, pydicom):
    dataset = pydicom.dcmread(ours(tmp_path / "ours", identity())[0])
    assert (dataset.PatientName, dataset.PatientID) == ("Doe^Jane", "4711")
    assert (dataset.PatientBirthDate, dataset.PatientSex) == ("19500203", "F")
    assert (dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber) == ("20240506", "070809", "88")
    assert (dataset.StationName, dataset.ProtocolName) == ("MRSCANNER", "t2_Jane")
    assert dataset.SeriesDescription.startswith("t2_Jane sbim-deploy dds")
    assert "PatientIdentityRemoved" not in dataset


def test_slices_and_series_of_a_run_share_a_study_and_runs_of_other_data_do_not(tmp_path, pydicom):
    runs = [ours(tmp_path / name, make_pseudonym(name * 32)) for name in ("ab", "cd")]
    datasets = [[pydicom.dcmread(path) for path in paths] for paths in runs]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        first, second = ({each[name].value for each in run} for run in datasets)
        assert len(first) == len(second) == 1
        assert first != second
    first, second = ({each.SOPInstanceUID for each in run} for run in datasets)
    assert len(first | second) == 16


def test_the_same_images_in_another_study_are_other_images(tmp_path, pydicom):
    kept, anonymous = (
        {pydicom.dcmread(path).SOPInstanceUID for path in ours(tmp_path / name, who)}
        for name, who in (("kept", identity()), ("anonymous", PSEUDONYM))
    )
    assert not kept & anonymous


def test_a_salt_joins_the_files_of_a_study_and_another_salt_does_not():
    header = HEADER.encode()
    elsewhere = header.replace(b"1.2.840.5.1", b"1.2.840.6.1")
    moved = header.replace(b"1.2.840.5.2", b"1.2.840.5.9")
    one = make_pseudonym("ab" * 32, "a long secret", header)
    assert make_pseudonym("cd" * 32, "a long secret", header) == one
    assert make_pseudonym("ab" * 32, "another secret", header).study != one.study
    assert make_pseudonym("ab" * 32, "a long secret", elsewhere).study != one.study
    other_frame = make_pseudonym("ab" * 32, "a long secret", moved)
    assert (other_frame.study == one.study, other_frame.frame == one.frame) == (True, False)


@pytest.mark.parametrize(
    ("salt", "header", "said"),
    [
        ("short", HEADER.encode(), "the salt has 5 characters: expected 8 or more"),
        ("a long secret", None, "the raw data name none"),
        ("a long secret", b'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"/>', "the raw data name none"),
    ],
)
def test_a_salt_that_can_be_guessed_or_joins_nothing_is_refused(salt, header, said):
    with pytest.raises(InputError, match=said):
        make_pseudonym("ab" * 32, salt, header)


def test_hostile_texts_give_sound_files(tmp_path, pydicom):
    long = "x" * 400_000
    texts = {"t2_Jane": f"a\\b\nc{long}", "MRSCANNER": long, "tse_Doe": "é\t\n"}
    header = HEADER
    for old, new in texts.items():
        header = header.replace(old, new)
    who = parse_identity(header, "the header")
    protocol = Protocol(
        patient_position="on the\nhead", vendor=long, model="\\", te_ms=(1e300, -5.0), tr_ms=(1e-300,)
    )
    for name, owner in (("keep", who), ("anonymous", PSEUDONYM)):
        made = ours(tmp_path / name, owner, protocol)
        assert complaints("dciodvfy", *made) == []
        dataset = pydicom.dcmread(made[0])
        assert dataset.PatientPosition == ""
        assert len(dataset.SeriesDescription) <= 64
        assert dataset.SeriesDescription.endswith("research use only")
        assert len(dataset.DerivationDescription) <= 1024
        assert dataset.DerivationDescription.endswith("research use only")
    assert pydicom.dcmread(sorted((tmp_path / "keep").iterdir())[0]).ProtocolName == "a b c" + "x" * 59
