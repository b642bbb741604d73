"""Series out as DICOM: a folder of classic single-frame images, for viewers and archives."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.io.atomic import check_folder_place, check_free_space, check_new_folder, replacing_folder
from sbim_deploy.io.dicom_values import LONG, as_text
from sbim_deploy.io.overwriting import FOLDER, check_name
from sbim_deploy.mrd.header import Protocol
from sbim_deploy.mrd.identity import Identity
from sbim_deploy.mrd.images import scale_to_int16, series_scale
from sbim_deploy.mri.views import ON_GRID, upright_view
from sbim_deploy.records import RESEARCH_USE, SliceGeometry, Vector
from sbim_deploy.results.dicom_identity import (
    Pseudonym,
    describe_patient_and_study,
    frame_uid,
    make_uid,
    series_name,
    study_uid,
)
from sbim_deploy.results.geometry import known_geometries, slice_affine, slice_spacing
from sbim_deploy.results.intensity import Intensity, series_intensity
from sbim_deploy.results.series import Derivation, ImageSeries, derivation_steps

BITS = 15  # of unsigned pixels: a reader that takes them for signed ones shows the same image
HEADER_BYTES = 8192  # what a file takes beyond its pixels, at most
PROGRAM = "sbim-deploy"

_MAX_SIZE = 2**16 - 1
_TEXT = 1024  # characters of ST and LT
_POSITIONS = ("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL", "LFP", "LFS", "RFP", "RFS")
_IMAGE_NAME = re.compile(r"S\d+_IM\d{5,}\.dcm")


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
            f"DICOM output needs pydicom, which is not installed; run: {install_command('dicom')}"
        ) from error


def write_dicom(
    path: Path,
    series: Sequence[ImageSeries],
    derivation: Derivation,
    protocol: Protocol,
    who: Identity | Pseudonym,
    voxel_mm: Vector | None = None,
    intensity: Intensity | None = None,
    keep_grid: bool = False,
    force: bool = False,
) -> None:
    """Write series into a new folder, S1_IM00001.dcm and on, which appears whole or not at all.

    One factor, which the Real World Value Mapping tells, takes all magnitudes to whole numbers up to 32767.
    The same images of the same run give the same files, unique identifiers included.

    Args:
        path: the folder, which is not there yet or is empty.
        series: the images; within a series all slices have a geometry or none has.
        derivation: how the images came about.
        protocol: what the scan's header says of system and sequence.
        who: whose images they are.
        voxel_mm: (row, column, slice) size of a voxel, used where there is no geometry.
        intensity: the magnitudes of the greatest pixel and of white; None is those of the series.
        keep_grid: lay the pixels out as k-space lies, not in the nearest standard view.
        force: whether images that this program wrote into the folder are replaced.

    Raises:
        BackendMissingError, InputError: see :func:`check_dicom`; or a geometry is not as it must be.
    """
    pydicom = check_dicom(path, force)
    run = _Run(derivation, protocol, who, voxel_mm, intensity or series_intensity(series), keep_grid)
    n_images = sum(len(each.volume) for each in series)
    check_free_space(path.parent, sum(each.volume.size for each in series) * 2 + n_images * HEADER_BYTES)
    with replacing_folder(path, _own_images(path)) as folder:
        for each in series:
            for dataset in _datasets(pydicom, each, run):
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


@dataclass(frozen=True)
class _Run:
    """What the images of all series share."""

    derivation: Derivation
    protocol: Protocol
    who: Identity | Pseudonym
    voxel_mm: Vector | None
    intensity: Intensity
    keep_grid: bool

    @property
    def scale(self) -> float:
        """The factor from magnitudes to pixels."""
        return series_scale(self.intensity.full_scale, BITS)


def _datasets(pydicom: Any, series: ImageSeries, run: _Run) -> Iterator[Any]:
    """Yield the images of a series, one at a time."""
    known = known_geometries(series.geometries)
    if max(series.volume.shape) > _MAX_SIZE:
        raise InputError(f"the volume is {series.volume.shape}, expected at most {_MAX_SIZE} in each axis")
    pixels = scale_to_int16(series.volume, run.scale, BITS).astype("<u2")
    shape = (pixels.shape[1], pixels.shape[2])
    shared = pydicom.Dataset()
    shared.SpecificCharacterSet = "ISO_IR 192"
    describe_patient_and_study(shared, run.who)
    _describe_series(shared, series, run)
    _describe_pixels(shared, run)
    # The same images in another study, or laid out otherwise, are others.
    content = hashlib.sha256(
        pixels.tobytes() + repr((known, run.voxel_mm, series.number, run.keep_grid, run.scale)).encode()
    )
    shared.SeriesInstanceUID = make_uid(
        "series", study_uid(run.who), run.derivation.run_key, content.hexdigest()
    )
    if known:
        _describe_mr(shared, run, series.contrast)
        spacing = slice_spacing(known, shape)
        if spacing is not None:
            shared.SpacingBetweenSlices = _decimal(spacing)
    else:
        _describe_capture(shared, run.voxel_mm)
    for index, image in enumerate(pixels):
        dataset = pydicom.Dataset(shared)
        geometry = known[index] if known else None
        view = ON_GRID if run.keep_grid else upright_view(geometry)
        if geometry is not None:
            _place(dataset, view.geometry(geometry, shape), view.shape(shape))
            dataset.InPlanePhaseEncodingDirection = "COL" if view.transposed else "ROW"
        dataset.Rows, dataset.Columns = view.shape(shape)
        dataset.InstanceNumber = index + 1
        doubts = f"{series.doubts[index]}; " if series.doubts[index] else ""
        comment = f"{doubts}residual {series.residuals[index]:.4f}; {RESEARCH_USE}"
        dataset.ImageComments = as_text(comment, _TEXT)
        dataset.SOPInstanceUID = make_uid("image", shared.SeriesInstanceUID, str(index))
        dataset.PixelData = view.pixels(image).tobytes()
        yield dataset


def _describe_series(dataset: Any, series: ImageSeries, run: _Run) -> None:
    from pydicom.sr.codedict import codes

    derivation, protocol = run.derivation, run.protocol
    made_by = f"{PROGRAM} {derivation.method}, {RESEARCH_USE}"
    name = as_text(f"{series.label} {series_name(run.who)}", LONG - 1 - len(made_by))
    dataset.Modality = "MR"
    dataset.SeriesNumber = series.number
    dataset.SeriesDescription = f"{name} {made_by}".strip()
    dataset.Laterality = ""
    dataset.Manufacturer, dataset.ManufacturerModelName = (
        PROGRAM,
        (derivation.model_name or derivation.method)[:LONG],
    )
    dataset.SoftwareVersions = derivation.software_version
    dataset.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    scanner = " ".join(as_text(each, LONG) for each in (protocol.vendor, protocol.model) if each)
    acquired = [f"acquired on {scanner}"] if scanner else []
    steps = [*acquired, *derivation_steps(derivation), RESEARCH_USE]
    dataset.DerivationDescription = as_text("; ".join(steps), _TEXT)
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
    program.Manufacturer, program.ManufacturerModelName = PROGRAM, derivation.model_name[:LONG]
    program.SoftwareVersions = derivation.software_version
    program.ContributionDescription = as_text("; ".join(derivation_steps(derivation)), _TEXT)
    return program


def _describe_pixels(dataset: Any, run: _Run) -> None:
    from pydicom import Dataset

    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    white = max(run.scale * run.intensity.white, 1.0)
    dataset.WindowCenter, dataset.WindowWidth = _decimal(white / 2), _decimal(white)
    # MR Image Storage takes no rescale, and viewers would window by units far below 1.
    mapping, unit = Dataset(), Dataset()
    mapping.add_new("RealWorldValueFirstValueMapped", "US", 0)
    mapping.add_new("RealWorldValueLastValueMapped", "US", 2**BITS - 1)
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = 0.0, 1 / run.scale
    mapping.LUTExplanation, mapping.LUTLabel = "magnitude in the units of k-space", "KSPACE"
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "[arb'U]", "UCUM", "arbitrary unit"
    mapping.MeasurementUnitsCodeSequence = [unit]
    dataset.RealWorldValueMappingSequence = [mapping]


def _describe_mr(dataset: Any, run: _Run, contrast: int) -> None:
    from pydicom.uid import MRImageStorage

    protocol = run.protocol
    dataset.SOPClassUID = MRImageStorage
    dataset.FrameOfReferenceUID = frame_uid(run.who)
    dataset.PositionReferenceIndicator = ""
    position = (protocol.patient_position or "").upper()
    dataset.PatientPosition = position if position in _POSITIONS else ""
    # Research mode, no variant: the header's name for the sequence is not one of DICOM's terms.
    dataset.ScanningSequence = ["RM", "IR"] if protocol.ti_ms else "RM"
    dataset.SequenceVariant, dataset.ScanOptions = "NONE", ""
    dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", None
    dataset.RepetitionTime = _of_contrast(protocol.tr_ms, contrast)
    dataset.EchoTime = _of_contrast(protocol.te_ms, contrast)
    if len(set(protocol.te_ms)) > 1:
        dataset.EchoNumbers = contrast + 1
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


def _code(concept: Any) -> Any:
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = concept.value, concept.scheme_designator
    code.CodeMeaning = concept.meaning
    return code


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)
