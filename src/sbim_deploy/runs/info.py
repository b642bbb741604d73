"""What a file or a folder is: k-space, images, a result, samples or a model, of every format that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import is_array_file
from sbim_deploy.io.hdf5 import dataset_names, is_hdf5, open_hdf5
from sbim_deploy.io.layouts import GUESSED, Reading
from sbim_deploy.io.yardl import is_yardl
from sbim_deploy.kspace.along_trajectory import NonCartesianKspace
from sbim_deploy.kspace.arrays import names_kspace, open_array_kspace
from sbim_deploy.kspace.fastmri import KspaceFile
from sbim_deploy.kspace.sources import KspaceSource, is_plain_hdf5, open_readouts, open_source
from sbim_deploy.models.folder import DEMO, load_model
from sbim_deploy.mrd.file import MrdFile, is_mrd
from sbim_deploy.mrd.version2 import Version2File
from sbim_deploy.mri.kspace_faults import find_faults
from sbim_deploy.mri.masks import effective_acceleration, sampled_mask
from sbim_deploy.mri.readout_delays import find_delays
from sbim_deploy.mri.readout_noise import measure_readout_noise
from sbim_deploy.recon.prepare import NOISE_READOUTS, check_magnitude, measure_image_noise
from sbim_deploy.records import ComplexArray
from sbim_deploy.results.dicom_files import holds_dicom
from sbim_deploy.results.image_files import find_images
from sbim_deploy.results.image_stack import ImageStack
from sbim_deploy.results.result_file import ResultFile
from sbim_deploy.results.sample_file import DATASET, SampleFile
from sbim_deploy.runs.findings import warnings


def describe(path: Path, reading: Reading = GUESSED) -> dict[str, Any]:
    """Return what is at ``path`` as JSON's types, with its ``kind`` first; ``reading`` is that of an array.

    Raises:
        InputError: it is none of these, or a damaged one.
        BackendMissingError: the package that reads its format is not installed.
        ChecksumError: a file of a model folder was changed.
    """
    if str(path) == DEMO or (path.is_dir() and not holds_dicom(path)):
        return _describe_model(path)
    if is_yardl(path) and reading == GUESSED:
        return _describe_version_2(path)
    is_named = reading == GUESSED and not is_array_file(path) and is_hdf5(path)
    told = _describe_hdf5(path, reading) if is_named else None
    if told is not None:
        return told
    images = None if reading.variable is None and names_kspace(path) else find_images(path, reading)
    if images is not None:
        with images:
            return _describe_images(images)
    if is_named:
        with open_hdf5(path) as file:
            held = ", ".join(dataset_names(file, path)) or "none"
        raise InputError(f"{path}: neither k-space nor images: its datasets are {held}")
    with open_source(path, reading) as source:
        return _describe_open(source)


def _describe_hdf5(path: Path, reading: Reading) -> dict[str, Any] | None:
    """Return what HDF5 holds, or None where it may be images."""
    with open_hdf5(path) as file:
        names = dataset_names(file, path)
        if is_plain_hdf5(file, path):
            with open_array_kspace(path, reading) as source:
                return _describe_open(source)
        if "kspace" in names:
            return _describe_open(KspaceFile(file, path))
        if DATASET in names:
            return _describe_samples(SampleFile(file, path))
        return _describe_open(open_readouts(MrdFile(file, path))) if is_mrd(file, path) else None


def _describe_images(images: ImageStack) -> dict[str, Any]:
    if images.result is not None:
        return _describe_result(images.result)
    affine, middle = images.affine(0), np.abs(images.read_image(images.n_slices // 2))
    return {
        "kind": "images",
        "format": images.kind,
        "slices": images.n_slices,
        "rows": images.shape[0],
        "columns": images.shape[1],
        "values": "complex" if images.is_complex else "real",
        "largest_magnitude": float(f"{middle.max():.6g}"),
        "voxel_mm": (
            None
            if affine is None
            else [round(float(size), 4) for size in np.linalg.norm(affine[:3, :3], axis=0)]
        ),
        "placed_in_the_patient": images.affines is not None,
        **{name: value for name, value in images.details.items() if value is not None},
    }


def _describe_version_2(path: Path) -> dict[str, Any]:
    with Version2File(path) as file:
        if not file.n_readouts:
            return {"kind": "MRD stream without readouts", "format": file.format, **file.left_out}
        return _describe_open(open_readouts(file))


def _describe_model(path: Path) -> dict[str, Any]:
    model = load_model(path)
    manifest = model.manifest
    levels = manifest.noise_levels
    return {
        "kind": "model",
        "name": manifest.name,
        "architecture": f"{manifest.architecture}, ngf {manifest.ngf}, {manifest.channels} channels",
        "weights": "EMA" if manifest.ema else "raw",
        "dtype": manifest.dtype,
        "sigma": f"{levels.sigma_begin:g} to {levels.sigma_end:g}, {levels.n_levels} levels",
        "anatomy": manifest.anatomy,
        "training_data": manifest.training_data,
        "intended_use": manifest.intended_use,
        "size_multiple": manifest.size_multiple,
        "image_scale": manifest.image_scale,
        "files": {name: entry.bytes for name, entry in manifest.files.items()},
        "digest": model.digest,
        "checksums": "match",
    }


def _sizes(kspace: KspaceSource) -> dict[str, Any]:
    return {
        "kind": "k-space",
        "slices": kspace.n_slices,
        "coils": kspace.n_coils,
        "rows": kspace.n_rows,
        "columns": kspace.n_columns,
        "image_shape": kspace.recon_shape,
        "voxel_mm": kspace.voxel_mm,
    }


def _sampling(kspace: KspaceSource, index: int) -> dict[str, Any]:
    """Return how a slice was sampled, how loud its noise is, and what is visibly wrong with it."""
    samples = kspace.read_slice(index)
    if isinstance(kspace, NonCartesianKspace):
        return _sampling_along_trajectory(kspace, samples, index)
    mask = sampled_mask(samples)
    undersampled = "phase encodes" if mask.shape[0] == 1 else "rows and columns"
    if not mask.any():
        return {"acceleration": None, "undersampled": undersampled}
    check_magnitude(samples, index)
    known = kspace.read_noise(index)
    measured = measure_image_noise(samples, mask, (kspace.recon_shape or samples.shape[1:])[0])
    noise, source = (measured.sd, measured.source) if known is None else (known, NOISE_READOUTS)
    given = kspace.mask if kspace.mask is None or kspace.mask.ndim == 2 else kspace.mask[None]
    faults = find_faults(samples, given, measured.coil_sds)
    return {
        "acceleration": effective_acceleration(mask),
        "undersampled": undersampled,
        "noise": float(f"{noise:.4g}"),
        "noise_source": source,
        "faults": {fault.kind: fault.message for fault in faults} or None,
    }


def _sampling_along_trajectory(
    kspace: NonCartesianKspace, samples: ComplexArray, index: int
) -> dict[str, Any]:
    """Return of samples along a trajectory what :func:`_sampling` does of those on a grid."""
    check_magnitude(samples, index)
    places = kspace.read_trajectory(index)
    found = measure_readout_noise(samples, places)
    known = kspace.read_noise(index)
    noise, source = (found.sd, found.source) if known is None else (known, NOISE_READOUTS)
    return {
        "readouts": samples.shape[1],
        "samples_of_readout": samples.shape[2],
        "reach": [round(float(far), 2) for far in np.abs(places).max(axis=(0, 1))],
        "noise": float(f"{noise:.4g}"),
        "noise_source": source,
        "faults": {fault.kind: fault.message for fault in find_delays(samples, places)} or None,
    }


def _describe_open(kspace: KspaceSource) -> dict[str, Any]:
    return _describe_kspace(kspace) if isinstance(kspace, KspaceFile) else _describe_source(kspace)


def _describe_kspace(kspace: KspaceFile) -> dict[str, Any]:
    return {
        **_sizes(kspace),
        "layout": kspace.layout.text,
        "mask": kspace.mask_kind,
        **_sampling(kspace, kspace.n_slices // 2),
        "maps": "in the file" if kspace.has_maps else None,
        "reference": kspace.reference_name,
        "assumed": list(kspace.remarks) or None,
    }


def _describe_source(kspace: KspaceSource) -> dict[str, Any]:
    return {
        **_sizes(kspace),
        "placed_in_the_patient": kspace.geometry(0) is not None,
        **_sampling(kspace, 0),
        **kspace.describe(),
    }


def _describe_result(result: ResultFile) -> dict[str, Any]:
    provenance = result.provenance.as_dict()
    plan, notes = provenance.pop("plan"), result.provenance.slice_notes
    # What each slice was found to have says more than what was asked for.
    del provenance["slice_notes"], provenance["noise"]
    levels = [each.noise for each in notes.values() if each.noise is not None]
    provenance["slices_asked_for"] = provenance.pop("slices")
    return {
        "kind": "reconstruction",
        "slices": result.n_slices,
        "rows": result.shape[0],
        "columns": result.shape[1],
        "standard_deviation": "in the file" if result.has_standard_deviation else None,
        "residual": [round(float(value), 5) for value in result.residual],
        "sampler": plan["sampler"],
        "network_calls": len(plan["rows"]),
        "coil_maps": result.provenance.sources("maps"),
        "noise": [float(f"{level:.4g}") for level in levels],
        "noise_source": result.provenance.sources("noise_source"),
        "warnings": warnings(result.provenance),
        **provenance,
    }


def _describe_samples(samples: SampleFile) -> dict[str, Any]:
    provenance = samples.provenance.as_dict()
    plan = provenance.pop("plan")
    return {
        "kind": "samples",
        "samples": samples.n_samples,
        "rows": samples.shape[0],
        "columns": samples.shape[1],
        "sampler": plan["sampler"],
        "network_calls": len(plan["rows"]),
        **provenance,
    }
