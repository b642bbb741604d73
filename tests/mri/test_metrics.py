import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sbim_deploy.mri.metrics import nrmse, psnr, ssim


@pytest.fixture(params=[(64, 64), (33, 50)])
def images(request):
    rng = np.random.default_rng(0)
    reference = rng.random(request.param, dtype=np.float32).cumsum(axis=0)
    return reference + rng.standard_normal(request.param).astype(np.float32), reference


def test_psnr_and_ssim_are_scikit_images(images):
    image, reference = images
    data_range = float(reference.max())
    assert psnr(image, reference) == pytest.approx(
        peak_signal_noise_ratio(reference, image, data_range=data_range), rel=1e-6
    )
    assert ssim(image, reference) == pytest.approx(
        structural_similarity(reference, image, data_range=data_range), abs=1e-5
    )


def test_nrmse_is_its_definition(images):
    image, reference = images
    expected = np.sqrt(np.sum((image - reference) ** 2) / np.sum(reference**2))
    assert nrmse(image, reference) == pytest.approx(expected, rel=1e-5)


def test_equal_images_are_perfect(images):
    _, reference = images
    assert (nrmse(reference, reference), psnr(reference, reference)) == (0, float("inf"))
    assert ssim(reference, reference) == pytest.approx(1)


def test_a_given_data_range_takes_the_place_of_the_references_maximum(images):
    image, reference = images
    assert psnr(image, reference, 1000.0) == pytest.approx(
        peak_signal_noise_ratio(reference, image, data_range=1000), rel=1e-6
    )
    assert ssim(image, reference, 1000.0) == pytest.approx(
        structural_similarity(reference, image, data_range=1000), abs=1e-5
    )
