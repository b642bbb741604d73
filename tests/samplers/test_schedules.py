import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.schedules import geometric, karras, starting_at, subsample

SIGMAS = np.array([2.0, 1.0, 0.5])


def test_the_published_schedule():
    sigmas = geometric(232, 0.0066, 2311)
    assert sigmas[0] == pytest.approx(232)
    assert sigmas[-1] == pytest.approx(0.0066)
    np.testing.assert_allclose(sigmas[1:] / sigmas[:-1], (0.0066 / 232) ** (1 / 2310))


@pytest.mark.parametrize("n", [1, 2, 3, 32, 33, 257, 2310, 2311])
def test_subsampling_gives_exactly_the_levels_asked_for(n):
    sigmas = subsample(geometric(232, 0.0066, 2311), n)
    assert sigmas.size == n == np.unique(sigmas).size
    assert sigmas[-1] == pytest.approx(0.0066)
    assert n == 1 or sigmas[0] == pytest.approx(232)


def test_more_levels_than_there_are_is_an_error():
    with pytest.raises(InputError, match="has 10 noise levels and the sampler asks for 11"):
        subsample(geometric(1, 0.1, 10), 11)


def test_a_lower_start_keeps_the_levels_below():
    np.testing.assert_array_equal(starting_at(SIGMAS, 1), [1.0, 0.5])
    with pytest.raises(InputError, match="start level is 3: expected 0 to 2"):
        starting_at(SIGMAS, 3)


def test_the_karras_schedule_is_equation_5():
    sigmas = karras(80.0, 0.002, 18)
    at = (80 ** (1 / 7) + 5 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert (sigmas[0], sigmas[-1], sigmas.size) == (80.0, 0.002, 18)
    assert sigmas[5] == pytest.approx(at, rel=1e-12)
    assert karras(80.0, 0.002, 1).tolist() == [0.002]
