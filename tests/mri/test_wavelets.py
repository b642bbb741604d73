import numpy as np
import pytest

from sbim_deploy.mri.wavelets import analyse, n_levels, padded_shape, shrink, synthesise

# Daubechies' filter with two vanishing moments: Ten Lectures on Wavelets (1992), table 6.1, over root 2.
LOW = np.array([1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5]) / (4 * 2**0.5)
HIGH = LOW[::-1] * [1, -1, 1, -1]


def random_images(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def one_level(n):
    """The transform of a line that ends where it begins, as a matrix: n / 2 low filters, then high ones."""
    matrix = np.zeros((n, n))
    for place in range(n // 2):
        for tap in range(4):
            matrix[place, (2 * place + tap) % n] += LOW[tap]
            matrix[n // 2 + place, (2 * place - 2 + tap) % n] += HIGH[tap]
    return matrix


def energy(coefficients):
    bands = [coefficients.coarse, *(band for level in coefficients.details for band in level)]
    return sum(np.linalg.norm(band) ** 2 for band in bands)


@pytest.mark.parametrize("shape", [(8, 12), (3, 16, 8), (24, 40)])
def test_the_transform_is_orthonormal_and_is_undone(shape):
    image = random_images(shape)
    coefficients = analyse(image, 2)
    assert energy(coefficients) == pytest.approx(np.linalg.norm(image) ** 2, rel=1e-5)
    np.testing.assert_allclose(synthesise(coefficients), image, atol=1e-5)


def test_a_level_filters_rows_and_columns_with_daubechies_four_taps():
    image = random_images((8, 12))
    coefficients = analyse(image, 1)
    expected = one_level(8) @ image @ one_level(12).T
    high_low, low_high, high_high = coefficients.details[0]
    np.testing.assert_allclose(coefficients.coarse, expected[:4, :6], atol=1e-5)
    np.testing.assert_allclose(np.abs(high_low.T), np.abs(expected[4:, :6]), atol=1e-5)
    np.testing.assert_allclose(np.abs(low_high.T), np.abs(expected[:4, 6:]), atol=1e-5)
    np.testing.assert_allclose(np.abs(high_high.T), np.abs(expected[4:, 6:]), atol=1e-5)


def test_a_ramp_has_no_details_away_from_its_ends():
    ramp = np.add.outer(np.arange(32.0), 2 * np.arange(32.0)).astype(np.complex64)
    for band in analyse(ramp, 1).details[0]:
        assert np.abs(band[1:-2, 1:-2]).max() < 1e-3


@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (3, 0)])
def test_shrinking_is_the_minimum_of_its_objective(shift):
    """Against the orthonormal matrix: soft thresholds of the details, with the phase kept."""
    image, matrix = random_images((16, 16)), one_level(16)
    moved = matrix @ np.roll(image, shift, (0, 1)) @ matrix.T
    coarse = moved[:8, :8].copy()
    moved *= np.maximum(1 - 0.8 / np.abs(moved), 0)
    moved[:8, :8] = coarse
    expected = np.roll(matrix.T @ moved @ matrix, (-shift[0], -shift[1]), (0, 1))
    np.testing.assert_allclose(shrink(image, 0.8, 1, shift), expected, atol=1e-5)


def test_shrinking_by_nothing_changes_nothing_and_zero_stays_zero():
    image = random_images((16, 24))
    np.testing.assert_allclose(shrink(image, 0.0, 2, (1, 3)), image, atol=1e-5)
    assert not shrink(0 * image, 0.5, 2, (1, 3)).any()


@pytest.mark.parametrize(
    ("shape", "levels", "padded"),
    [((128, 128), 3, (128, 128)), ((230, 180), 3, (232, 184)), ((7, 40), 1, (8, 40))],
)
def test_any_size_is_padded_to_one_that_can_be_halved(shape, levels, padded):
    assert n_levels(shape) == levels
    assert padded_shape(shape, levels) == padded
