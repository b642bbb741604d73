"""A finished result in the formats that others read: DICOM, MRD images, NIfTI, BART's arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.overwriting import HDF5, check_name, check_new
from sbim_deploy.kspace import cfl
from sbim_deploy.kspace.mrd import MrdKspace
from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.mrd.header import Protocol
from sbim_deploy.mrd.images import pixel_bits
from sbim_deploy.records import FloatArray, SliceGeometry
from sbim_deploy.results import dicom, nifti
from sbim_deploy.results.geometry import known_geometries, slice_affine, stack_slices
from sbim_deploy.results.mrd_images import write_mrd_images
from sbim_deploy.results.result_file import check_result_place, open_result
from sbim_deploy.results.series import ImageSeries, derivation_of, positions_of_series, read_series
from sbim_deploy.runs.settings import ReconSettings

H5, MRD, DICOM, NIFTI, CFL = FORMATS = ("h5", "mrd", "dicom", "nifti", "cfl")


H5_SUFFIXES = (".h5", ".hdf5", "")


@dataclass(frozen=True)
class Output:
    """Where the images go and as what."""

    path: Path
    format: str = H5

    def __post_init__(self) -> None:
        """Check the format."""
        if self.format not in FORMATS:
            raise InputError(f"unknown format {self.format!r}: expected one of {', '.join(FORMATS)}")


def format_by_name(path: Path) -> str:
    """Return the format that goes with a file's name.

    Raises:
        InputError: the name is of no format that can be told by it.
    """
    if path.name.endswith(nifti.SUFFIXES):
        return NIFTI
    if cfl.is_cfl(path):
        return CFL
    if path.suffix not in H5_SUFFIXES:
        raise InputError(
            f"{path}: ends in {path.suffix}, expected .h5, .hdf5, .nii, .nii.gz or .cfl; say which it is by "
            f"--format {', '.join(FORMATS)}"
        )
    return H5


def result_path(output: Output) -> Path:
    """Return where the run keeps its result: the output itself, or a hidden file beside it."""
    return output.path if output.format == H5 else output.path.with_name(f".{output.path.name}.h5")


def check_output(output: Output, source: KspaceSource, settings: ReconSettings) -> str | None:
    """Check before long work that a result of a k-space file can be written so.

    Returns what the user should know of it, or None.

    Raises:
        InputError: the place is not free, or the slices do not lie as the format demands.
        BackendMissingError: a package is missing.
    """
    checks: dict[str, Callable[[Path, bool], object]] = {
        DICOM: dicom.check_dicom,
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
    if output.format not in (DICOM, NIFTI):
        return None
    start, stop = settings.slices or (0, source.n_slices)
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
    if any(known):
        return None
    return (
        f"{source.path}: does not say how the patient lay: {output.path} will name no anatomical directions"
    )


def write_output(output: Output, result_path: Path, source: KspaceSource, force: bool = False) -> None:
    """Write a result in another format, with the geometry of its open k-space file.

    With ``force`` an older output is replaced.

    Raises:
        InputError, BackendMissingError: see the writers of the formats.
    """
    with open_result(result_path) as result:
        if output.format == CFL:
            images = [result.read_image(position) for position in range(result.n_slices)]
            cfl.write_cfl_images(output.path, np.stack(images), force)
            return
        series = read_series(result, source)
        if output.format == NIFTI:
            volume, geometries = _one_volume(output.path, series), series[0].geometries
            nifti.write_nifti(output.path, volume, source.voxel_mm, geometries, force)
            return
        derivation = derivation_of(result)
        header = source.scan_header if isinstance(source, MrdKspace) else None
        if output.format == DICOM:
            protocol = Protocol() if header is None else header.protocol
            dicom.write_dicom(output.path, series, derivation, protocol, source.voxel_mm, force)
        elif output.format == MRD:
            bits = pixel_bits(None if header is None else header.bits_stored)
            write_mrd_images(output.path, series, derivation, source.voxel_mm, bits, force)


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
