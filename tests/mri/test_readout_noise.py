"""The noise of samples along a trajectory, against the noise that was put in."""

import numpy as np
import pytest

from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.readout_noise import BEYOND_READOUT, OUTERMOST, measure_readout_noise
from sbim_deploy.mri.trajectories import GOLDEN, SPIRAL, make_trajectory
from sbim_deploy.runs.simulate import SimulateSettings, object_magnitude, simulate_truth, unit_noise

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")


def scan(noise, kind=GOLDEN, size=64, coil_factors=(1, 1, 1, 1)):
    settings = SimulateSettings(size=size, n_coils=4)
    truth = simulate_truth(object_magnitude(settings, 0), settings, 0)
    places = make_trajectory(kind, size, 16)
    kspace = to_samples(truth.maps * truth.reference, places)
    kspace = kspace + noise * np.array(coil_factors)[:, None, None] * unit_noise(truth.rng, kspace.shape)
    return kspace.astype(np.complex64), places


@pytest.mark.parametrize("kind", [GOLDEN, SPIRAL])
@pytest.mark.parametrize("noise", [0.001, 0.03])
def test_it_is_what_was_put_in(kind, noise):
    found = measure_readout_noise(*scan(noise, kind))
    assert found.sd == pytest.approx(noise, rel=0.05)
    assert (found.source, found.guessed) == (BEYOND_READOUT, False)


def test_each_coil_has_its_own():
    found = measure_readout_noise(*scan(0.01, coil_factors=(1, 2, 1, 4)))
    np.testing.assert_allclose(found.coil_sds, [0.01, 0.02, 0.01, 0.04], rtol=0.15)


def test_readouts_that_are_not_oversampled_tell_it_by_their_outermost_samples():
    kspace, places = scan(0.05)
    found = measure_readout_noise(kspace[..., ::2], places[:, ::2])
    assert found.source == OUTERMOST
    assert found.sd == pytest.approx(0.05, rel=0.2)


def test_data_without_noise_give_a_small_number_above_zero():
    assert 0 < measure_readout_noise(*scan(0)).sd < 2e-4


def test_zeros_are_refused():
    kspace, places = scan(0.01)
    with pytest.raises(ValueError, match="zero everywhere"):
        measure_readout_noise(0 * kspace, places)
