import numpy as np
import pytest

from sbim_deploy.samplers.noise import NoiseStream

SHAPE = (6, 5)


def test_noise_depends_on_seed_slice_and_sample_alone():
    def first(seed, slices, samples=None):
        return NoiseStream(seed, slices, SHAPE, samples).draw().copy()

    np.testing.assert_array_equal(first(1, [3, 7])[1], first(1, [7])[0])
    others = [first(2, [7]), first(1, [8]), first(1, [7], samples=[1])]
    assert all((first(1, [7]) != other).all() for other in others)
    many = NoiseStream(0, range(50), SHAPE).draw()
    assert many.real.std() == pytest.approx(1, abs=0.03)
    assert abs(np.mean(many.real * many.imag)) < 0.03
