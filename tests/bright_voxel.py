"""Where the formats of images put the brightest voxel of a volume: for tests of geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.runs.outputs import Output, write_output

LPS_TO_RAS = np.array([-1, -1, 1])


def brightest_places(result: Path, source: KspaceSource, folder: Path) -> dict[str, Any]:
    """Write a result as NIfTI, DICOM and MRD, and return the place (left, posterior, superior) by each."""
    pydicom, nibabel = pytest.importorskip("pydicom"), pytest.importorskip("nibabel")
    ismrmrd = pytest.importorskip("ismrmrd")
    for name, kind in (("dicom", "dicom"), ("v.nii", "nifti"), ("i.h5", "mrd")):
        write_output(Output(folder / name, kind), result, source)

    nifti = nibabel.load(folder / "v.nii")
    voxel = np.unravel_index(np.argmax(np.asarray(nifti.dataobj)), nifti.shape)
    places = {"nifti": (nifti.affine @ (*voxel, 1))[:3] * LPS_TO_RAS}

    files = [pydicom.dcmread(each) for each in sorted((folder / "dicom").iterdir())]
    assert len(files) == source.n_slices
    dicom = max(files, key=lambda each: int(each.pixel_array.max()))
    row, column = np.unravel_index(np.argmax(dicom.pixel_array), dicom.pixel_array.shape)
    along_row, down_column = np.reshape(np.array(dicom.ImageOrientationPatient, float), (2, 3))
    row_mm, column_mm = (float(each) for each in dicom.PixelSpacing)
    place = np.array(dicom.ImagePositionPatient, float) + row * row_mm * down_column
    places["dicom"] = place + column * column_mm * along_row
    assert float(dicom.SliceThickness) == source.voxel_mm[2]

    with ismrmrd.Dataset(folder / "i.h5", mode="r") as dataset:
        stored = [dataset.read_image("image_1", n) for n in range(source.n_slices)]
    image = max(stored, key=lambda each: int(each.data.max()))
    head = image.getHead()
    y, x = np.unravel_index(np.argmax(image.data[0, 0]), image.data[0, 0].shape)
    pixel = np.array(head.field_of_view[:2]) / head.matrix_size[:2]
    places["mrd"] = (
        np.array(head.position)
        + (x - head.matrix_size[0] // 2) * pixel[0] * np.array(head.read_dir)
        + (y - head.matrix_size[1] // 2) * pixel[1] * np.array(head.phase_dir)
    )
    places["mrd slice"] = head.slice
    return places
