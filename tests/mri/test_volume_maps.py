import numpy as np
import pytest

from sbim_deploy.mri.coils import loop_maps
from sbim_deploy.mri.espirit import espirit_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.volume_maps import in_phase_with, principal_coil
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, volume_truth


def drawn(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def test_the_principal_coil_is_the_one_that_holds_most_energy():
    rng = np.random.default_rng(0)
    strong = drawn(rng, 5)
    samples = np.outer(strong, 10 * drawn(rng, 300)) + drawn(rng, 5, 300)
    coil = principal_coil(samples @ samples.conj().T)
    assert np.isclose(np.linalg.norm(coil), 1)
    assert abs(np.vdot(coil, strong)) > 0.99 * np.linalg.norm(strong)


@pytest.mark.parametrize("shape", [(4, 7, 5), (2, 4, 6, 6)])
def test_maps_keep_their_magnitudes_and_are_real_in_the_coil_that_is_named(shape):
    rng = np.random.default_rng(1)
    maps, coil = drawn(rng, *shape), drawn(rng, 4)
    turned = in_phase_with(maps, coil)
    combined = np.moveaxis(turned, -3, -1) @ coil.conj()
    assert np.abs(combined.imag).max() < 1e-5
    assert combined.real.min() >= 0
    np.testing.assert_allclose(np.abs(turned), np.abs(maps), rtol=1e-5)


def test_maps_stay_zero_where_they_are():
    assert not in_phase_with(np.zeros((3, 4, 4), np.complex64), np.ones(3, np.complex64)).any()


def test_one_coil_for_all_slices_takes_the_flicker_out_of_their_maps():
    image, true = volume_truth(SimulateVolumeSettings(size=40, n_partitions=32, n_coils=6))
    rng = np.random.default_rng(2)
    block = centred_fft(true * image, axes=(2, 3))[:, 10:32, 9:23, 13:27]
    slices = np.moveaxis(block + 0.01 * drawn(rng, *block.shape), 1, 0)
    maps = np.stack([espirit_maps(each, (32, 40)) for each in slices])
    coil = principal_coil(np.einsum("rcyx,rdyx->cd", slices, slices.conj()))
    common = np.stack([in_phase_with(each, coil) for each in maps])
    known, inside = np.moveaxis(true, 1, 0)[10:32], np.abs(image[10:32]) > 0.1

    def steps(estimate):
        """Return how much the phase of the maps against the true ones steps between neighbours."""
        product = (known.conj() * estimate).sum(axis=1)
        phase = product / np.abs(product)
        return np.sqrt(np.mean(np.abs(phase[1:] - phase[:-1])[inside[1:] & inside[:-1]] ** 2))

    assert steps(common) < 0.6 * steps(maps), (steps(common), steps(maps))


@pytest.mark.parametrize("n_coils", [1, 6])
def test_loops_are_smooth_of_unit_norm_and_each_nearest_its_own_side(n_coils):
    shape = (48, 20, 21)
    maps = loop_maps(n_coils, shape)
    assert maps.shape == (n_coils, *shape)
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(axis=0), 1, rtol=1e-5)
    if n_coils > 1:
        brightest = np.argmax(np.abs(maps), axis=0)
        assert brightest[24 + 10, 19, 10] == 0  # the first loop is above the centre, on the side of axis 1
        assert np.abs(np.diff(maps, axis=1)).max() < 0.4
