"""The picture of a result: reference, zero-filled, reconstruction and error of several slices."""

import h5py
import numpy as np
import pytest

from sbim_deploy.kspace.sources import open_source
from sbim_deploy.pages import montage
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice


@pytest.fixture
def drawn(simulated, tmp_path, monkeypatch):
    """The rows and the caption that were drawn of a scan whose last slice is much darker."""
    scan = tmp_path / "k.h5"
    scan.write_bytes(simulated.read_bytes())
    with h5py.File(scan, "r+") as file:
        for name in ("kspace", "reference"):
            file[name][3] *= 0.25
    told = []
    monkeypatch.setattr(montage, "write_montage", lambda *given, **_: told.append(given))
    settings = ReconSettings(choice=SamplerChoice(steps=1), backend="onnxruntime")
    reconstruct_file(scan, tmp_path / "r.h5", settings)
    with open_source(scan) as source:
        montage.write_result_montage(tmp_path / "m.png", tmp_path / "r.h5", source)
        largest = max(float(np.abs(source.read_reference(index)).max()) for index in range(4))
    ((_, rows, caption),) = told
    return rows, caption, largest


def test_images_share_one_window_and_errors_another_which_is_said(drawn):
    rows, caption, largest = drawn
    assert len(rows) == 4
    for reference, zero_filled, image, error in rows:
        assert {each.window for each in (reference, zero_filled, image)} == {(0.0, largest)}
        assert error.window == pytest.approx((0.0, largest / 5))
        assert (error.title, error.colormap) == ("error x 5", "error")
        np.testing.assert_array_equal(error.image, np.abs(image.image - reference.image))
    assert "all slices in one window, all errors in one of 1/5 of it" in caption
