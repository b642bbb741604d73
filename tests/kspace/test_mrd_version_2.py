"""A scan as MRD version 2 is the scan that it is as version 1: every case of the assembler, by one."""

from __future__ import annotations

import numpy as np
import pytest

from mrd2_samples import acquisition_item, mrd, other_items, scan_header, stream_bytes, write_mrd2
from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.study.folders import list_folder
from simulated_mrd import make_scan, write_mrd

OBLIQUE = ((0.8, 0.6, 0.0), (-0.6, 0.8, 0.0), (0.0, 0.0, 1.0))
SCANS = {
    "plain": {},
    "interleaved": {"n_slices": 3, "n_repetitions": 2, "interleaved": True, "directions": OBLIQUE},
    "noise": {"noise": 0.01, "n_noise_readouts": 8, "noise_dwell_us": 7.5, "position": (1.0, -2.0, 3.5)},
    "separate": {"acceleration": 3, "calib_width": 10, "calibration_mode": "separate", "n_repetitions": 2},
    "embedded": {"acceleration": 3, "calib_width": 10, "calibration_mode": "embedded", "n_averages": 2},
    "partial": {"skipped_lines": 6, "skipped_samples": 9, "discarded": 3, "reversed_lines": True},
}


@pytest.mark.parametrize("settings", SCANS.values(), ids=SCANS)
def test_a_scan_is_the_same_in_both_versions(settings, tmp_path):
    scan = make_scan(**settings)
    first, second = write_mrd(tmp_path / "scan.h5", scan), write_mrd2(tmp_path / "scan.mrd2", scan)
    with open_source(first) as ours, open_source(second) as theirs:
        assert theirs.scan_header == ours.scan_header
        assert (theirs.n_slices, theirs.n_coils, theirs.n_rows) == (ours.n_slices, ours.n_coils, ours.n_rows)
        assert (theirs.recon_shape, theirs.voxel_mm) == (ours.recon_shape, ours.voxel_mm)
        for index in [*reversed(range(ours.n_slices)), 0]:
            np.testing.assert_array_equal(theirs.read_slice(index), ours.read_slice(index))
            calibration = ours.read_calibration(index)
            assert (calibration is None) == (theirs.read_calibration(index) is None)
            if calibration is not None:
                np.testing.assert_array_equal(theirs.read_calibration(index), calibration)
            assert theirs.read_noise(index) == ours.read_noise(index)
            assert theirs.geometry(index) == ours.geometry(index)
            assert theirs.series(index) == ours.series(index)
            assert theirs.slice_header(index).tobytes() == ours.slice_header(index).tobytes()
        assert {**theirs.describe(), "format": None} == {**ours.describe(), "format": None}


def test_the_reconstruction_is_that_of_version_1(tmp_path):
    scan = make_scan(size=64, acceleration=2, calib_width=12, noise=0.01, n_noise_readouts=4)
    settings = ReconSettings(choice=SamplerChoice(steps=4))
    images = []
    for path in (write_mrd(tmp_path / "scan.h5", scan), write_mrd2(tmp_path / "second.mrd2", scan)):
        reconstruct_file(path, path.with_suffix(".out.h5"), settings)
        with open_result(path.with_suffix(".out.h5")) as result:
            images.append(result.read_image(0))
    np.testing.assert_array_equal(images[0], images[1])
    truth = scan.images[0, 0]
    scale = np.vdot(images[1], truth) / np.vdot(images[1], images[1])
    assert nrmse(scale * images[1], truth) < 0.2


def test_raw_data_of_siemens_are_conjugated_and_that_is_said(tmp_path):
    scan = make_scan()
    header = scan_header(scan.settings)
    header.acquisition_system_information.system_vendor = "SIEMENS"
    path = tmp_path / "scan.bin"
    path.write_bytes(stream_bytes(header, map(acquisition_item, scan.readouts)))
    with open_source(path) as turned, open_source(write_mrd2(tmp_path / "plain.bin", scan)) as plain:
        np.testing.assert_array_equal(turned.read_slice(0), plain.read_slice(0).conj())
        assert any("conjugated" in each for each in turned.describe()["assumed"])


