import threading

import numpy as np
import pytest

from sbim_deploy.samplers.noise import NoiseStream

SHAPE = (6, 5)


def test_slices_are_drawn_at_once_and_have_the_bits_of_one_after_the_other():
    shape = (80, 64)
    stream = NoiseStream(5, [2, 9, 4], shape)
    for draw in range(2):
        together = stream.draw().copy()
        for place, index in enumerate((2, 9, 4)):
            alone = NoiseStream(5, [index], shape)
            for _ in range(draw + 1):
                expected = alone.draw()
            np.testing.assert_array_equal(together[place], expected[0])


def test_large_slices_are_drawn_in_threads():
    class Meeting:
        """A generator that draws only once the others do."""

        def __init__(self, barrier):
            self._barrier = barrier

        def standard_normal(self, dtype, out):
            self._barrier.wait(timeout=20)
            out[...] = 1

    stream = NoiseStream(0, [0, 1], (80, 64))
    stream._generators = [Meeting(threading.Barrier(2))] * 2
    assert (stream.draw() == 1 + 1j).all()


def test_noise_depends_on_seed_slice_and_sample_alone():
    def first(seed, slices, samples=None):
        return NoiseStream(seed, slices, SHAPE, samples).draw().copy()

    np.testing.assert_array_equal(first(1, [3, 7])[1], first(1, [7])[0])
    others = [first(2, [7]), first(1, [8]), first(1, [7], samples=[1])]
    assert all((first(1, [7]) != other).all() for other in others)
    many = NoiseStream(0, range(50), SHAPE).draw()
    assert many.real.std() == pytest.approx(1, abs=0.03)
    assert abs(np.mean(many.real * many.imag)) < 0.03
