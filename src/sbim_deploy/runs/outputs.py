"""A finished result in the formats that others read: DICOM, MRD images, NIfTI, BART's arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.overwriting import HDF5, check_name, check_new
from sbim_deploy.kspace import cfl
from sbim_deploy.kspace.sources import KspaceSource, ReadoutKspace
from sbim_deploy.kspace.volume import VolumeKspace
from sbim_deploy.mrd.header import Protocol
from sbim_deploy.mrd.identity import IdentityMode, parse_identity
from sbim_deploy.mrd.images import pixel_bits
from sbim_deploy.mri.views import ON_GRID, View, upright_view
from sbim_deploy.records import FloatArray, SliceGeometry
from sbim_deploy.results import dicom, mrd2_images, nifti
from sbim_deploy.results.dicom_identity import make_pseudonym
from sbim_deploy.results.geometry import known_geometries, slice_affine, stack_slices
from sbim_deploy.results.intensity import Intensity, count_clipped, scan_full_scale, series_intensity
from sbim_deploy.results.mrd_images import MrdForm, Owner, write_mrd_images
from sbim_deploy.results.result_file import ResultFile, check_result_place, open_result
from sbim_deploy.results.series import ImageSeries, derivation_of, positions_of_series, read_series
from sbim_deploy.runs.settings import ReconSettings

H5, MRD, MRD2, DICOM, NIFTI, CFL = FORMATS = ("h5", "mrd", "mrd2", "dicom", "nifti", "cfl")


H5_SUFFIXES = (".h5", ".hdf5", "")


@dataclass(frozen=True)
class ImageSettings:
    """How images leave.

    ``identity`` is whose they are in DICOM and MRD; ``salt`` joins the anonymous DICOM of several files of a
    study. ``keep_grid`` lays DICOM, MRD and pictures out as k-space lies, not in the nearest standard view.
    ``scale`` is the magnitude that the greatest pixel of DICOM and MRD stands for; None is the scan's own.
    """

    identity: IdentityMode = IdentityMode.ANONYMOUS
    salt: str | None = None
    keep_grid: bool = False
    scale: float | None = None

    def __post_init__(self) -> None:
        """Check the scale, and that what is asked for goes together."""
        if self.scale is not None:
            Intensity(self.scale, self.scale)
        if self.salt is not None and self.identity is IdentityMode.KEEP:
            raise InputError("--salt is of anonymous images, and --identity keep names the patient: give one")

    def check_fits(self, file_format: str) -> None:
        """Raise InputError where something is asked for that the format would ignore."""
        asked = {
            "--identity keep": (self.identity is IdentityMode.KEEP, (DICOM, MRD)),
            "--salt": (self.salt is not None, (DICOM,)),
            "--scale": (self.scale is not None, (DICOM, MRD)),
        }
        for option, (is_given, formats) in asked.items():
            if is_given and file_format not in formats:
                raise InputError(f"{option} is of --format {' and '.join(formats)}, not of {file_format}")


@dataclass(frozen=True)
class Output:
    """Where the images go and as what; ``is_kept`` tells whether what a stopped run leaves outlasts it."""

    path: Path
    format: str = H5
    images: ImageSettings = field(default_factory=ImageSettings)
    is_kept: bool = True

    def __post_init__(self) -> None:
        """Check the format, and that the settings are of it."""
        if self.format not in FORMATS:
            raise InputError(f"unknown format {self.format!r}: expected one of {', '.join(FORMATS)}")
        self.images.check_fits(self.format)


def format_by_name(path: Path) -> str:
    """Return the format that goes with a file's name.

    Raises:
        InputError: the name is of no format that can be told by it.
    """
    if path.name.endswith(nifti.SUFFIXES):
        return NIFTI
    if cfl.is_cfl(path):
        return CFL
    if path.suffix in mrd2_images.SUFFIXES:
        return MRD2
    if path.suffix not in H5_SUFFIXES:
        raise InputError(
            f"{path}: ends in {path.suffix}, expected .h5, .hdf5, .nii, .nii.gz, .cfl or .mrd2; say which it "
            f"is by --format {', '.join(FORMATS)}"
        )
    return H5


def result_path(output: Output) -> Path:
    """Return where the run keeps its result: the output itself, or a hidden file beside it."""
    return output.path if output.format == H5 else output.path.with_name(f".{output.path.name}.h5")


def check_output(output: Output, source: KspaceSource, settings: ReconSettings) -> list[str]:
    """Check before long work that a result of a k-space file can be written so.

    Returns what the user should know of it, a sentence each.

    Raises:
        InputError: the place is not free, the slices do not lie as the format demands, or the scan does not
            say whose it is where that is to be kept.
        BackendMissingError: a package is missing.
    """
    checks: dict[str, Callable[[Path, bool], object]] = {
        DICOM: dicom.check_dicom,
        MRD2: mrd2_images.check_mrd2,
        NIFTI: nifti.check_nifti,
        CFL: cfl.check_cfl,
        MRD: check_new,
    }
    if output.format in (H5, MRD):
        check_name(output.path, HDF5)
    if output.format == H5:
        check_result_place(output.path, settings.resume, settings.force)
    else:
        checks[output.format](output.path, settings.force)
    remarks = []
    if output.images.identity is IdentityMode.KEEP:
        lacking = _owner(source).identity.lacking
        if lacking:
            remarks.append(
                f"{source.path}: the header has no {', '.join(lacking)}: left empty, and an archive may "
                "compare them with the scanner's images"
            )
    elif output.images.salt is not None:
        make_pseudonym("", output.images.salt, _header_text(source))
    if output.format in (DICOM, NIFTI) and not _check_places(output, source, settings.slices):
        remarks.append(
            f"{source.path}: does not say how the patient lay: {output.path} will name no anatomical "
            "directions"
        )
    return remarks


def _check_places(output: Output, source: KspaceSource, slices: tuple[int, int] | None) -> bool:
    """Check the places of the slices that are wanted, and tell whether there are any."""
    start, stop = slices or (0, source.n_slices)
    shape = source.recon_shape or (source.n_rows, source.n_columns)
    indices = range(max(start, 0), min(stop, source.n_slices))
    places = [
        [source.geometry(indices[position]) for position in positions]
        for positions in positions_of_series(source, indices).values()
    ]
    known = [known_geometries(geometries) for geometries in places]
    if output.format == NIFTI:
        _check_one_place(output.path, places)
    for geometries in known:
        if geometries and output.format == NIFTI:
            stack_slices(geometries, shape)
        for geometry in geometries:
            slice_affine(geometry, shape)
    return any(known)


def write_output(output: Output, result_path: Path, source: KspaceSource, force: bool = False) -> str | None:
    """Write a result in another format, with the geometry of its open k-space file.

    With ``force`` an older output is replaced. Returns what the user should know of the images, or None.

    Raises:
        InputError, BackendMissingError: see the writers of the formats.
    """
    with open_result(result_path) as result:
        if output.format == CFL:
            images = [result.read_image(position) for position in range(result.n_slices)]
            if isinstance(source, VolumeKspace):  # as BART has volumes: readout, phase encode 1 and 2
                cfl.write_cfl(output.path, np.stack(images).swapaxes(1, 2), force)
            else:
                cfl.write_cfl_images(output.path, np.stack(images), force)
        elif output.format == NIFTI:
            series = read_series(result, source)
            volume, geometries = _one_volume(output.path, series), series[0].geometries
            nifti.write_nifti(output.path, volume, source.voxel_mm, geometries, force)
        elif output.format in (DICOM, MRD):
            return _write_whole_numbers(output, result, source, force)
        elif output.format == MRD2:
            _write_mrd2(output, result, source, force)
    return None


def slice_views(source: KspaceSource, keep_grid: bool) -> list[View]:
    """Return the layout of every slice's image in pictures; that of k-space where directions are unsound."""
    return [ON_GRID if keep_grid else _slice_view(source, index) for index in range(source.n_slices)]


