"""An oblique MRD scan of discs with one bright square in each slice, written by the ismrmrd package."""

from pathlib import Path

import numpy as np

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_pad, centred_fft

SIZE, N_COILS, N_REPETITIONS = 32, 4, 2
VOXEL_MM, SPACING_MM, THICKNESS_MM = (5.0, 6.0), 8.0, 7.0
READ, PHASE = np.array([2, 2, 1]) / 3, np.array([-2, 1, 2]) / 3
NORMAL = np.cross(READ, PHASE)
CENTRE = np.array([12.0, -25.0, 40.0])
BRIGHT = ((10, 14), (16, 21), (21, 12))  # (row, column) of each slice

HEADER = f"""<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<subjectInformation><patientName>Doe^Jane</patientName><patientID>4711</patientID></subjectInformation>
<studyInformation><studyDate>2024-05-06</studyDate><studyInstanceUID>1.2.840.99.7</studyInstanceUID>
</studyInformation>
<measurementInformation><patientPosition>HFS</patientPosition><protocolName>oblique</protocolName>
<frameOfReferenceUID>1.2.840.99.8</frameOfReferenceUID></measurementInformation>
<acquisitionSystemInformation><systemVendor>Vendor</systemVendor></acquisitionSystemInformation>
<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding>
<encodedSpace><matrixSize><x>{2 * SIZE}</x><y>{SIZE}</y><z>1</z></matrixSize><fieldOfView_mm>
<x>{2 * SIZE * VOXEL_MM[0]}</x><y>{SIZE * VOXEL_MM[1]}</y><z>{THICKNESS_MM}</z></fieldOfView_mm>
</encodedSpace>
<reconSpace><matrixSize><x>{SIZE}</x><y>{SIZE}</y><z>1</z></matrixSize><fieldOfView_mm>
<x>{SIZE * VOXEL_MM[0]}</x><y>{SIZE * VOXEL_MM[1]}</y><z>{THICKNESS_MM}</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{SIZE - 1}</maximum>
<center>{SIZE // 2}</center></kspace_encoding_step_1></encodingLimits>
<trajectory>cartesian</trajectory></encoding>
<sequenceParameters><TR>2000</TR><TE>30</TE></sequenceParameters>
</ismrmrdHeader>
"""


def slice_images() -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE)) - SIZE // 2
    disc = (np.hypot(rows, columns) < 12).astype(np.float64)
    images = np.stack([disc] * len(BRIGHT))
    for image, (row, column) in zip(images, BRIGHT, strict=True):
        image[row, column] = 4
    return images


def centre_of(index: int) -> np.ndarray:
    return CENTRE + index * SPACING_MM * NORMAL


def bright_place(index: int) -> np.ndarray:
    """Where the bright pixel of a slice is, mm to the left, to the back and up."""
    row, column = (pixel - SIZE // 2 for pixel in BRIGHT[index])
    return centre_of(index) + row * VOXEL_MM[0] * READ + column * VOXEL_MM[1] * PHASE


def write_scan(path: Path, n_repetitions: int = N_REPETITIONS) -> Path:
    """Write all slices, fully sampled, repetition after repetition; the second is half as bright."""
    import ismrmrd

    maps = birdcage_maps(N_COILS, (SIZE, SIZE))
    with ismrmrd.Dataset(path, mode="w") as dataset:
        dataset.write_xml_header(HEADER.encode())
        for repetition in range(n_repetitions):
            for index, image in enumerate(slice_images()):
                coils = centre_pad(maps * image / (1 + repetition), (2 * SIZE, SIZE))
                _write_slice(ismrmrd, dataset, centred_fft(coils), index, repetition)
    return path


def _write_slice(ismrmrd, dataset, kspace: np.ndarray, index: int, repetition: int) -> None:
    for line in range(SIZE):
        readout = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[:, :, line], np.complex64))
        readout.center_sample, readout.sample_time_us = SIZE, 5.0
        readout.measurement_uid = 42
        readout.idx.kspace_encode_step_1, readout.idx.slice = line, index
        readout.idx.repetition = repetition
        readout.position, readout.read_dir = tuple(centre_of(index)), tuple(READ)
        readout.phase_dir, readout.slice_dir = tuple(PHASE), tuple(NORMAL)
        if line == SIZE - 1:
            readout.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
        dataset.append_acquisition(readout)
