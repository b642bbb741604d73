import numpy as np
import pytest
import scipy.fft

from sbim_deploy.mri.fourier import (
    centre_crop,
    centre_pad,
    centred_fft,
    centred_ifft,
    limited_threads,
    turned,
)
from sbim_deploy.mri.sense import Sense


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (12, 5), (1, 4)])
def test_centred_fft_equals_the_defining_sum(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    expected = image
    for axis, n in enumerate(shape):
        position = np.arange(n) - n // 2
        kernel = np.exp(-2j * np.pi * np.outer(position, position) / n) / np.sqrt(n)
        expected = np.moveaxis(np.tensordot(kernel, expected, axes=(1, axis)), 0, axis)
    np.testing.assert_allclose(centred_fft(image), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 7, 9), (12, 5)])
def test_inverse_is_the_inverse_and_the_adjoint(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    y = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    np.testing.assert_allclose(centred_ifft(centred_fft(x)), x, atol=1e-12)
    np.testing.assert_allclose(np.vdot(centred_fft(x), y), np.vdot(x, centred_ifft(y)), rtol=1e-12)


def test_single_precision_stays_single_and_the_input_is_untouched() -> None:
    image = np.ones((6, 5), dtype=np.complex64)
    assert centred_fft(image).dtype == np.complex64
    np.testing.assert_array_equal(image, 1)


def test_one_axis_is_transformed_alone() -> None:
    image = np.random.default_rng(2).standard_normal((4, 7)).astype(np.complex128)
    expected = np.fft.fftshift(scipy.fft.fft(np.fft.ifftshift(image, axes=1), norm="ortho"), axes=1)
    np.testing.assert_allclose(centred_fft(image, axes=(-1,)), expected, atol=1e-12)


@pytest.mark.parametrize(("outer", "inner"), [((8, 8), (5, 4)), ((9, 7), (4, 7)), ((6, 5), (6, 5))])
def test_crop_keeps_the_centre_and_pad_is_its_adjoint(outer: tuple[int, int], inner: tuple[int, int]) -> None:
    image = np.zeros(outer)
    image[outer[0] // 2, outer[1] // 2] = 1
    cropped = centre_crop(image, inner)
    assert cropped[inner[0] // 2, inner[1] // 2] == 1
    np.testing.assert_array_equal(centre_crop(centre_pad(cropped, outer), inner), cropped)


def test_crop_to_a_larger_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        centre_crop(np.zeros((4, 4)), (5, 4))


@pytest.mark.parametrize("shape", [(6, 5), (5, 8), (7, 7)])
def test_turned_is_the_other_sign_of_the_transform_and_the_conjugate_of_conjugated_kspace(shape):
    rng = np.random.default_rng(1)
    kspace = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    image = centred_ifft(kspace)
    other_sign = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(kspace), norm="ortho"))
    np.testing.assert_allclose(turned(image), other_sign)
    np.testing.assert_allclose(turned(image).conj(), centred_ifft(kspace.conj()))
    centre = (shape[0] // 2, shape[1] // 2)
    assert turned(image)[centre] == image[centre]


def test_operators_transform_in_as_many_threads_as_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    transform = scipy.fft.fftn

    def recorded(array, *arguments, workers=None, **options):
        taken.append(workers)
        return transform(array, *arguments, workers=workers, **options)

    monkeypatch.setattr(scipy.fft, "fftn", recorded)
    sense = Sense(np.ones((2, 4, 6), np.complex64), np.ones((1, 6), np.bool_))
    image = np.ones((4, 6), np.complex64)
    sense.normal(image)
    with limited_threads(3):
        sense.normal(image)
    sense.normal(image)
    assert taken == [-1, 3, -1]
