import numpy as np
import pytest

from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.training import brains as acquisition
from sbim_deploy.training.brains import acquire, random_phase, random_shading
from sbim_deploy.training.fields import Grid

GRID = Grid((192, 192), 1.25)
SHAPE = (128, 128)


@pytest.fixture
def box():
    image = np.zeros((192, 192), np.complex64)
    image[48:144, 48:144] = 1
    return image


def set_shares(monkeypatch, full=1.0, unfiltered=1.0, elliptic=0.0):
    monkeypatch.setattr(acquisition, "FULL_MATRIX_SHARE", full)
    monkeypatch.setattr(acquisition, "UNFILTERED_SHARE", unfiltered)
    monkeypatch.setattr(acquisition, "ELLIPTIC_SHARE", elliptic)


def test_an_unfiltered_edge_overshoots_as_gibbs_said(box, monkeypatch):
    set_shares(monkeypatch)
    image = np.abs(acquire(np.random.default_rng(0), box, SHAPE)) * 2 / 3
    inside = image / np.median(image[60:68, 60:68])
    assert inside.shape == SHAPE
    assert 1.03 < inside[64].max() < 1.2


def test_a_window_rings_less(box, monkeypatch):
    set_shares(monkeypatch)
    plain = acquire(np.random.default_rng(0), box, SHAPE)
    set_shares(monkeypatch, unfiltered=0.0)
    filtered = acquire(np.random.default_rng(0), box, SHAPE)
    overshoot = [np.abs(image[64]).max() / np.abs(image[64, 64]) for image in (plain, filtered)]
    assert overshoot[1] < overshoot[0]


def test_a_smaller_matrix_leaves_the_outer_lines_empty(box, monkeypatch):
    set_shares(monkeypatch, full=0.0)
    kspace = centred_fft(acquire(np.random.default_rng(0), box, SHAPE))
    energy = np.abs(kspace) ** 2
    assert energy[:2].sum() < 1e-9 * energy.sum()
    assert energy[64 - 40 : 64 + 40, 64 - 40 : 64 + 40].sum() > 0.95 * energy.sum()


def test_an_ellipse_leaves_the_corners_empty(box, monkeypatch):
    set_shares(monkeypatch, elliptic=1.0)
    noise = np.random.default_rng(1).standard_normal(box.shape).astype(np.complex64)
    energy = np.abs(centred_fft(acquire(np.random.default_rng(0), noise, SHAPE))) ** 2
    assert energy[:16, :16].max() < 1e-9 * energy.max()
    assert energy[:16, 60:68].max() > 1e-3 * energy.max()


def test_what_is_acquired_has_the_shape_asked_for():
    noise = np.random.default_rng(1).standard_normal((240, 192))
    assert acquire(np.random.default_rng(0), noise, (160, 128)).shape == (160, 128)


def test_shading_is_slow_and_ends_with_the_field_of_view():
    for seed in range(10):
        shading = random_shading(np.random.default_rng(seed), GRID)
        assert shading.min() >= 0
        assert shading[:2].max() < 0.1
        middle = np.log(shading[20:-20, 20:-20])
        assert np.abs(np.diff(middle, axis=0)).max() < 0.05
        assert 0.02 < middle.std() < 1


def test_phases_are_smooth_and_now_and_then_steep():
    down, across = np.meshgrid(GRID.rows, GRID.columns, indexing="ij")
    points = np.stack([np.zeros_like(down), across, -down])
    slopes = np.array(
        [
            np.abs(np.diff(random_phase(np.random.default_rng(seed), points, GRID), axis=0)).max()
            for seed in range(60)
        ]
    )
    assert slopes.max() < 0.6
    assert 0.1 < np.mean(slopes > 0.1) < 0.8
