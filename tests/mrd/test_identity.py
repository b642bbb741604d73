"""The patient and the study of a header: whole, or refused with what is missing."""

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.documents import find_named
from sbim_deploy.mrd.identity import IdentityMode, parse_identity, study_uids

ELEMENTS = {
    "subjectInformation": {
        "patientName": "Doe^Jane",
        "patientID": "4711",
        "patientBirthdate": "1950-02-03",
        "patientGender": "F",
    },
    "studyInformation": {
        "studyDate": "2024-05-06",
        "studyTime": "07:08:09.5",
        "studyID": "7",
        "accessionNumber": "88",
        "referringPhysicianName": "House^G",
        "studyDescription": "Brain",
        "studyInstanceUID": "1.2.3",
    },
    "measurementInformation": {"protocolName": "t2", "frameOfReferenceUID": "1.2.4"},
    "acquisitionSystemInformation": {"institutionName": "Hospital", "stationName": "MR1"},
}


def header(**replaced: str | None) -> str:
    """The XML of a scan; None leaves an element out."""
    groups = "".join(
        f"<{group}>"
        + "".join(
            f"<{name}>{replaced.get(name, value)}</{name}>"
            for name, value in elements.items()
            if replaced.get(name, value) is not None
        )
        + f"</{group}>"
        for group, elements in ELEMENTS.items()
    )
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{groups}</ismrmrdHeader>'


def test_a_whole_identity_is_read_in_dicom_s_values():
    identity = parse_identity(header(), "h")
    assert (identity.patient_name, identity.patient_id, identity.sex) == ("Doe^Jane", "4711", "F")
    assert (identity.birth_date, identity.study_date) == ("19500203", "20240506")
    assert (identity.study_time, identity.accession_number) == ("070809.5", "88")
    assert (identity.study_instance_uid, identity.frame_of_reference_uid) == ("1.2.3", "1.2.4")
    assert (identity.institution, identity.station) == ("Hospital", "MR1")
    assert identity.lacking == ()
    assert identity.attributes()["PatientBirthDate"] == "19500203"


@pytest.mark.parametrize("name", ["patientName", "patientID", "studyInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "a\nb", "back\\slash", "x" * 1_000_000, "1.2\x85x"])
def test_without_a_sound_name_number_and_study_nothing_is_kept(name, value):
    with pytest.raises(
        InputError, match=rf"has no {name} that DICOM can take.*--identity anonymous"
    ) as refused:
        parse_identity(header(**{name: value}), "h")
    assert len(str(refused.value)) < 300


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(InputError, match="has no patientName, patientID, studyInstanceUID"):
        parse_identity('<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"/>', "h")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patientBirthdate", "1950-02-30"),
        ("patientBirthdate", None),
        ("patientGender", "female"),
        ("studyDate", "yesterday"),
        ("studyTime", "25:00:00"),
        ("accessionNumber", "9" * 17),
        ("studyDescription", "d" * 65),
        ("frameOfReferenceUID", "1.02"),
        ("referringPhysicianName", "a^b^c^d^e^f"),
    ],
)
def test_what_else_is_missing_or_unsound_is_left_empty_and_named(name, value):
    identity = parse_identity(header(**{name: value}), "h")
    assert identity.lacking == (name,)


def test_the_identifiers_alone_can_be_read():
    assert study_uids(header().encode(), "h") == ("1.2.3", "1.2.4")
    assert study_uids(header(studyInstanceUID="x", frameOfReferenceUID=None).encode(), "h") == ("", "")


def test_modes_have_names():
    assert find_named(IdentityMode, "keep", "identity") is IdentityMode.KEEP
    with pytest.raises(InputError, match="unknown identity 'half': expected one of anonymous, keep"):
        find_named(IdentityMode, "half", "identity")