def _slice_view(source: KspaceSource, index: int) -> View:
    try:
        return upright_view(source.geometry(index))
    except InputError:
        return ON_GRID


def _write_whole_numbers(output: Output, result: ResultFile, source: KspaceSource, force: bool) -> str | None:
    """Write DICOM or MRD images, on one scale for the scan and in one window for its series."""
    series, derivation = read_series(result, source), derivation_of(result)
    settings, header = output.images, source.scan_header if isinstance(source, ReadoutKspace) else None
    full_scale = scan_full_scale(source) if settings.scale is None else settings.scale
    intensity = series_intensity(series, full_scale)
    owner = _owner(source) if settings.identity is IdentityMode.KEEP else None
    if output.format == DICOM:
        pseudonym = make_pseudonym(derivation.input_key, settings.salt, _header_text(source))
        dicom.write_dicom(
            output.path,
            series,
            derivation,
            Protocol() if header is None else header.protocol,
            pseudonym if owner is None else owner.identity,
            source.voxel_mm,
            intensity,
            settings.keep_grid,
            force,
        )
    else:
        form = MrdForm(
            derivation, intensity, source.voxel_mm, owner, settings.keep_grid, _first_stamp(source)
        )
        bits = pixel_bits(None if header is None else header.bits_stored)
        write_mrd_images(output.path, series, form, bits, force)
    n_clipped = count_clipped(series, intensity)
    if not n_clipped:
        return None
    wanted = 1.01 * max(float(each.volume.max()) for each in series)
    return (
        f"{output.path}: {n_clipped} pixels are brighter than {intensity.full_scale:g}, which the greatest "
        f"pixel stands for, and were clipped: give --scale {wanted:.3g} or more to all files of the study"
    )


