"""Sessions over loopback, with real bytes: what comes back, and what is refused."""

import numpy as np
import pytest
from mrd_client import (
    kspace_of,
    pixels,
    readouts,
    run_session,
    serving,
)

from sbim_deploy import SamplerChoice, load_model


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def model():
    return load_model("demo", SamplerChoice(steps=2), backend="onnxruntime", threads=1)


def expected_magnitude(model, number):
    return np.abs(model.reconstruct(kspace_of(number), index=number).image)


def assert_like(got, expected):
    """Equal up to one scale and the rounding of 12 bits."""
    scale = np.vdot(expected, got) / np.vdot(expected, expected)
    assert np.abs(got - scale * expected).max() <= 0.51 + 1e-3 * scale


def test_a_slice_comes_back_as_recon_makes_it_with_its_place_and_the_server_ends_with_close(server, model):
    (image,) = run_session(server, readouts(kspace_of(3), 3))
    assert_like(pixels(image), expected_magnitude(model, 3))
    assert image.header["position"].tolist() == [1.0, 2.0, 6.0]
    assert (image.header["slice"], image.header["measurement_uid"]) == (3, 77)
    assert image.header["field_of_view"].tolist() == [220.0, 220.0, 5.0]
