"""Streams of MRD version 2, written by the mrd package: scans of tests/simulated_mrd.py, and other items."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulated_mrd import MrdScan, ScanSettings

# Not the folder of tests of that name, which any import of mrd finds where the package is missing.
pytest.importorskip("mrd.binary", reason="mrd (mrd-python) is not installed")
import mrd


def write_mrd2(path: Path, scan: MrdScan) -> Path:
    """Write a scan as a stream in a file."""
    path.write_bytes(stream_bytes(scan_header(scan.settings), map(acquisition_item, scan.readouts)))
    return path


def stream_bytes(header: Any, items: Any) -> bytes:
    """Return a whole stream."""
    stream = io.BytesIO()
    with mrd.BinaryMrdWriter(stream) as writer:
        writer.write_header(header)
        writer.write_data(items)
    return stream.getvalue()


def scan_header(settings: ScanSettings) -> Any:
    """Return the header of a scan: what the XML of tests/simulated_mrd.py says."""
    size, fov = settings.size, settings.field_of_view_mm
    limits = {
        "kspace_encoding_step_1": (size - 1 - settings.skipped_lines, size // 2 - settings.skipped_lines),
        "average": (settings.n_averages - 1, 0),
        "slice": (settings.n_slices - 1, 0),
        "repetition": (settings.n_repetitions - 1, 0),
    }
    parallel = None
    if settings.calibration_mode:
        parallel = mrd.ParallelImagingType(
            acceleration_factor=mrd.AccelerationFactorType(
                kspace_encoding_step_1=settings.acceleration, kspace_encoding_step_2=1
            ),
            calibration_mode=mrd.CalibrationMode[settings.calibration_mode.upper()],
        )
    user = None
    if settings.bits_stored is not None:
        bits = mrd.UserParameterLongType(name="BitsStored", value=settings.bits_stored)
        user = mrd.UserParametersType(user_parameter_long=[bits])
    return mrd.Header(
        subject_information=mrd.SubjectInformationType(patient_name="DOE^JANE", patient_id="4711"),
        study_information=mrd.StudyInformationType(study_description="phantoms"),
        measurement_information=mrd.MeasurementInformationType(
            patient_position=mrd.PatientPosition.H_FS, protocol_name="brain"
        ),
        acquisition_system_information=mrd.AcquisitionSystemInformationType(
            system_vendor="none", system_field_strength_t=3.0
        ),
        experimental_conditions=mrd.ExperimentalConditionsType(h1resonance_frequency_hz=123200000),
        encoding=[
            mrd.EncodingType(
                encoded_space=space(
                    settings.oversampling * size, size, settings.oversampling * fov, settings
                ),
                recon_space=space(size, size, fov, settings),
                encoding_limits=mrd.EncodingLimitsType(
                    **{
                        name: mrd.LimitType(minimum=0, maximum=maximum, center=center)
                        for name, (maximum, center) in limits.items()
                    }
                ),
                trajectory=mrd.Trajectory.CARTESIAN,
                parallel_imaging=parallel,
            )
        ],
        sequence_parameters=mrd.SequenceParametersType(t_r=[500.0], t_e=[10.0], flip_angle_deg=[70.0]),
        user_parameters=user,
    )


def space(rows: int, columns: int, read_extent: float, settings: ScanSettings) -> Any:
    return mrd.EncodingSpaceType(
        matrix_size=mrd.MatrixSizeType(x=rows, y=columns, z=1),
        field_of_view_mm=mrd.FieldOfViewMm(
            x=read_extent, y=settings.field_of_view_mm, z=settings.thickness_mm
        ),
    )


def acquisition_item(readout: Any) -> Any:
    """Return a readout of version 1 as an item of a stream."""
    header, idx = readout.header, readout.header["idx"]
    counters = {name: int(idx[name]) for name in idx.dtype.names if name != "user"}
    head = mrd.AcquisitionHeader(
        flags=mrd.AcquisitionFlags(int(header["flags"])),
        idx=mrd.EncodingCounters(user=idx["user"].tolist(), **counters),
        physiology_time_stamp=header["physiology_time_stamp"].tolist(),
        channel_order=list(range(int(header["active_channels"]))),
        sample_time_us=float(header["sample_time_us"]),
        user_int=header["user_int"].tolist(),
        user_float=header["user_float"].tolist(),
        **{
            name: int(header[name])
            for name in (
                *("measurement_uid", "scan_counter", "acquisition_time_stamp"),
                *("discard_pre", "discard_post", "center_sample", "encoding_space_ref"),
            )
        },
        **{
            name: np.array(header[name])
            for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
        },
    )
    along = None if readout.trajectory is None else np.ascontiguousarray(readout.trajectory.T)
    return mrd.StreamItem.Acquisition(mrd.Acquisition(head=head, data=readout.data, trajectory=along))


def other_items() -> list[Any]:
    """Return one of every item that is no readout."""
    item, rng = mrd.StreamItem, np.random.default_rng(0)
    waveform = mrd.Waveform(
        flags=0,
        measurement_uid=1,
        scan_counter=2,
        time_stamp=3,
        sample_time_us=1.0,
        waveform_id=0,
        data=rng.integers(0, 2**32, (2, 5000), np.uint32),
    )
    kinds = {
        item.ImageUint16: np.uint16,
        item.ImageInt16: np.int16,
        item.ImageUint32: np.uint32,
        item.ImageInt32: np.int32,
        item.ImageFloat: np.float32,
        item.ImageDouble: np.float64,
        item.ImageComplexFloat: np.complex64,
        item.ImageComplexDouble: np.complex128,
    }
    meta = {"Name": [mrd.ImageMetaValue.String("a"), mrd.ImageMetaValue.Int64(-3)]}
    images = [
        case(
            mrd.Image(
                head=mrd.ImageHeader(image_type=mrd.ImageType.MAGNITUDE, slice=300),
                data=rng.integers(0, 2**15, (1, 2, 40, 30)).astype(dtype),
                meta=meta,
            )
        )
        for case, dtype in kinds.items()
    ]
    bucket = mrd.AcquisitionBucket(
        data=[mrd.Acquisition(data=np.ones((2, 8), np.complex64))], waveforms=[waveform]
    )
    return [
        item.WaveformUint32(waveform),
        *images,
        item.AcquisitionBucket(bucket),
        item.ArrayComplexFloat(np.ones((3, 4, 5), np.complex64)),
    ]
