import numpy as np
import pytest
import scipy.ndimage

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_crop, centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.mri.support import data_misfit, object_support


def simulate(magnitude, noise=0.01, n_coils=8):
    rng = np.random.default_rng(0)
    maps = birdcage_maps(n_coils, magnitude.shape)
    kspace = centred_fft(maps * magnitude * smooth_phase(magnitude.shape, rng))
    kspace += noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return maps, kspace.astype(np.complex64)


def make_mask(kind, shape):
    if kind == "both":
        mask = np.random.default_rng(1).random(shape) < 0.3
        centre_crop(mask, (12, 12))[:] = True
        return mask
    n = shape[kind == "columns"]
    lines = line_mask(n, 3, calib_width=8)
    return lines[None] if kind == "columns" else lines[:, None]


@pytest.mark.parametrize("shape", [(128, 128), (91, 60), (48, 110)])
@pytest.mark.parametrize("kind", ["columns", "rows", "both"])
def test_the_support_holds_the_object_and_little_else(shape, kind):
    head = shepp_logan(shape)
    maps, kspace = simulate(head)
    mask = make_mask(kind, shape)
    support = object_support(kspace * mask, mask, maps)
    assert support.shape == shape
    assert support[head > 0].all()
    filled = scipy.ndimage.binary_fill_holes(head > 0)
    assert support[filled].all()
    assert support[~filled].mean() < 0.75
    assert not support[0, 0]


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_neither_the_support_nor_the_misfit_depends_on_the_unit(unit):
    maps, kspace = simulate(shepp_logan((64, 64)))
    mask = line_mask(64, 3, calib_width=8)[None]
    scaled = (kspace * mask * unit).astype(np.complex64)
    assert (object_support(scaled, mask, maps) == object_support(kspace * mask, mask, maps)).all()
    assert data_misfit(scaled, mask, maps) == pytest.approx(data_misfit(kspace * mask, mask, maps), rel=1e-2)


def test_an_object_that_fills_the_field_of_view_is_kept_whole():
    maps, kspace = simulate(np.ones((64, 64), np.float32))
    mask = line_mask(64, 2, calib_width=8)[None]
    assert object_support(kspace * mask, mask, maps).all()


def test_a_dim_part_that_the_samples_need_is_kept():
    head = shepp_logan((64, 64))
    head[3:8] = 0.06
    maps, kspace = simulate(head, noise=0.002)
    mask = line_mask(64, 2, calib_width=8)[None]
    assert object_support(kspace * mask, mask, maps)[3:8].all()


def test_wrong_maps_do_not_explain_the_samples():
    maps, kspace = simulate(shepp_logan((64, 64)))
    mask = line_mask(64, 2, calib_width=8)[None]
    right = data_misfit(kspace * mask, mask, maps)
    assert data_misfit(kspace * mask, mask, np.roll(maps, 8, axis=1)) > 2 * right


def test_no_samples_have_no_misfit():
    maps = birdcage_maps(2, (16, 16))
    assert data_misfit(np.zeros((2, 16, 16), np.complex64), np.ones((1, 16), bool), maps) == 0


@pytest.mark.parametrize("seed", range(3))
def test_samples_of_every_line_are_solved_for_without_an_underflow(seed):
    rng = np.random.default_rng(seed)
    maps, kspace = simulate(shepp_logan((32, 32)), noise=0)
    maps = maps * (0.99 + 0.01 * rng.random(maps.shape)).astype(np.float32)
    with np.errstate(all="raise"):
        assert data_misfit(kspace, np.ones((1, 32), bool), maps) < 1e-2
