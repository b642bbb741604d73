import numpy as np
import pytest

from sbim_deploy.mri.masks import calibration_block
from sbim_deploy.mri.plane_masks import PLANE_PATTERNS, balanced_factors, plane_mask


@pytest.mark.parametrize("pattern", PLANE_PATTERNS)
@pytest.mark.parametrize("shape", [(48, 64), (45, 35)])
def test_every_pattern_takes_one_sample_in_four(pattern, shape):
    mask = plane_mask(shape, (2, 2), pattern, calib_width=0)
    assert np.isclose(mask.sum(), mask.size / 4, rtol=0.06)


def test_a_lattice_repeats_every_second_partition_and_third_line():
    mask = plane_mask((12, 12), (2, 3), "equispaced", calib_width=0)
    assert np.array_equal(np.argwhere(mask)[:5].tolist(), [[0, 0], [0, 3], [0, 6], [0, 9], [2, 0]])


def test_caipirinha_folds_apart_what_the_lattice_folds_together():
    # The aliases of a lattice lie where the transform of its mask does not vanish.
    aliases = {
        pattern: np.argwhere(
            np.abs(np.fft.fft2(plane_mask((16, 16), (2, 2), pattern, calib_width=0))) > 1e-6
        ).tolist()
        for pattern in ("equispaced", "caipirinha")
    }
    assert aliases["equispaced"] == [[0, 0], [0, 8], [8, 0], [8, 8]]
    assert aliases["caipirinha"] == [[0, 0], [4, 8], [8, 0], [12, 8]]


def test_poisson_disc_samples_keep_their_distance():
    places = np.argwhere(plane_mask((64, 64), (2, 2), "poisson", calib_width=0, seed=3))
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    distances[np.diag_indices(len(places))] = np.inf
    assert distances.min() >= np.sqrt(2)
    at_random = np.argwhere(plane_mask((64, 64), (2, 2), "random", calib_width=0, seed=3))
    distances = np.linalg.norm(at_random[:, None] - at_random, axis=-1)
    distances[np.diag_indices(len(at_random))] = np.inf
    assert distances.min() == 1


@pytest.mark.parametrize("pattern", PLANE_PATTERNS)
def test_corners_are_left_out_and_the_centre_is_whole(pattern):
    mask = plane_mask((40, 60), (2, 2), pattern, calib_width=12, elliptic=True)
    assert not mask[:5, :8].any()
    assert not mask[-5:, -8:].any()
    rows, columns = calibration_block(mask, mask.shape)
    assert (rows.stop - rows.start, columns.stop - columns.start) >= (12, 12)


def test_the_same_seed_takes_the_same_samples():
    masks = [plane_mask((32, 32), (2, 2), "poisson", seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("whole", "factors"), [(1, (1, 1)), (4, (2, 2)), (6, (2, 3)), (7, (1, 7)), (9, (3, 3))]
)
def test_an_acceleration_is_shared_by_both_directions(whole, factors):
    assert balanced_factors(whole) == factors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8), (2, 2), "spiral"), "unknown sampling pattern 'spiral'"),
        (((8, 8), (9, 2)), "along the partitions is 9"),
        (((8, 8), (2, 0)), "along the lines is 0"),
        (((8, 8), (2, 2), "poisson", -1), "calib_width is -1"),
    ],
)
def test_what_fits_no_grid_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plane_mask(*arguments)
