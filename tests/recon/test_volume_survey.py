import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mri.map_choice import AUTO
from sbim_deploy.recon.volume_survey import survey_volume


class Slices:
    """A volume of noise with a bright centre in every slice."""

    n_slices, n_coils, recon_shape = 4, 3, None

    def __init__(self, largest):
        rng = np.random.default_rng(0)
        shape = (self.n_slices, self.n_coils, 24, 24)
        self.kspace = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
        self.kspace[..., 12, 12] = 100
        self.kspace *= largest / np.abs(self.kspace).max()

    def read_slice(self, index):
        return self.kspace[index]

    def read_calibration(self, index):
        return None

    def read_noise(self, index):
        return None


def survey(volume):
    return survey_volume(volume, lambda _index: None, None, None, AUTO, 1)


@pytest.mark.parametrize("largest", [1e20, 1e30, 1e-20])
def test_squares_that_are_no_numbers_are_refused_before_they_are_summed(largest):
    with np.errstate(all="raise"), pytest.raises(InputError, match=r"slice 0: the largest value of k-space"):
        survey(Slices(largest))


def test_the_noise_and_the_scale_go_with_the_values():
    small, large = survey(Slices(1.0)), survey(Slices(1000.0))
    assert large.noise == pytest.approx(1000 * small.noise, rel=1e-4)
    assert large.shared.scale == pytest.approx(1000 * small.shared.scale, rel=1e-3)
