"""Siemens twix files of 3-D scans: the same volume as the scan's MRD file gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from twix_samples import POSITION, Line, Scan, write_twix
from volume_scans import make_volume, plane_mask, write_mrd_volume

pytest.importorskip("twixtools")

SHAPE = (16, 32, 24)  # partitions, readout, lines
SLICE = "sSliceArray.asSlice[0]."
PROTOCOL = {
    "sKSpace.ucDimension": "0x4",
    "sKSpace.lBaseResolution": 16,
    "sKSpace.lPhaseEncodingLines": 24,
    "sKSpace.lPartitions": 16,
    "sKSpace.lImagesPerSlab": 16,
    f"{SLICE}dReadoutFOV": 16.0,
    f"{SLICE}dPhaseFOV": 24.0,
    f"{SLICE}dThickness": 32.0,
}


@pytest.fixture(scope="module")
def scan():
    return make_volume(SHAPE)


@pytest.fixture(scope="module")
def mask():
    mask = plane_mask(SHAPE)
    mask[:3] = False  # partial Fourier along the partitions
    return mask


@pytest.fixture(scope="module")
def mrd(scan, mask, tmp_path_factory):
    """The scan as MRD, its readout oversampled twice, phase encoding along x and readout along y."""
    return write_mrd_volume(
        tmp_path_factory.mktemp("mrd") / "scan.h5",
        scan,
        mask,
        directions=((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
        position=POSITION,
        recon=(16, 24, 16),
    )


def lines_of(scan, mask, first_partition=0, **same):
    """The lines of a mask; partitions count from the first that is measured, as partial Fourier does."""
    return [
        Line(
            scan.kspace[:, partition, :, line].conj(),
            counters={"Lin": int(line), "Par": int(partition) - first_partition},
            center_sample=16,
            center_line=12,
            center_partition=8 - first_partition,
            **same,
        )
        for partition, line in np.argwhere(mask)
    ]


def read(path, folder):
    with open_volume(path, folder) as source:
        slices = np.stack([source.read_slice(index) for index in range(source.n_slices)])
        return slices, [source.geometry(index) for index in (0, 5)], source.voxel_mm, source.describe()


@pytest.mark.parametrize("first_partition", [0, 3])
@pytest.mark.parametrize("vb", [False, True])
def test_a_slab_is_the_volume_that_its_mrd_file_is(scan, mask, mrd, tmp_path, vb, first_partition):
    path = write_twix(tmp_path / "scan.dat", Scan(lines_of(scan, mask, first_partition), PROTOCOL), vb=vb)
    found, places, voxel, told = read(path, tmp_path)
    expected, their_places, their_voxel, _ = read(mrd, tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    assert voxel == pytest.approx(their_voxel)
    for ours, theirs in zip(places, their_places, strict=True):
        for name, value in vars(theirs).items():
            np.testing.assert_allclose(getattr(ours, name), value, atol=1e-5)
    assert (told["partitions"], told["partitions_measured"]) == (16, 10)


def test_recon_makes_the_same_images_of_both(scan, mask, mrd, tmp_path):
    path = write_twix(tmp_path / "scan.dat", Scan(lines_of(scan, mask), PROTOCOL))
    images = []
    for number, each in enumerate((path, mrd)):
        out = tmp_path / f"{number}.h5"
        settings = ReconSettings(method=Classical.CG_SENSE, dimensions=3, slices=(6, 9))
        reconstruct_file(each, out, settings)
        with open_result(out) as result:
            images.append(np.stack([result.read_image(index) for index in range(3)]))
    np.testing.assert_allclose(images[0], images[1], atol=1e-5 * np.abs(images[1]).max())


def test_partitions_beyond_the_slab_are_cut_away_and_finer_ones_are_interpolated(scan, mask, tmp_path):
    lines = lines_of(scan, mask)
    # 16 partitions of 2 mm: 12 images of 2 mm and a third more partitions, or 32 of half the resolution.
    cut = {"sKSpace.lImagesPerSlab": 12, "sKSpace.dSliceOversamplingForDialog": 1 / 3}
    finer = {"sKSpace.lImagesPerSlab": 32, "sKSpace.dSliceResolution": 0.5}
    for more, n_partitions, thickness, voxel in ((cut, 12, 24.0, 2.0), (finer, 32, 32.0, 1.0)):
        protocol = PROTOCOL | more | {f"{SLICE}dThickness": thickness}
        path = write_twix(tmp_path / "scan.dat", Scan(lines, protocol))
        with open_volume(path, tmp_path) as source:
            assert source.recon_shape == (n_partitions, 24)
            assert source.voxel_mm[0] == pytest.approx(voxel)


def test_a_calibration_scan_of_its_own_is_read_apart(scan, mask, tmp_path):
    block = np.zeros_like(mask)
    block[4:12, 8:16] = True
    reference = [replace(line, flags=("PATREFSCAN",)) for line in lines_of(scan, block)]
    protocol = PROTOCOL | {"sPat.ucRefScanMode": "0x4", "sPat.lAccelFactPE": 2}
    path = write_twix(tmp_path / "scan.dat", Scan([*reference, *lines_of(scan, mask)], protocol))
    with open_volume(path, tmp_path) as source:
        calibration = source.read_calibration(8)
        assert calibration is not None
        np.testing.assert_array_equal(calibration.any(axis=0), block)
