"""Noise readouts of strangers: what they may take is bounded."""

import numpy as np
import pytest

from sbim_deploy.kspace import noise_scan
from sbim_deploy.kspace.noise_scan import NoiseScan
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Readout


def noise_readout(n_channels, n_samples=1, dwell_us=5.0, seed=0):
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["active_channels"], header["number_of_samples"] = n_channels, n_samples
    header["sample_time_us"] = dwell_us
    parts = np.random.default_rng(seed).standard_normal((2, n_channels, n_samples))
    return Readout(header, (parts[0] + 1j * parts[1]).astype(np.complex64))


def test_of_very_many_numbers_of_channels_a_few_are_kept():
    noise = NoiseScan(1.0)
    for n_channels in range(1, 100):
        noise.add(noise_readout(n_channels))
    assert noise.n_bytes == 16 * (1 + 4 + 9 + 16)
    assert "noise readouts of more than 4 numbers of channels are left out" in noise.remarks(1)


def test_of_very_many_dwell_times_few_matrices_and_remarks_are_kept():
    noise = NoiseScan(1.0)
    noise.add(noise_readout(3, 100))
    alone = noise.n_bytes
    for dwell in range(1, 100):
        assert noise.whitening(3, dwell) is not None
        noise.add(noise_readout(3, 100, dwell_us=dwell + 0.5))
        assert noise.n_bytes <= alone + noise_scan.MAX_DWELLS * 8 * 3 * 3
    assert len(noise.remarks(3)) == noise_scan.MAX_REMARKS


def test_a_long_readout_is_multiplied_by_parts(monkeypatch):
    whole, parts = NoiseScan(1.0), NoiseScan(1.0)
    whole.add(noise_readout(3, 1000))
    monkeypatch.setattr(noise_scan, "BLOCK_ITEMS", 100)
    parts.add(noise_readout(3, 1000))
    np.testing.assert_allclose(parts.whitening(3, 5.0), whole.whitening(3, 5.0), rtol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 7])
def test_channels_that_are_known_stay_so(n_channels):
    noise = NoiseScan(1.0)
    for n in (n_channels, 2, 3, 4, 5, 6):
        noise.add(noise_readout(n, 100))
    noise.add(noise_readout(n_channels, 100, seed=1))
    assert noise.whitening(n_channels, 5.0).shape == (n_channels, n_channels)
