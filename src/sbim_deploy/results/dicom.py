"""Series out as DICOM: a folder of classic single-frame images, for viewers and archives."""

from __future__ import annotations

import hashlib
import importlib
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.io.atomic import check_folder_place, check_free_space, check_new_folder, replacing_folder
from sbim_deploy.io.overwriting import FOLDER, check_name
from sbim_deploy.mrd.header import Protocol
from sbim_deploy.mrd.images import scale_to_int16, series_scale
from sbim_deploy.records import RESEARCH_USE, SliceGeometry, Vector
from sbim_deploy.results.geometry import known_geometries, slice_affine, slice_spacing
from sbim_deploy.results.series import Derivation, ImageSeries, brightest, derivation_steps

BITS = 15  # of unsigned pixels: a reader that takes them for signed ones shows the same image
HEADER_BYTES = 8192  # what a file takes beyond its pixels, at most
PROGRAM = "sbim-deploy"

_NAMESPACE = uuid.UUID("9f0f2a52-7d0c-5f0e-9a55-0c0a4bb0a1de")
_MAX_SIZE = 2**16 - 1
_SHORT, _LONG = 64, 1024  # characters of a description and of a text
_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:Z|[+-]\d\d:\d\d)?")
_TIME = re.compile(r"(\d\d):?(\d\d):?(\d\d)(\.\d{1,6})?\d*(?:Z|[+-]\d\d:\d\d)?")
_IMAGE_NAME = re.compile(r"S\d+_IM\d{5,}\.dcm")
_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
_MAX_UID = 64


def check_dicom(path: Path, force: bool = False) -> Any:
    """Check that a DICOM folder can be written at ``path``, before long work, and return pydicom.

    With ``force`` it may hold files: those that this program wrote are replaced, and all others kept.

    Raises:
        BackendMissingError: pydicom is not installed.
        InputError: something other than an empty folder is there, or the folder cannot be written.
    """
    check_name(path, FOLDER)
    if not force or not path.is_dir():
        check_new_folder(path)
    check_folder_place(path)
    if others := [each for each in _images_in(path) if each.name not in _own_images(path)]:
        raise InputError(f"{others[0]}: is another program's, and would be replaced; name another folder")
    try:
        return importlib.import_module("pydicom")
    except ImportError as error:
        raise BackendMissingError(
            'DICOM output needs pydicom, which is not installed; run: pip install "sbim-deploy[dicom]"'
        ) from error


def write_dicom(
    path: Path,
    series: Sequence[ImageSeries],
    derivation: Derivation,
    protocol: Protocol,
    voxel_mm: Vector | None = None,
    force: bool = False,
) -> None:
    """Write series into a new folder, S1_IM00001.dcm and on, which appears whole or not at all.

    One factor, which the Derivation Description tells, takes all magnitudes to whole numbers up to 32767. The
    same images of the same run give the same files, unique identifiers included.

    Args:
        path: the folder, which is not there yet or is empty.
        series: the images; within a series all slices have a geometry or none has.
        derivation: how the images came about.
        protocol: what the scan's header says of study, system and sequence.
        voxel_mm: (row, column, slice) size of a voxel, used where there is no geometry.
        force: whether images that this program wrote into the folder are replaced.

    Raises:
        BackendMissingError, InputError: see :func:`check_dicom`; or a geometry is not as it must be.
    """
    pydicom = check_dicom(path, force)
    scale = series_scale(brightest(series), BITS)
    n_images = sum(len(each.volume) for each in series)
    check_free_space(path.parent, sum(each.volume.size for each in series) * 2 + n_images * HEADER_BYTES)
    with replacing_folder(path, _own_images(path)) as folder:
        for each in series:
            for dataset in _datasets(pydicom, each, derivation, protocol, voxel_mm, scale):
                _save(pydicom, dataset, folder / f"S{each.number}_IM{dataset.InstanceNumber:05d}.dcm")