def _write_mrd2(output: Output, result: ResultFile, source: KspaceSource, force: bool) -> None:
    """Write MRD images of version 2, whose pixels are the magnitudes themselves."""
    series = read_series(result, source)
    form = MrdForm(
        derivation_of(result),
        series_intensity(series),
        source.voxel_mm,
        keep_grid=output.images.keep_grid,
        first_stamp=_first_stamp(source),
    )
    header = source.scan_header if isinstance(source, ReadoutKspace) else None
    mrd2_images.write_mrd2_images(output.path, series, form, header, force)


def _first_stamp(source: KspaceSource) -> int:
    """Return the acquisition_time_stamp of the slice that was scanned first."""
    if not isinstance(source, ReadoutKspace):
        return 0
    return min(int(source.slice_header(n)["acquisition_time_stamp"]) for n in range(source.n_slices))


def _owner(source: KspaceSource) -> Owner:
    """Return whose scan it is.

    Raises:
        InputError: it does not say so.
    """
    header = _header_text(source)
    if header is None:
        raise InputError(f"{source.path}: only MRD files say whose scan they are: leave --identity keep out")
    return Owner(parse_identity(header, f"{source.path}: the header"), header)


def _header_text(source: KspaceSource) -> bytes | None:
    return source.xml if isinstance(source, ReadoutKspace) else None


def _one_volume(path: Path, series: Sequence[ImageSeries]) -> FloatArray:
    """Return the volume of one series, or those of several in one place on a first axis."""
    _check_one_place(path, [each.geometries for each in series])
    volumes = [each.volume for each in series]
    return volumes[0] if len(volumes) == 1 else np.stack(volumes)


def _check_one_place(path: Path, places: Sequence[Sequence[SliceGeometry | None]]) -> None:
    if any(list(geometries) != list(places[0]) for geometries in places):
        raise InputError(
            f"{path}: the {len(places)} series of the scan lie in different places, expected one place for a "
            "NIfTI file; take the slices of one (--slices), or write --format dicom"
        )
