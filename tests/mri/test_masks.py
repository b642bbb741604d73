import numpy as np
import pytest

from sbim_deploy.mri.masks import (
    calibration_block,
    compact_mask,
    effective_acceleration,
    line_mask,
    published_calib_width,
    sampled_mask,
)


@pytest.mark.parametrize(("acceleration", "effective"), [(4, 3.23), (8, 6.19), (12, 8.35)])
@pytest.mark.parametrize("pattern", ["equispaced", "random"])
def test_effective_acceleration_at_384_lines_is_the_published_one(acceleration, effective, pattern):
    mask = line_mask(384, acceleration, pattern)
    assert effective_acceleration(mask) == pytest.approx(effective, abs=0.005)


def test_the_centre_is_sampled_in_full_and_every_rth_line_outside():
    mask = line_mask(128, 4)
    width = published_calib_width(128, 4)
    assert width == 10
    assert mask[64 - 5 : 64 + 5].all()
    outside = np.delete(mask, np.arange(59, 69))
    np.testing.assert_array_equal(np.flatnonzero(outside), np.arange(0, 118, 4))


@pytest.mark.parametrize("n", [128, 320, 384, 129])
@pytest.mark.parametrize("acceleration", [2, 3, 4, 6, 8, 12])
def test_the_published_convention_begins_the_centre_at_half_of_what_is_left(n, acceleration):
    width = int((0.08 if acceleration <= 6 else 0.04) * n)
    for convention, start in (("published", (n - width) // 2), ("centred", n // 2 - width // 2)):
        expected = np.zeros(n, dtype=bool)
        outside = np.delete(np.arange(n), np.arange(start, start + width))
        expected[outside[::acceleration]] = True
        expected[start : start + width] = True
        np.testing.assert_array_equal(line_mask(n, acceleration, convention=convention), expected)


def test_the_conventions_differ_by_two_lines_where_an_odd_centre_does_not_meet_a_sampled_line():
    differ = {
        (n, r): np.count_nonzero(line_mask(n, r) != line_mask(n, r, convention="published"))
        for n in (128, 320, 384)
        for r in (2, 4, 6, 8, 12)
    }
    unlike = {(320, 2), (320, 4), (320, 6), (384, 12), (128, 8), (128, 12)}
    assert differ == {setting: 2 if setting in unlike else 0 for setting in differ}


def test_random_lines_follow_the_seed():
    first, again, other = (line_mask(128, 4, "random", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.sum() == other.sum()


def test_acceleration_of_one_samples_everything():
    assert line_mask(33, 1).all()


@pytest.mark.parametrize(
    "arguments", [{"acceleration": 0.5}, {"acceleration": 65}, {"pattern": "spiral"}, {"convention": "left"}]
)
def test_impossible_masks_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        line_mask(64, **{"acceleration": 4, **arguments})


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("width", [0, 1, 4, 5])
def test_the_calibration_block_of_lines_is_the_centre(n, width):
    mask = np.zeros((1, n), dtype=bool)
    mask[0, n // 2 - width // 2 : n // 2 - width // 2 + width] = True
    rows, columns = calibration_block(mask, (12, n))
    if width == 0:
        assert columns == slice(0, 0)
    else:
        assert (rows.stop - rows.start, columns.stop - columns.start) == (12, width)
        assert columns.start == n // 2 - width // 2


def test_the_calibration_block_in_both_directions_grows_from_the_centre():
    mask = np.random.default_rng(0).random((32, 24)) < 0.3
    mask[12:20, 9:15] = True
    mask[11, :] = mask[20, :] = False
    rows, columns = calibration_block(mask, (32, 24))
    assert mask[rows, columns].all()
    assert (rows, columns) == (slice(12, 20), slice(9, 15))


@pytest.mark.parametrize(("shape", "block"), [((64, 64), (8, 24)), ((65, 41), (24, 6)), ((32, 96), (20, 12))])
def test_the_calibration_block_has_its_own_proportions_not_the_grids(shape, block):
    mask = np.random.default_rng(0).random(shape) < 0.2
    rows, columns = (slice(n // 2 - m // 2, n // 2 + m // 2) for n, m in zip(shape, block, strict=True))
    mask[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1] = False
    mask[rows, columns] = True
    assert calibration_block(mask, shape) == (rows, columns)


def test_of_two_blocks_that_of_the_longer_short_side_is_taken():
    cross = np.zeros((32, 32), dtype=bool)
    cross[14:18] = cross[:, 12:20] = True
    cross[0] = False
    assert calibration_block(cross, (32, 32)) == (slice(1, 31), slice(12, 20))


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (2, 2), (3, 3)])
def test_the_smallest_grids_have_a_block_or_none(shape):
    mask = np.ones(shape, dtype=bool)
    assert mask[calibration_block(mask, shape)].size > 0


def test_an_unsampled_centre_has_no_calibration_block():
    mask = np.ones((8, 8), dtype=bool)
    mask[4, 4] = False
    rows, columns = calibration_block(mask, (8, 8))
    assert mask[rows, columns].size == 0


def test_the_mask_of_kspace_is_its_lines_that_are_not_zero():
    kspace = np.ones((3, 6, 8), dtype=np.complex64)
    kspace[:, :, 1::2] = 0
    kspace[0] = 0
    np.testing.assert_array_equal(sampled_mask(kspace), [[True, False] * 4])
    np.testing.assert_array_equal(sampled_mask(kspace.swapaxes(1, 2)), np.array([[True, False] * 4]).T)


def test_masks_in_both_directions_stay_as_they_are():
    mask = np.random.default_rng(0).random((20, 30)) < 0.3
    np.testing.assert_array_equal(compact_mask(mask), mask)
    corner = np.zeros((6, 6), dtype=bool)
    corner[2:, :3] = True
    np.testing.assert_array_equal(compact_mask(corner), corner)
    assert compact_mask(np.ones((6, 5), dtype=bool)).shape == (1, 5)


@pytest.mark.parametrize(("acceleration", "width"), [(1, 384), (4, 30), (6, 30), (6.5, 15), (8, 15)])
def test_the_published_centre_is_halved_above_an_acceleration_of_six(acceleration, width):
    assert published_calib_width(384, acceleration) == width
