"""Who was scanned, and in which study: read from the XML header only where identities are kept.

Nothing else of the package reads these elements, so that what is not asked for cannot leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from sbim_deploy.errors import InputError
from sbim_deploy.io.dicom_values import (
    LONG,
    SHORT,
    as_date,
    as_name,
    as_same_text,
    as_sex,
    as_text,
    as_time,
    as_uid,
)
from sbim_deploy.mrd import xml


class IdentityMode(StrEnum):
    """Whose images leave: of an anonymous patient in a study of its own, or of the real ones."""

    ANONYMOUS = "anonymous"
    KEEP = "keep"


@dataclass(frozen=True)
class Identity:
    """The patient and the study of a scan, in DICOM's values; empty where the header does not say.

    The name, the number and the study are always there. ``lacking`` lists the elements of the header that
    are empty, or no such value.
    """

    patient_name: str
    patient_id: str
    study_instance_uid: str
    birth_date: str = ""
    sex: str = ""
    frame_of_reference_uid: str = ""
    study_date: str = ""
    study_time: str = ""
    study_id: str = ""
    study_description: str = ""
    accession_number: str = ""
    referring_physician: str = ""
    institution: str = ""
    station: str = ""
    protocol_name: str = ""
    series_description: str = ""
    sequence_name: str = ""
    lacking: tuple[str, ...] = ()

    def attributes(self) -> dict[str, str]:
        """Return patient and study by DICOM's keywords, for the attributes of MRD images."""
        named = {
            "PatientName": self.patient_name,
            "PatientID": self.patient_id,
            "PatientBirthDate": self.birth_date,
            "PatientSex": self.sex,
            "StudyInstanceUID": self.study_instance_uid,
            "FrameOfReferenceUID": self.frame_of_reference_uid,
        }
        return {name: value for name, value in named.items() if value}


Convert = Callable[[str | None], str]
_SUBJECT, _STUDY = "subjectInformation", "studyInformation"
_MEASUREMENT, _SYSTEM = "measurementInformation", "acquisitionSystemInformation"
_REQUIRED: dict[str, tuple[str, str, Convert]] = {
    "patient_name": (_SUBJECT, "patientName", as_name),
    "patient_id": (_SUBJECT, "patientID", partial(as_same_text, length=LONG)),
    "study_instance_uid": (_STUDY, "studyInstanceUID", as_uid),
}
# What archives compare between the images of a patient, of a study and of a frame of reference.
_COMPARED: dict[str, tuple[str, str, Convert]] = {
    "birth_date": (_SUBJECT, "patientBirthdate", as_date),
    "sex": (_SUBJECT, "patientGender", as_sex),
    "frame_of_reference_uid": (_MEASUREMENT, "frameOfReferenceUID", as_uid),
    "study_date": (_STUDY, "studyDate", as_date),
    "study_time": (_STUDY, "studyTime", as_time),
    "study_id": (_STUDY, "studyID", partial(as_same_text, length=SHORT)),
    "study_description": (_STUDY, "studyDescription", partial(as_same_text, length=LONG)),
    "accession_number": (_STUDY, "accessionNumber", partial(as_same_text, length=SHORT)),
    "referring_physician": (_STUDY, "referringPhysicianName", as_name),
}
_DESCRIBING: dict[str, tuple[str, str, Convert]] = {
    "institution": (_SYSTEM, "institutionName", partial(as_text, length=LONG)),
    "station": (_SYSTEM, "stationName", partial(as_text, length=SHORT)),
    "protocol_name": (_MEASUREMENT, "protocolName", partial(as_text, length=LONG)),
    "series_description": (_MEASUREMENT, "seriesDescription", partial(as_text, length=LONG)),
    "sequence_name": (_MEASUREMENT, "sequenceName", partial(as_text, length=SHORT)),
}


def parse_identity(text: bytes | str, where: str) -> Identity:
    """Read the patient and the study of a header; ``where`` names it in error messages.

    Raises:
        InputError: it is no plain XML; or the patient's name or number or the study's identifier is not
            there, or cannot be written in DICOM as it stands: half an identity is none.
    """
    encoded = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    root = xml.parse_root(encoded.rstrip(b"\0"), where)
    values, lacking = {}, []
    for field, (group, name, convert) in (_REQUIRED | _COMPARED | _DESCRIBING).items():
        values[field] = convert(xml.text(root, group, name))
        if not values[field] and field not in _DESCRIBING:
            lacking.append(name)
    missing = [name for _, name, _ in _REQUIRED.values() if name in lacking]
    if missing:
        raise InputError(
            f"{where}: has no {', '.join(missing)} that DICOM can take as it stands: the patient and the "
            "study cannot be kept (--identity anonymous leaves both out)"
        )
    return Identity(**values, lacking=tuple(lacking))


def study_uids(text: bytes, where: str) -> tuple[str, str]:
    """Return the identifiers of a header's study and frame of reference, each empty where there is none.

    Raises:
        InputError: it is no plain XML.
    """
    root = xml.parse_root(text.rstrip(b"\0"), where)
    study = as_uid(xml.text(root, _STUDY, "studyInstanceUID"))
    return study, as_uid(xml.text(root, _MEASUREMENT, "frameOfReferenceUID"))