def test_items_of_other_kinds_are_left_out_and_said(tmp_path):
    scan = make_scan()
    readouts = [acquisition_item(each) for each in scan.readouts]
    others = other_items()
    half = len(readouts) // 2
    path = tmp_path / "scan.bin"
    path.write_bytes(
        stream_bytes(
            scan_header(scan.settings), [*others, *readouts[:half], *others, *readouts[half:], *others]
        )
    )
    with open_source(path) as mixed, open_source(write_mrd2(tmp_path / "plain.bin", scan)) as plain:
        np.testing.assert_array_equal(mixed.read_slice(0), plain.read_slice(0))
        (said,) = mixed.describe()["assumed"]
    assert said.startswith("items of the stream that are no readouts are left out: 3 AcquisitionBucket, ")
    assert said.count("3 ") == len(others)


def test_info_tells_scans_and_images_apart(tmp_path):
    scan = make_scan(n_slices=2)
    found = describe(write_mrd2(tmp_path / "scan.bin", scan))
    assert (found["kind"], found["slices"], found["format"]) == ("k-space", 2, "MRD version 2 (yardl binary)")
    images = tmp_path / "images.bin"
    for header in (None, scan_header(scan.settings)):
        images.write_bytes(stream_bytes(header, other_items()[1:3]))
        found = describe(images)
        assert (found["kind"], found["ImageUint16"]) == ("MRD stream without readouts", 1)
    with pytest.raises(InputError, match="no readouts \\(1 ImageInt16, 1 ImageUint16\\), expected raw data"):
        open_source(images)


def test_a_space_that_the_writer_did_not_set_is_missing(tmp_path):
    scan = make_scan(oversampling=1)
    header = scan_header(scan.settings)
    header.encoding[0].recon_space = mrd.EncodingSpaceType()
    path = tmp_path / "scan.bin"
    path.write_bytes(stream_bytes(header, map(acquisition_item, scan.readouts)))
    with open_source(path) as source:
        assert source.recon_shape == (32, 32)
        assert any("no <reconSpace>" in each for each in source.describe()["assumed"])


def test_a_readout_without_a_centre_is_taken_by_its_middle_and_that_is_said(tmp_path):
    scan = make_scan()
    items = [acquisition_item(each) for each in scan.readouts]
    for item in items:
        item.value.head.center_sample = None
    path = tmp_path / "scan.bin"
    path.write_bytes(stream_bytes(scan_header(scan.settings), items))
    with open_source(path) as bare, open_source(write_mrd2(tmp_path / "plain.bin", scan)) as plain:
        np.testing.assert_array_equal(bare.read_slice(0), plain.read_slice(0))
        assert any(
            "the centre of k-space (32): taken as the middle" in each for each in bare.describe()["assumed"]
        )


def test_readouts_that_lack_the_trajectory_of_their_header_are_refused_by_name(tmp_path):
    scan = make_scan()
    header = scan_header(scan.settings)
    header.encoding[0].trajectory = mrd.Trajectory.SPIRAL
    path = tmp_path / "scan.bin"
    path.write_bytes(stream_bytes(header, map(acquisition_item, scan.readouts)))
    with pytest.raises(InputError, match="trajectory is 'spiral', and a readout carries one of 0 dimensions"):
        open_source(path)


def test_a_layout_is_refused_since_the_format_says_it(tmp_path):
    path = write_mrd2(tmp_path / "scan.bin", make_scan())
    with pytest.raises(InputError, match="leave --layout"):
        open_source(path, Reading("coil,row,column"))


def test_a_folder_is_searched_for_streams_and_those_without_readouts_are_left_out(tmp_path):
    write_mrd2(tmp_path / "scan.bin", make_scan())
    write_mrd2(tmp_path / "scan.mrd2", make_scan())
    (tmp_path / "images.mrd2").write_bytes(stream_bytes(scan_header(make_scan().settings), []))
    (tmp_path / "firmware.bin").write_bytes(b"something else")
    found = list_folder(tmp_path)
    assert [path.name for path in found.paths] == ["scan.bin", "scan.mrd2"]
    assert {path.name: reason for path, reason in found.left_out.items()} == {
        "firmware.bin": "is no MRD version 2 stream",
        "images.mrd2": "holds no readouts (MRD version 2)",
    }
