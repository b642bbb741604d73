"""Images in the page are what they say, on the scale that is stated."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sbim_deploy.experiment.plots import picture, round_up
from sbim_deploy.pages.panels import colour


def decoded(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_grey_pixels_are_linear_in_the_window_and_clipped():
    image = np.array([[-1, 0, 0.5], [1, 2, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(
        np.asarray(decoded(picture(image, (0, 1), "gray"))), [[0, 0, 128], [255, 255, 0]]
    )


def test_error_maps_have_the_colours_of_the_other_pictures():
    image = np.linspace(0, 0.3, 256, dtype=np.float32).reshape(16, 16)
    shown = np.asarray(decoded(picture(image, (0, 0.3), "error")).convert("RGB"))
    np.testing.assert_allclose(shown, colour(image, (0, 0.3), "error"), atol=2)


@pytest.mark.parametrize(
    ("value", "end"), [(0.2, 0.2), (0.21, 0.3), (0.061, 0.08), (0.9, 1.0), (12, 15), (0, 1.0)]
)
def test_scales_end_at_a_number_to_read(value, end):
    assert round_up(value) == pytest.approx(end)
