"""Simulated raw data are those of the object that stands beside them, with all that scanners put in."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import h5py
import numpy as np
import pytest

from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.file import open_mrd
from sbim_deploy.mrd.messages import Flag
from sbim_deploy.mri.combine import mvue
from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft
from sbim_deploy.runs.simulate import SimulateSettings, sampled_lines, simulate_slice
from sbim_deploy.runs.simulate_mrd import OVERSAMPLING, simulate_mrd

SETTINGS = SimulateSettings(n_slices=2, n_coils=3, size=32, acceleration=2.0)


def test_without_noise_the_images_are_the_truth_and_that_of_the_fastmri_file(tmp_path):
    settings = replace(SETTINGS, acceleration=1, noise=0.0)
    assert simulate_mrd(tmp_path / "s.h5", settings) == 1
    with open_source(tmp_path / "s.h5") as source, h5py.File(tmp_path / "s.h5") as file:
        assert (source.n_slices, source.n_coils, source.recon_shape) == (2, 3, (32, 32))
        assert (source.n_rows, source.n_columns) == (OVERSAMPLING * 32, 32)
        for index in range(2):
            coils = centre_crop(centred_ifft(source.read_slice(index)), (32, 32))
            image = mvue(centred_fft(coils), file["s_maps"][index])
            np.testing.assert_allclose(image, file["reference"][index], atol=1e-5)
            same = simulate_slice(settings, sampled_lines(settings), index)
            np.testing.assert_allclose(image, same.reference, atol=1e-5)
        assert source.describe()["noise_readouts"] == 0


def test_noise_readouts_whiten_the_scan_and_leave_its_scale(tmp_path):
    settings = replace(SETTINGS, size=64, noise=0.05)
    simulate_mrd(tmp_path / "s.h5", settings)
    with open_source(tmp_path / "s.h5") as source, h5py.File(tmp_path / "s.h5") as file:
        assert source.read_noise(0) == pytest.approx(1)
        kspace = source.read_slice(0)
        truth = np.zeros((3, 128, 64), np.complex64)
        truth[:, 32:96] = file["s_maps"][0] * file["reference"][0]
        sampled = (kspace != 0).any(axis=(0, 1))
        noise = (kspace - centred_fft(truth))[:, :, sampled]
        # The truth is 20 times brighter than 0.05 would leave it, so that the noise is 1.
        assert noise.real.std() == pytest.approx(1, rel=0.03)
        assert noise.imag.std() == pytest.approx(1, rel=0.03)
        assert np.percentile(np.abs(file["reference"][0]), 99) == pytest.approx(20, rel=1e-3)
        np.testing.assert_array_equal(sampled, sampled_lines(settings))


def flags_of(readout):
    return {flag for flag in Flag if readout.has(flag)}


def test_readouts_carry_the_flags_the_time_and_the_place_that_a_scanner_gives_them(tmp_path):
    settings = replace(SETTINGS, size=64, acceleration=4.0)
    simulate_mrd(tmp_path / "s.h5", settings)
    with open_mrd(tmp_path / "s.h5") as file:
        readouts = list(file.readouts())
        header = file.header
    noise = [each for each in readouts if each.has(Flag.IS_NOISE_MEASUREMENT)]
    image = readouts[len(noise) :]
    assert len(noise) == 64
    assert not any(each.has(Flag.IS_NOISE_MEASUREMENT) for each in image)
    stamps = [int(each.header["acquisition_time_stamp"]) for each in readouts]
    assert (np.diff(stamps) == 4).all()
    lines = np.flatnonzero(sampled_lines(settings)).tolist()
    for number in range(2):
        of_slice = [each for each in image if each.header["idx"]["slice"] == number]
        assert [int(each.header["idx"]["kspace_encode_step_1"]) for each in of_slice] == lines
        calibration = {
            line: flags_of(each) & {Flag.IS_PARALLEL_CALIBRATION, Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING}
            for line, each in zip(lines, of_slice, strict=True)
        }
        # 5 of 64 lines at the centre, 32, of which 32 is one of every fourth.
        assert {line for line, flags in calibration.items() if flags} == {30, 31, 32, 33, 34}
        assert calibration[32] == {Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING}
        assert calibration[31] == {Flag.IS_PARALLEL_CALIBRATION}
        assert [each.has(Flag.LAST_IN_SLICE) for each in of_slice] == [False] * (len(lines) - 1) + [True]
    ends = {Flag.LAST_IN_SLICE, Flag.LAST_IN_REPETITION, Flag.LAST_IN_MEASUREMENT}
    assert ends <= flags_of(image[-1])
    assert not any(each.has(Flag.LAST_IN_MEASUREMENT) for each in image[:-1])
    directions = [image[0].header[name] for name in ("read_dir", "phase_dir", "slice_dir")]
    np.testing.assert_allclose(np.cross(directions[0], directions[1]), directions[2])
    places = np.array([each.header["position"] for each in (image[0], image[-1])])
    np.testing.assert_allclose(places[1] - places[0], 6 * directions[2])
    np.testing.assert_allclose(places.sum(axis=0), 0, atol=1e-6)
    encoding = header.encodings[0]
    assert (encoding.calibration_mode, encoding.acceleration) == ("embedded", (4, 1))
    assert (encoding.encoded.matrix_size, encoding.recon.matrix_size) == ((128, 64, 1), (64, 64, 1))


def test_the_ismrmrd_package_takes_the_header_by_its_schema(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    simulate_mrd(tmp_path / "s.h5", replace(SETTINGS, n_coils=70))
    with ismrmrd.Dataset(str(tmp_path / "s.h5"), mode="r") as dataset:
        header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        assert header.encoding[0].encodedSpace.matrixSize.x == 64
        assert header.encoding[0].parallelImaging.calibrationMode.value == "embedded"
        assert header.acquisitionSystemInformation.relativeReceiverNoiseBandwidth == 1
        readout = dataset.read_acquisition(64)
        assert readout.data.shape == (70, 64)
        assert all(readout.isChannelActive(channel) for channel in (0, 63, 64, 69))
        assert not readout.isChannelActive(70)


def test_the_c_library_s_own_program_reconstructs_the_file(tmp_path):
    program = shutil.which("ismrmrd_recon_cartesian_2d")
    if program is None:
        pytest.skip("ismrmrd_recon_cartesian_2d is not installed (Debian: ismrmrd-tools)")
    path = tmp_path / "s.h5"
    simulate_mrd(path, replace(SETTINGS, n_slices=1, acceleration=1, noise=0.0))
    subprocess.run([program, str(path)], check=True, capture_output=True)
    with h5py.File(path) as file:
        theirs, truth = file["dataset/cpp/data"][0, 0, 0].T, np.abs(file["reference"][0])
    scale = np.vdot(theirs, truth) / np.vdot(theirs, theirs)
    assert np.linalg.norm(scale * theirs - truth) < 1e-3 * np.linalg.norm(truth)


def test_recon_and_evaluate_take_the_file_and_its_maps(cli, tmp_path):
    path, out = tmp_path / "s.h5", tmp_path / "out.h5"
    options = ("--slices", 1, "--size", 64, "--coils", 4, "--undersample", 2)
    assert cli("simulate", "-o", path, "--format", "mrd", *options).code == 0
    assert cli("info", path).out.startswith("kind: k-space")
    for maps in ((), ("--maps", path)):
        done = cli("recon", path, "-o", out, "--method", "cg-sense", "--force", *maps)
        assert done.code == 0, done.err
        scored = cli("evaluate", out, "--reference", path)
        assert "times as bright" not in scored.err
        assert float(scored.out.splitlines()[1].split()[3]) > 25
    refused = cli("simulate", "-o", path, "--format", "dicom")
    assert (refused.code, "expected one of fastmri, mrd" in refused.error_line) == (2, True)
