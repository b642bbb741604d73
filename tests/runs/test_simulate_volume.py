import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mri.fourier import centred_ifft
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.simulate_volume import (
    SimulateVolumeSettings,
    head_magnitude,
    simulate_volume,
    volume_magnitude,
)

SMALL = SimulateVolumeSettings(size=32, n_partitions=24, n_coils=3, noise=0.0)


def test_k_space_is_that_of_the_truth_seen_by_the_maps(tmp_path):
    path = tmp_path / "scan.h5"
    settings = SimulateVolumeSettings(32, 24, 3, 1, "equispaced", noise=0.0)
    assert simulate_volume(path, settings) == 1
    with h5py.File(path) as file:
        kspace, maps, truth = (file[name][()] for name in ("kspace", "s_maps", "reference"))
        assert kspace.shape == (24, 3, 32, 32)
    coils = np.moveaxis(centred_ifft(np.moveaxis(kspace, 1, 0), (1, 2, 3)), 0, 1)
    np.testing.assert_allclose(coils, maps * truth[:, None], atol=1e-5)
    assert np.isclose(np.percentile(np.abs(truth), 99), 1, atol=1e-3)


@pytest.mark.parametrize("pattern", ["poisson", "caipirinha", "equispaced", "random"])
def test_what_is_not_sampled_is_zero_and_the_mask_says_so(tmp_path, pattern):
    path = tmp_path / "scan.h5"
    settings = SimulateVolumeSettings(32, 24, 3, 4, pattern, elliptic=True, noise=0.01)
    effective = simulate_volume(path, settings)
    with h5py.File(path) as file:
        mask = file["mask"][()]
        sampled = (file["kspace"][()] != 0).any(axis=(1, 2))
    np.testing.assert_array_equal(sampled, mask[:, 0])
    assert 3.5 < effective < 6
    assert not mask[0, 0, :6].any()


def test_the_noise_is_what_was_asked_for(tmp_path):
    paths = [tmp_path / name for name in ("quiet.h5", "noisy.h5")]
    for path, noise in zip(paths, (0.0, 0.05), strict=True):
        simulate_volume(path, SimulateVolumeSettings(32, 24, 3, 4, noise=noise))
    quiet, noisy = (h5py.File(path)["kspace"][()] for path in paths)
    difference = (noisy - quiet)[quiet != 0]
    assert np.isclose(difference.real.std(), 0.05, rtol=0.03)
    assert np.isclose(difference.imag.std(), 0.05, rtol=0.03)


def test_the_head_is_upright_from_below_to_above():
    head = head_magnitude((40, 40, 40))
    middle = head[20]
    assert middle[20, 20] > 0.3 * head.max()
    rows, columns = (np.flatnonzero((middle > 0.1 * head.max()).any(axis=axis)) for axis in (1, 0))
    assert rows.size > columns.size  # a head is longer than wide
    widths = [(head[at] > 0.1 * head.max()).any(axis=0).sum() for at in (20, 30)]
    assert widths[0] > widths[1]  # and narrows to the top


def test_beside_the_head_there_is_nothing_that_its_low_pass_left():
    head = head_magnitude((64, 32, 32))
    assert not head[:4].any()
    peaks = head.max(axis=(1, 2))
    assert peaks[peaks > 0].min() > 1e-3 * peaks.max()


def test_info_and_recon_read_what_was_simulated(tmp_path):
    path = tmp_path / "scan.h5"
    simulate_volume(path, SMALL)
    assert describe(path)["slices"] == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 8}, "size is 8"),
        ({"n_partitions": 600}, "partitions is 600"),
        ({"acceleration": 0}, "acceleration is 0"),
        ({"acceleration": 31}, "with more factors"),
        ({"pattern": "spiral"}, "unknown pattern of a 3-D scan 'spiral'"),
    ],
)
def test_settings_that_make_no_scan_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        SimulateVolumeSettings(**{"size": 32, "n_partitions": 24, **changes})


def test_a_nifti_volume_lies_along_the_axes_of_the_head_that_ships(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.full((20, 24, 30), -1, np.float32)  # right, anterior, superior
    volume[3:6, 15:18, 24:27] = 5
    path = tmp_path / "block.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    found = volume_magnitude(path, (32, 24, 32))
    assert found.shape == (32, 24, 32)
    assert found.min() == 0
    assert found.max() > 3
    # A cube of 1.08 x 60 mm has the volume in its middle: what is superior, anterior and left of it.
    place = [
        np.average(np.arange(n), weights=found.sum(axis=other))
        for n, other in zip(found.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
    ]
    voxels = [64 / n for n in found.shape]
    expected = [(25 - 15) * 2, -(16 - 12) * 2, (10 - 4) * 2]
    for at, n, voxel, millimetres in zip(place, found.shape, voxels, expected, strict=True):
        assert (at - n // 2) * voxel == pytest.approx(millimetres, abs=2.5)


def test_a_nifti_volume_of_nothing_is_refused(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / "empty.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 16, 16), np.float32), np.eye(4)), path)
    with pytest.raises(InputError, match="nothing is in the volume"):
        volume_magnitude(path, (16, 16, 16))
