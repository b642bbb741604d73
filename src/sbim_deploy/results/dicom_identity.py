"""Patient, study and frame of reference of DICOM files: those of an anonymous study, or the real ones.

Archives refuse a study with two patients, and a frame of reference with two studies: what identifies is all
the scanner's or all our own, never half of each.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.identity import Identity, study_uids

MIN_SALT = 8
METHOD = "only numbers, position, vendor and model of the header are kept"  # 64 characters at most

_NAMESPACE = uuid.UUID("9f0f2a52-7d0c-5f0e-9a55-0c0a4bb0a1de")


@dataclass(frozen=True)
class Pseudonym:
    """Keys that the identifiers of an anonymous study and of its frame of reference are made of."""

    study: str
    frame: str


def make_pseudonym(input_key: str, salt: str | None = None, header: bytes | None = None) -> Pseudonym:
    """Return the keys of an anonymous study; nobody comes back from them to the scanner's identifiers.

    They are made of ``input_key``, the hash of the raw data, which is as good as a salt that nobody else has.
    With a ``salt`` they are made of it and of the scanner's identifiers in the XML ``header``: files of one
    study that get the same salt come into the same anonymous one.

    Raises:
        InputError: the salt is so short that it can be guessed, or the header names no study.
    """
    if salt is None:
        return Pseudonym(input_key, input_key)
    if len(salt) < MIN_SALT:
        raise InputError(f"the salt has {len(salt)} characters: expected {MIN_SALT} or more, kept secret")
    study, frame = ("", "") if header is None else study_uids(header, "the header")
    if not study:
        raise InputError(
            "a salt joins files by their studyInstanceUID, and the raw data name none: leave --salt out"
        )
    return Pseudonym(_keyed(salt, study), _keyed(salt, f"{study} {frame or input_key}"))


def study_uid(who: Identity | Pseudonym) -> str:
    """Return the Study Instance UID."""
    return who.study_instance_uid if isinstance(who, Identity) else make_uid("study", who.study)


def describe_patient_and_study(dataset: Any, who: Identity | Pseudonym) -> None:
    """Write whose images they are into a dataset; texts that people wrote only of the real study."""
    dataset.StudyInstanceUID = study_uid(who)
    if isinstance(who, Pseudonym):
        # Archives sort by the patient's number: scans of different patients must not share an empty one.
        number = hashlib.sha256(f"patient {who.study}".encode()).hexdigest()[:12]
        dataset.PatientName, dataset.PatientID = "Anonymous^", f"anonymous-{number}"
        dataset.PatientBirthDate, dataset.PatientSex = "", ""
        dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", METHOD
        dataset.LongitudinalTemporalInformationModified = "REMOVED"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "", "", ""
        dataset.ReferringPhysicianName, dataset.AccessionNumber = "", ""
        return
    dataset.PatientName, dataset.PatientID = who.patient_name, who.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = who.birth_date, who.sex
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = who.study_date, who.study_time, who.study_id
    dataset.ReferringPhysicianName, dataset.AccessionNumber = who.referring_physician, who.accession_number
    for name, value in (
        ("StudyDescription", who.study_description),
        ("InstitutionName", who.institution),
        ("StationName", who.station),
        ("ProtocolName", who.protocol_name),
        ("SequenceName", who.sequence_name),
    ):
        if value:
            setattr(dataset, name, value)


def frame_uid(who: Identity | Pseudonym) -> str:
    """Return the Frame of Reference UID; where the real study names none, one of the study's own."""
    if isinstance(who, Pseudonym):
        return make_uid("frame", who.frame)
    return who.frame_of_reference_uid or make_uid("frame", who.study_instance_uid)


def series_name(who: Identity | Pseudonym) -> str:
    """Return what people call the series; nothing of an anonymous study."""
    return "" if isinstance(who, Pseudonym) else who.series_description or who.protocol_name


def make_uid(*parts: str) -> str:
    """Return the unique identifier that is made of these texts."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(parts)).int}"


def _keyed(salt: str, text: str) -> str:
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()
