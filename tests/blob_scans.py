"""Scans of Gaussian blobs at known places, in mm: k-space and image are formulas, on any grid.

A blob of width s at (u, v) mm from the centre has k-space exp(-2 pi^2 s^2 k^2) exp(-2 pi i (k_u u + k_v v)).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout

WIDTH_MM = 11.0
# (amplitude, mm along the readout, mm along the phase encoding): no symmetry of any kind.
BLOBS = ((1.0, -40.0, -25.0), (0.7, 30.0, 45.0), (0.4, 55.0, -10.0))
COIL_WEIGHTS = (1.0, 0.6j, -0.8)
_VLEN = h5py.vlen_dtype(np.float32)


def places(n: int, step: float) -> Any:
    return (np.arange(n) - n // 2) * step


def blob_kspace(shape: tuple[int, int], extent_mm: tuple[float, float]) -> Any:
    """k-space, complex64 (coils, rows, columns), of samples 1 / extent apart."""
    k_rows, k_columns = (places(n, 1 / mm) for n, mm in zip(shape, extent_mm, strict=True))
    decay = np.exp(-2 * np.pi**2 * WIDTH_MM**2 * (k_rows[:, None] ** 2 + k_columns**2))
    waves = sum(a * np.exp(-2j * np.pi * (k_rows[:, None] * u + k_columns * v)) for a, u, v in BLOBS)
    return (np.array(COIL_WEIGHTS)[:, None, None] * decay * waves).astype(np.complex64)


def blob_image(shape: tuple[int, int], voxel_mm: tuple[float, float]) -> Any:
    """The magnitude at the pixels of an image."""
    rows, columns = (places(n, mm) for n, mm in zip(shape, voxel_mm, strict=True))
    return sum(
        a * np.exp(-((rows[:, None] - u) ** 2 + (columns - v) ** 2) / (2 * WIDTH_MM**2)) for a, u, v in BLOBS
    )


def distance(image: Any, voxel_mm: Any) -> float:
    """How far an image is from the blobs' at pixels of this size, relative, whatever its scale."""
    expected = blob_image(image.shape, voxel_mm[:2])
    image = np.abs(image)
    scale = np.vdot(image, expected) / np.vdot(image, image)
    return float(np.linalg.norm(scale * image - expected) / np.linalg.norm(expected))


def spaces_xml(encoded: Any, recon: Any, vendor: str = "none", extra: str = "", **replaced: str) -> str:
    """A header of two spaces, ((x, y), (x mm, y mm)) each; ``replaced`` are texts by name of a part."""
    parts = {
        "encoded": _space("encodedSpace", *encoded),
        "recon": _space("reconSpace", *recon),
        "limits": (
            "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum>"
            f"<maximum>{encoded[0][1] - 1}</maximum><center>{encoded[0][1] // 2}</center>"
            "</kspace_encoding_step_1></encodingLimits>"
        ),
        "trajectory": "<trajectory>cartesian</trajectory>",
        **replaced,
    }
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz>"
        f"</experimentalConditions><encoding>{''.join(parts.values())}</encoding>{extra}</ismrmrdHeader>"
    )


def blob_readouts(kspace: Any, number: int = 0, **fields: Any) -> list[Readout]:
    """The columns of k-space (coils, rows, columns) as readouts in order, the last one flagged."""
    made = []
    for line in range(kspace.shape[-1]):
        header = np.zeros((), ACQUISITION_HEADER)[()]
        header["version"], header["sample_time_us"] = 1, 5.0
        header["number_of_samples"], header["center_sample"] = kspace.shape[1], kspace.shape[1] // 2
        header["available_channels"] = header["active_channels"] = len(kspace)
        header["idx"]["kspace_encode_step_1"], header["idx"]["slice"] = line, number
        header["read_dir"], header["phase_dir"], header["slice_dir"] = np.eye(3)
        header["flags"] = 1 << (Flag.LAST_IN_SLICE - 1) if line == kspace.shape[-1] - 1 else 0
        for name, value in fields.items():
            (header["idx"] if name in header["idx"].dtype.names else header)[name] = value
        made.append(Readout(header, np.ascontiguousarray(kspace[:, :, line])))
    return made


def write_readouts(path: Path, xml: str, readouts: list[Readout]) -> Path:
    """Write an MRD file."""
    kind = np.dtype([("head", ACQUISITION_HEADER), ("traj", _VLEN), ("data", _VLEN)])
    records = np.empty(len(readouts), kind)
    for place, readout in enumerate(readouts):
        records["head"][place], records["traj"][place] = readout.header, np.zeros(0, np.float32)
        records["data"][place] = np.ascontiguousarray(readout.data).view(np.float32).ravel()
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/data", data=records, chunks=(1,), maxshape=(None,))
        file.create_dataset("dataset/xml", data=[xml], dtype=h5py.string_dtype())
    return path


def write_fastmri(path: Path, xml: str, kspace: Any, **datasets: Any) -> Path:
    """Write a fastMRI file of one slice."""
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace[None]
        file["ismrmrd_header"] = xml
        for name, values in datasets.items():
            file[name] = values
    return path


def _space(name: str, matrix: tuple[int, int], extent: tuple[float, float]) -> str:
    return (
        f"<{name}><matrixSize><x>{matrix[0]}</x><y>{matrix[1]}</y><z>1</z></matrixSize>"
        f"<fieldOfView_mm><x>{extent[0]}</x><y>{extent[1]}</y><z>5</z></fieldOfView_mm></{name}>"
    )
