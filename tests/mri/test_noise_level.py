import numpy as np
import pytest

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.noise_level import estimate_noise
from sbim_deploy.mri.phantom import shepp_logan


@pytest.mark.parametrize("acceleration", [1, 4])
@pytest.mark.parametrize("shape", [(128, 128), (97, 110)])
def test_the_noise_of_a_scan_is_found_under_the_object(shape, acceleration):
    rng = np.random.default_rng(0)
    kspace = centred_fft(birdcage_maps(4, shape) * shepp_logan(shape)).astype(np.complex64)
    kspace += 0.05 * rng.standard_normal((*kspace.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    kspace *= line_mask(shape[1], acceleration)
    assert estimate_noise(kspace) == pytest.approx(0.05, rel=0.15)


def test_pure_noise_is_measured_exactly_and_no_noise_is_none():
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((8, 64, 64, 2), dtype=np.float32).view(np.complex64)[..., 0]
    assert estimate_noise(3 * noise) == pytest.approx(3, rel=0.03)
    assert estimate_noise(np.ones((2, 1, 4), dtype=np.complex64) * np.array([0, 0, 1, 0])) > 0
