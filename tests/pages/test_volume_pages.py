"""What is shown of a volume: the reference beside its k-space, and the error, as slices along the readout."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.pages import montage
from sbim_deploy.pages.report import write_report
from sbim_deploy.recon.classical import Classical
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from volume_scans import make_volume, plane_mask, write_h5_volume

SHAPE = (16, 32, 24)


@pytest.fixture(scope="module")
def scan():
    return make_volume(SHAPE)


@pytest.fixture(scope="module")
def path(scan, tmp_path_factory):
    """A scan with its reference beside it, which is zero in the outermost slices along the readout."""
    folder = tmp_path_factory.mktemp("volume")
    kspace = scan.kspace * plane_mask(SHAPE)[:, None, :]
    beside = {"reference": scan.image, "s_maps": scan.maps.swapaxes(0, 1)}
    return write_h5_volume(folder / "scan.h5", kspace, coils_first=False, **beside)


def result_of(path, **settings):
    out = path.with_name("result.h5")
    recon = ReconSettings(method=Classical.CG_SENSE, dimensions=3, maps=path, noise=0.002, force=True)
    reconstruct_file(path, out, replace(recon, **settings))
    return out


@pytest.mark.parametrize("orientation", [Orientation.PLAIN, Orientation.TURNED])
def test_a_picture_shows_the_reference_and_the_error_of_slices_that_hold_some_object(
    path, scan, tmp_path, monkeypatch, orientation
):
    result = result_of(path, orientation=orientation)
    drawn = []
    monkeypatch.setattr(montage, "write_montage", lambda *given, **_: drawn.append(given))
    with open_volume(path, tmp_path, orientation=orientation) as source:
        montage.write_result_montage(tmp_path / "m.png", result, source)
    ((_, rows, caption),) = drawn
    assert "all errors in one" in caption
    truth = np.abs(scan.image).swapaxes(0, 1)
    if orientation is Orientation.TURNED:  # about voxel n // 2 of each axis
        truth = np.roll(truth[::-1, ::-1, ::-1], 1, (0, 1, 2))
    numbers = [int(row[0].note.removeprefix("slice ")) for row in rows]
    empty = np.flatnonzero(~truth.any(axis=(1, 2)))
    assert len(empty)
    assert len(numbers) == 4
    assert not set(numbers) & set(empty)
    for index, (reference, _, image, error) in zip(numbers, rows, strict=True):
        np.testing.assert_array_equal(reference.image, truth[index])
        np.testing.assert_array_equal(error.image, np.abs(image.image - truth[index]))
    assert np.linalg.norm([row[3].image for row in rows]) < 0.2 * np.linalg.norm(truth[numbers])


def test_a_page_shows_the_reference_and_says_where_it_is_zero(path, tmp_path):
    result = result_of(path)
    with open_volume(path, tmp_path) as source:
        write_report(tmp_path / "page.html", result, source=source)
    page = (tmp_path / "page.html").read_text()
    assert len(re.findall(r'alt="reference, slice \d+', page)) == 12
    assert len(re.findall(r'alt="error, slice \d+', page)) == 12
    assert "the reference is zero" in page
    assert re.search(r"\d+\.\d dB, SSIM 0\.\d{3}", page)