def _images_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are called as those that are written here."""
    return [path for path in folder.glob("S*_IM*.dcm") if _IMAGE_NAME.fullmatch(path.name)]


def _own_images(folder: Path) -> list[str]:
    """Return the names of the images in a folder that this program wrote, as their first bytes tell."""
    own = []
    for path in _images_in(folder):
        with path.open("rb") as file:
            if PROGRAM.encode() in file.read(HEADER_BYTES):
                own.append(path.name)
    return own


def _datasets(
    pydicom: Any,
    series: ImageSeries,
    derivation: Derivation,
    protocol: Protocol,
    voxel_mm: Vector | None,
    scale: float,
) -> Iterator[Any]:
    """Yield the images of a series, one at a time."""
    known = known_geometries(series.geometries)
    if max(series.volume.shape) > _MAX_SIZE:
        raise InputError(f"the volume is {series.volume.shape}, expected at most {_MAX_SIZE} in each axis")
    pixels = scale_to_int16(series.volume, scale, BITS).astype("<u2")
    shared = pydicom.Dataset()
    _describe_study(shared, protocol, derivation)
    _describe_series(shared, series, protocol, derivation, scale)
    _describe_pixels(shared, pixels)
    content = hashlib.sha256(pixels.tobytes() + repr((known, voxel_mm, series.number)).encode()).hexdigest()
    shared.SeriesInstanceUID = _uid("series", derivation.run_key, content)
    if known:
        _describe_mr(shared, protocol, series.contrast, derivation)
        spacing = slice_spacing(known, series.volume.shape[1:])
        if spacing is not None:
            shared.SpacingBetweenSlices = _decimal(spacing)
    else:
        _describe_capture(shared, voxel_mm)
    for index, image in enumerate(pixels):
        dataset = pydicom.Dataset(shared)
        if known:
            _place(dataset, known[index], series.volume.shape[1:])
        dataset.InstanceNumber = index + 1
        doubts = f"{series.doubts[index]}; " if series.doubts[index] else ""
        comment = f"{doubts}residual {series.residuals[index]:.4f}; {RESEARCH_USE}"
        dataset.ImageComments = as_text(comment, _LONG)
        dataset.SOPInstanceUID = _uid("image", shared.SeriesInstanceUID, str(index))
        dataset.PixelData = image.tobytes()
        yield dataset


def _describe_study(dataset: Any, protocol: Protocol, derivation: Derivation) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    uid = as_uid(protocol.study_instance_uid) or _uid("study", derivation.input_key)
    dataset.StudyInstanceUID = uid
    # Archives sort by the patient's number: scans of different patients must not share an empty one.
    dataset.PatientName = "Anonymous^"
    dataset.PatientID = f"anonymous-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyDate, dataset.StudyTime = as_date(protocol.study_date), as_time(protocol.study_time)
    dataset.StudyID = as_text(protocol.study_id, 16)
    dataset.StudyDescription = as_text(protocol.study_description, _SHORT)
    dataset.ReferringPhysicianName, dataset.AccessionNumber = "", ""


def _describe_series(
    dataset: Any, series: ImageSeries, protocol: Protocol, derivation: Derivation, scale: float
) -> None:
    from pydicom.sr.codedict import codes

    made_by = f"{PROGRAM} {derivation.method}, {RESEARCH_USE}"
    name = f"{series.label} {protocol.series_description or protocol.protocol_name or ''}"
    name = as_text(name, _SHORT - 1 - len(made_by))
    dataset.Modality = "MR"
    dataset.SeriesNumber = series.number
    dataset.SeriesDescription = f"{name} {made_by}".strip()
    dataset.Laterality = ""
    dataset.ProtocolName = as_text(protocol.protocol_name, _SHORT)
    dataset.Manufacturer, dataset.ManufacturerModelName = (
        PROGRAM,
        (derivation.model_name or derivation.method)[:_SHORT],
    )
    dataset.SoftwareVersions = derivation.software_version
    dataset.InstitutionName = as_text(protocol.institution, _SHORT)
    dataset.StationName = as_text(protocol.station, 16)
    dataset.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    scanner = [f"acquired on {protocol.vendor} {protocol.model or ''}"] if protocol.vendor else []
    steps = [*scanner, *derivation_steps(derivation), f"pixel = {scale:.8g} x magnitude", RESEARCH_USE]
    dataset.DerivationDescription = as_text("; ".join(steps), _LONG)
    dataset.DerivationCodeSequence = [_code(codes.DCM.IterativeReconstruction)]
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.ContributingEquipmentSequence = [_program(derivation)]


def _program(derivation: Derivation) -> Any:
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    # The scanner has no item of its own: converters take any Manufacturer in a file for the file's.
    program = Dataset()
    program.PurposeOfReferenceCodeSequence = [_code(codes.DCM.ProcessingEquipment)]
    program.Manufacturer, program.ManufacturerModelName = PROGRAM, derivation.model_name[:_SHORT]
    program.SoftwareVersions = derivation.software_version
    program.ContributionDescription = as_text("; ".join(derivation_steps(derivation)), _LONG)
    return program


def _describe_pixels(dataset: Any, pixels: NDArray[np.uint16]) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    # A few bright pixels must not darken the picture.
    brightest = max(float(np.percentile(pixels, 99.8)), 1.0)
    dataset.WindowCenter, dataset.WindowWidth = _decimal(brightest / 2), _decimal(brightest)


def _describe_mr(dataset: Any, protocol: Protocol, contrast: int, derivation: Derivation) -> None:
    from pydicom.uid import MRImageStorage

    dataset.SOPClassUID = MRImageStorage
    uid = as_uid(protocol.frame_of_reference_uid)
    dataset.FrameOfReferenceUID = uid or _uid("frame", derivation.input_key)
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = as_text(protocol.patient_position, 16).upper()
    # Research mode, no variant: the header's name for the sequence is not one of DICOM's terms.
    dataset.ScanningSequence = ["RM", "IR"] if protocol.ti_ms else "RM"
    dataset.SequenceVariant, dataset.ScanOptions = "NONE", ""
    dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", None
    dataset.InPlanePhaseEncodingDirection = "ROW"
    dataset.SequenceName = as_text(protocol.sequence_name, 16)
    dataset.RepetitionTime = _of_contrast(protocol.tr_ms, contrast)
    dataset.EchoTime = _of_contrast(protocol.te_ms, contrast)
    if protocol.ti_ms:
        dataset.InversionTime = _of_contrast(protocol.ti_ms, contrast)
    dataset.FlipAngle = _of_contrast(protocol.flip_angle_deg, contrast)
    if protocol.field_strength_t:
        dataset.MagneticFieldStrength = _decimal(protocol.field_strength_t)
    if protocol.resonance_frequency_hz:
        dataset.ImagingFrequency = _decimal(protocol.resonance_frequency_hz / 1e6)


def _of_contrast(values: Sequence[float], contrast: int) -> Any:
    """Return a contrast's value: headers list one for each, or one for all."""
    if not values:
        return None
    return _decimal(values[contrast] if contrast < len(values) else values[0])


