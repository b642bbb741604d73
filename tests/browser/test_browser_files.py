"""The page reads fastMRI's and MRD's files as Python does, and says what is wrong with others."""

import h5py
import numpy as np
import pytest
from browser_scans import HEADER, distance, lines, scan, write_fastmri

from sbim_deploy.kspace.sources import open_source
from sbim_deploy.recon.prepare import prepare_slice
from simulated_mrd import make_scan, write_mrd

TOLERANCE = 6e-3  # of maps in single precision: see in_double in test_browser_preparation.py


def check(got, path, index=0):
    """Compare what was read and prepared with what Python makes of the file."""
    assert "error" not in got.told, got.told
    with open_source(path) as source:
        calibration = source.read_calibration(index)
        problem = prepare_slice(
            source.read_slice(index),
            index,
            source.mask,
            image_shape=source.recon_shape,
            calibration=calibration,
            noise=source.read_noise(index),
            noise_source="noise readouts",
        )
        assert got.told["nSlices"] == source.n_slices
    np.testing.assert_array_equal(got.mask, problem.mask)
    assert distance(got.complex("kspace"), problem.kspace) < 1e-5
    assert got.told["mapSource"] == problem.map_source
    assert got.told["noiseSource"] == problem.noise_source
    assert tuple(got.told["imageShape"]) == problem.image_shape
    assert got.told["noise"] == pytest.approx(problem.noise, rel=1e-3)
    assert got.told["scale"] == pytest.approx(problem.scale, rel=TOLERANCE)
    assert distance(got.complex("mvue"), problem.mvue) < TOLERANCE


@pytest.mark.slow
def test_fastmri_slice_with_mask_and_oversampled_readout(stages, built_page, tmp_path):
    kspace = np.stack([scan((96, 40), 4), scan((96, 40), 4, noise=0.02)])
    mask = lines(40, 2, 10)[0]
    header = HEADER.format(96, 40, 480, 200, 48, 40, 240, 200)
    path = write_fastmri(tmp_path / "scan.h5", kspace, mask=mask, ismrmrd_header=header)
    check(stages(path, 1, page=built_page), path, 1)


@pytest.mark.slow
def test_fastmri_slice_that_is_padded_to_finer_pixels(stages, built_page, tmp_path):
    header = HEADER.format(64, 48, 320, 240, 64, 60, 320, 240)
    kspace = scan((64, 48), 4, lines(48, 2, 12))[None]
    path = write_fastmri(tmp_path / "scan.h5", kspace.astype(np.complex128), ismrmrd_header=header)
    check(stages(path, page=built_page), path)


MRD_SCANS = {
    "two slices": {"n_slices": 2, "size": 48, "acceleration": 2, "calib_width": 10, "noise": 0.01},
    "noise readouts": {
        "size": 48,
        "noise": 0.01,
        "noise_mixing": np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0.2j, 2, 0], [0, 0, 0, 0.5]]),
        "n_noise_readouts": 8,
        "noise_dwell_us": 4.0,
        "acceleration": 2,
        "calib_width": 12,
        "n_averages": 2,
    },
    "separate calibration": {
        "size": 48,
        "acceleration": 3,
        "calib_width": 16,
        "calibration_mode": "separate",
        "noise": 0.01,
    },
    "reversed and short readouts": {
        "size": 48,
        "acceleration": 2,
        "calib_width": 12,
        "reversed_lines": True,
        "skipped_samples": 10,
        "discarded": 2,
        "noise": 0.01,
    },
    "repetitions": {
        "size": 48,
        "n_repetitions": 2,
        "acceleration": 3,
        "calib_width": 0,
        "shifted": True,
        "noise": 0.01,
        "calibration_mode": "embedded",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MRD_SCANS)
def test_mrd_slice(case, stages, built_page, tmp_path):
    settings = {**MRD_SCANS[case]}
    if case == "repetitions":
        settings["calib_width"] = 10
    made = make_scan(**settings)
    path = write_mrd(tmp_path / "scan.h5", made)
    with open_source(path) as source:
        last = source.n_slices - 1
    check(stages(path, last, page=built_page), path, last)


def refused(stages, path, page=None):
    got = stages(path) if page is None else stages(path, page=page)
    (message,) = got.told.values()
    assert "\n" not in message
    return message


@pytest.mark.slow
def test_wrong_files_are_named_in_a_sentence(stages, built_page, tmp_path):
    def saved(array, name="wrong.npy"):
        np.save(tmp_path / name, array)
        return tmp_path / name

    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(40))
    assert "photo.jpg is none of them, expected fastMRI" in refused(stages, tmp_path / "photo.jpg")
    (tmp_path / "empty.h5").write_bytes(b"")
    assert "empty.h5 is an empty file" in refused(stages, tmp_path / "empty.h5")
    real = refused(stages, saved(np.ones((4, 32, 32), np.float32)))
    assert "has dtype <f4, expected complex64 or complex128" in real
    assert "has shape 5, expected (coils, rows, columns)" in refused(stages, saved(np.ones(5, np.complex64)))
    cut = saved(np.ones((4, 32, 32), np.complex64))
    cut.write_bytes(cut.read_bytes()[:-100])
    assert "it is cut off, copy it again" in refused(stages, cut)
    image = np.fft.ifft2(scan((64, 64), 4)).astype(np.complex64)
    assert "spread over rows and columns as in an image" in refused(stages, saved(image))
    assert "k-space is zero everywhere" in refused(stages, saved(np.zeros((4, 32, 32), np.complex64)))
    bad = scan((64, 64), 4)
    bad[0, 3, 3] = np.nan
    assert "k-space has 1 parts that are not finite" in refused(stages, saved(bad))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.ones((2, 2))
    other = refused(stages, tmp_path / "other.h5", built_page)
    assert "holds images, expected 'kspace' of a fastMRI file or 'dataset/data' of an MRD file" in other
    real = refused(stages, write_fastmri(tmp_path / "real.h5", np.ones((1, 2, 32, 32))), built_page)
    assert "'kspace' is not of complex numbers" in real
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes((tmp_path / "real.h5").read_bytes()[:600])
    assert "is damaged HDF5, or cut off" in refused(stages, damaged, built_page)
