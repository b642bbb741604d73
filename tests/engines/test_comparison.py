import numpy as np
import pytest

from sbim_deploy.engines.comparison import compare


def test_the_differences_are_those_of_their_definitions():
    expected = np.array([[3.0, 0.0], [0.0, 4.0]])
    got = expected.copy()
    got[1, 0] = 0.5
    parity = compare("x", got, expected, tolerance=0.2)
    assert parity.relative_l2 == pytest.approx(0.1)
    assert (parity.max_abs, parity.mean_abs, parity.worst_index) == (0.5, 0.125, (1, 0))
    assert parity.cosine == pytest.approx(25 / (5 * np.sqrt(25.25)))
    assert parity.passed
    assert not compare("x", got, expected, tolerance=0.05).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_value_never_passes(bad):
    got = np.ones(4)
    got[2] = bad
    parity = compare("x", got, np.ones(4), tolerance=10.0)
    assert parity.n_nonfinite == 1
    assert not parity.passed


def test_zeros_equal_zeros_and_nothing_else():
    assert compare("x", np.zeros(3), np.zeros(3), 1e-5).passed
    assert not compare("x", np.full(3, 1e-9), np.zeros(3), 1e-5).passed


def test_complex_arrays_are_compared_with_their_phase():
    assert not compare("x", np.array([1j]), np.array([1.0 + 0j]), 0.1).passed


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r"got shape \(2,\), expected \(3,\)"):
        compare("x", np.zeros(2), np.zeros(3), 1e-5)