def _describe_capture(dataset: Any, voxel_mm: Vector | None) -> None:
    from pydicom.uid import SecondaryCaptureImageStorage

    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.ConversionType = "WSD"
    dataset.PatientOrientation = ""
    if voxel_mm is not None:
        dataset.PixelSpacing = [_decimal(size) for size in voxel_mm[:2]]


def _place(dataset: Any, geometry: SliceGeometry, shape: tuple[int, int]) -> None:
    affine = slice_affine(geometry, shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    dataset.PixelSpacing = [_decimal(size) for size in spacing[:2]]
    dataset.SliceThickness = _decimal(spacing[2])
    dataset.ImagePositionPatient = [_decimal(value) for value in affine[:3, 3]]
    along_row, down_column = affine[:3, 1] / spacing[1], affine[:3, 0] / spacing[0]
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*along_row, *down_column)]


def _save(pydicom: Any, dataset: Any, path: Path) -> None:
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def _uid(*parts: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(parts)).int}"


def _code(concept: Any) -> Any:
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = concept.value, concept.scheme_designator
    code.CodeMeaning = concept.meaning
    return code


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)


def as_text(text: str | None, length: int) -> str:
    """Return one line of at most ``length`` characters without DICOM's separator, the backslash."""
    printable = "".join(each if each.isprintable() and each != "\\" else " " for each in text or "")
    return " ".join(printable.split())[: max(length, 0)].strip()


def as_date(text: str | None) -> str:
    """Return YYYYMMDD of an XML date."""
    found = _DATE.fullmatch(text or "")
    return "".join(found.groups()) if found else ""


def as_time(text: str | None) -> str:
    """Return HHMMSS.FFFFFF of an XML time."""
    found = _TIME.fullmatch(text or "")
    return "".join(part or "" for part in found.groups()) if found else ""


def as_uid(text: str | None) -> str:
    """Return a unique identifier that is one."""
    return text if text and len(text) <= _MAX_UID and _UID.fullmatch(text) else ""
