"""Trajectories: what they resolve, and the areas of their samples, against those that geometry gives."""

import numpy as np
import pytest

from sbim_deploy.mri.trajectories import (
    GOLDEN,
    RADIAL,
    SPIRAL,
    TRAJECTORIES,
    full_readouts,
    grid_coverage,
    make_trajectory,
    sample_areas,
)

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")


@pytest.mark.parametrize("kind", TRAJECTORIES)
@pytest.mark.parametrize("size", [32, 33])
def test_a_trajectory_goes_from_the_centre_to_what_the_pixels_resolve(kind, size):
    places = make_trajectory(kind, size, 5)
    radius = np.hypot(*np.moveaxis(places, -1, 0))
    assert radius.min() < 0.5
    assert size / 2 - 1 < radius.max() <= size / 2
    assert np.hypot(*np.moveaxis(np.diff(places, axis=1), -1, 0)).max() < 0.75


def test_golden_spokes_turn_by_the_golden_angle():
    places = make_trajectory(GOLDEN, 32, 4)
    angles = np.degrees(np.arctan2(places[:, -1, 1], places[:, -1, 0]))
    np.testing.assert_allclose(np.diff(angles) % 360, 111.246, atol=1e-2)


def test_areas_of_a_full_radial_scan_grow_with_the_radius():
    size = 32
    n = 2 * full_readouts(RADIAL, size)
    areas = sample_areas(make_trajectory(RADIAL, size, n), np.ones((n, 1), bool), (size, size))
    radius = np.abs(np.arange(2 * size) - size) / 2
    # A ring of width 1/2 at radius r is shared by 2 n samples.
    expected = np.pi * radius / 2 / n
    inner = (radius > 2) & (radius < 12)
    np.testing.assert_allclose(areas.mean(axis=0)[inner], expected[inner], rtol=0.1)


def test_a_sample_that_lies_alone_counts_as_one_of_a_grid():
    places = np.array([[[0, 0], [8, 0], [-8, 4]]], np.float32)
    areas = sample_areas(places, np.ones((1, 3), bool), (32, 32))
    np.testing.assert_allclose(areas, 1, atol=0.05)


def test_a_sample_that_was_not_measured_has_no_area_and_leaves_its_own_to_others():
    places = np.array([[[3, 2], [3, 2]]], np.float32)
    np.testing.assert_allclose(sample_areas(places, np.ones((1, 2), bool), (16, 16)), 0.5, atol=1e-3)
    np.testing.assert_allclose(sample_areas(places, np.array([[True, False]]), (16, 16)), [[1, 0]], atol=1e-3)


def test_spokes_cover_the_centre_and_not_the_corners():
    places = make_trajectory(GOLDEN, 32, 12)
    mask = np.ones((12, 1), bool)
    covered = grid_coverage(places, sample_areas(places, mask, (32, 32)), (32, 32))
    assert covered[15:18, 15:18].min() > 0.9
    assert abs(covered[0, 0]) < 0.1


def test_fewer_spirals_leave_no_gap_in_the_centre():
    places = make_trajectory(SPIRAL, 64, 4)
    covered = grid_coverage(places, sample_areas(places, np.ones((4, 1), bool), (64, 64)), (64, 64))
    assert covered[27:38, 27:38].min() > 0.7
    assert covered[32, 50:].min() < 0.7


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="expected one of radial, golden, spiral"):
        make_trajectory("rosette", 32, 4)
