"""One factor for a scan, from its measured data, and one window."""

from __future__ import annotations

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.results.intensity import (
    HEAD_ROOM,
    Intensity,
    count_clipped,
    measured_magnitude,
    scan_full_scale,
    series_intensity,
)
from series_samples import stack
from simulated_mrd import make_scan, write_mrd


def vessels(size: int = 64) -> np.ndarray:
    """A dim disc with two pixels that are ten times as bright."""
    rows, columns = np.indices((size, size)) - size // 2
    image = (np.hypot(rows, columns) < 0.4 * size).astype(np.complex64)
    image[20, 30] = image[40, 25] = 10
    return image


@pytest.mark.parametrize("acceleration", [1.0, 2.0, 4.0, 8.0])
def test_fine_bright_structures_fit_whatever_was_left_out(acceleration):
    image = vessels()
    kspace = centred_fft(image[None] * np.array([0.6, 0.8j])[:, None, None]).astype(np.complex64)
    mask = line_mask(64, acceleration, calib_width=8) if acceleration > 1 else np.ones(64, bool)
    for given in (None, mask):
        found = measured_magnitude(kspace * mask, given, (64, 64)).max()
        assert np.abs(image).max() / HEAD_ROOM < found < HEAD_ROOM * np.abs(image).max()


def test_the_factor_is_the_scan_s_and_not_a_slice_s(tmp_path):
    made = make_scan(n_slices=3, n_repetitions=2, size=32)
    with open_source(write_mrd(tmp_path / "scan.h5", made)) as source:
        full_scale = scan_full_scale(source)
    # The second repetition is 1.2 times as bright.
    assert full_scale == pytest.approx(HEAD_ROOM * np.abs(made.images).max(), rel=1e-4)


def test_slices_that_cannot_be_read_do_not_count(tmp_path):
    made = make_scan(n_slices=2, size=32)
    for readout in made.readouts[32:]:
        readout.data[:] = np.nan
    with open_source(write_mrd(tmp_path / "scan.h5", made)) as source:
        assert scan_full_scale(source) == pytest.approx(HEAD_ROOM * np.abs(made.images[0, 0]).max(), rel=1e-4)
    for readout in made.readouts:
        readout.data[:] = np.nan
    with open_source(write_mrd(tmp_path / "none.h5", made)) as source:
        assert scan_full_scale(source) is None


def test_one_window_ends_where_a_few_bright_pixels_of_all_series_begin():
    volume = np.full((4, 24, 21), 2.0, np.float32)
    volume[0, 0, 0] = 100
    series = [stack(volume=volume), stack(number=2, volume=volume / 2)]
    assert series_intensity(series) == Intensity(100.0, 2.0)
    assert series_intensity(series, 50.0) == Intensity(50.0, 2.0)
    assert series_intensity(series, 1.0) == Intensity(1.0, 1.0)
    assert count_clipped(series, Intensity(30.0, 2.0)) == 2
    assert series_intensity([stack(volume=0 * volume)]) == Intensity(1.0, 1.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, float("nan"), float("inf")])
def test_a_scale_is_a_magnitude(scale):
    with pytest.raises(InputError, match="expected a number from 1e-30 to 1e"):
        Intensity(scale, 1.0)
