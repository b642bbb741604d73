"""Gradient delays: what was put into a scan is found, and a phase of the object is not taken for one."""

import numpy as np
import pytest

from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.phantom import shepp_logan
from sbim_deploy.mri.readout_delays import find_delays, readout_delays
from sbim_deploy.mri.trajectories import GOLDEN, RADIAL, SPIRAL, make_trajectory

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
SIZE = 48


def scan(kind=GOLDEN, delays=(0.0, 0.0), ramp=(0.0, 0.0)):
    """Return k-space and the trajectory that it is said to have, for delays along the rows and columns."""
    places = make_trajectory(kind, SIZE, 24)
    direction = places[:, -1:] / np.hypot(*places[:, -1:].T).T[..., None]
    turns = sum(
        r * (np.arange(SIZE) - SIZE // 2)[shape] / SIZE
        for r, shape in zip(ramp, ((slice(None), None), (None, slice(None))), strict=True)
    )
    image = shepp_logan((SIZE, SIZE)) * np.exp(2j * np.pi * turns)
    true = (places + np.array(delays) * direction).astype(np.float32)
    return to_samples(image, true)[None].astype(np.complex64), places


def test_readouts_that_all_go_one_way_tell_no_delays():
    assert readout_delays(*scan(RADIAL, (0.6, -0.3))) is None


def test_delays_of_both_axes_are_measured():
    found, errors = readout_delays(*scan(GOLDEN, (0.6, -0.3)))
    np.testing.assert_allclose(found, [0.6, -0.3, 0], atol=0.1)
    assert errors.max() < 0.1


def test_noise_alone_tells_no_delays_and_its_errors_are_those_of_the_fit():
    places = make_trajectory(GOLDEN, SIZE, 24)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        noise = rng.standard_normal((2, 4, *places.shape[:2]))
        kspace = (noise[0] + 1j * noise[1]).astype(np.complex64)
        assert find_delays(kspace, places) == []
        found.append(readout_delays(kspace, places))
    delays, errors = np.array(found).swapaxes(0, 1)
    assert np.abs(delays).max() > 0.5
    np.testing.assert_allclose(delays.std(axis=0), errors.mean(axis=0), rtol=0.35)


def test_spokes_that_disagree_are_named():
    (fault,) = find_delays(*scan(delays=(0.7, 0.2)))
    assert fault.kind == "gradient delays"
    assert not fault.fatal
    assert "bart estdelay" in fault.message


@pytest.mark.parametrize("kind", [GOLDEN, RADIAL, SPIRAL])
def test_a_scan_without_delays_has_no_fault(kind):
    assert find_delays(*scan(kind)) == []


def test_a_linear_phase_of_the_object_is_no_delay():
    assert find_delays(*scan(ramp=(0.8, -0.5))) == []
