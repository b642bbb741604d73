"""A scan with few calibration lines is told why, and a sound one is not."""

from __future__ import annotations

import numpy as np
import pytest

from sbim_deploy.mri.calibration_faults import why_few_lines
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase

SHAPE = (64, 96)
MASK = line_mask(SHAPE[1], 4, calib_width=12)[None]


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    image = shepp_logan(SHAPE) * smooth_phase(SHAPE, np.random.default_rng(5))
    return centred_fft(birdcage_maps(4, SHAPE) * image).astype(np.complex64)


@pytest.mark.parametrize("shift", [-10, 10])
def test_a_centre_that_is_not_where_the_energy_is(kspace, shift):
    moved, mask = np.roll(kspace * MASK, shift, axis=-1), np.roll(MASK, shift, axis=-1)
    why = why_few_lines(moved, mask)
    assert f"peaks at column {48 + shift}" in why
    assert "the centre is column 48" in why
    assert f"shifted by {shift}" in why
    turned = why_few_lines(moved.transpose(0, 2, 1), mask.T)
    assert f"peaks at row {48 + shift}" in turned


def test_a_block_in_both_directions_that_is_not_at_the_centre(kspace):
    mask = np.random.default_rng(1).random(SHAPE) < 0.2
    mask[24:40, 40:56] = True
    assert why_few_lines(kspace * mask, mask) == ""
    moved = np.roll(mask, 9, axis=0)
    assert "peaks at row 41" in why_few_lines(np.roll(kspace * mask, 9, axis=1), moved)


def test_a_mask_that_was_shifted_against_its_k_space(kspace):
    why = why_few_lines(kspace, np.roll(MASK, 20, axis=-1))
    assert "12 side by side, column 62 to 73" in why
    assert "the mask is shifted" in why


def test_a_scan_without_such_lines(kspace):
    lattice = (np.arange(96) % 4 == 0)[None]
    assert why_few_lines(kspace * lattice, lattice) == ", for nowhere are more than 1 sampled side by side"


@pytest.mark.parametrize("width", [4, 6, 12])
def test_a_sound_scan_has_no_such_cause(kspace, width):
    for pattern in ("equispaced", "random"):
        for acceleration in (2, 4):
            mask = line_mask(96, acceleration, pattern, width)[None]
            assert why_few_lines(kspace * mask, mask) == ""
    partial = np.ones((1, 96), bool)
    partial[:, :46] = False
    assert why_few_lines(kspace * partial, partial) == ""


def test_long_runs_of_a_random_mask_are_no_shifted_block(kspace):
    for seed in range(20):
        mask = np.random.default_rng(seed).random((1, 96)) < 0.5
        mask[0, 46:51] = [True, False, True, False, True]
        assert "shifted" not in why_few_lines(kspace * mask, mask)
