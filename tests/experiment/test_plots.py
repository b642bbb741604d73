"""Images in the page are what they say, on the scale that is stated."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.plots import COLOURS, PEER_COLOURS, PEER_DASHES, picture, plot_scores, round_up
from sbim_deploy.experiment.scans import Setting
from sbim_deploy.experiment.scores import Interval
from sbim_deploy.experiment.store import Line, Score
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


def luminance(colour_name: str) -> float:
    """The relative luminance of a colour, as WCAG 2 defines it."""
    channels = np.array([int(colour_name[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_every_method_s_line_is_told_from_the_others_and_peers_are_dark_and_broken():
    pytest.importorskip("matplotlib")
    methods = ["dds", "sbim", *PEERS]
    assert len(PEERS) >= 6
    score = Score(Interval(0.9, 0.8, 1.0), 0.0, None)
    lines = [
        Line(None, Setting("random", r), method, 3, r, {"ssim": score}, 0.0, 1.0)
        for method in methods
        for r in (2.0, 4.0)
    ]
    drawn = plot_scores(lines, "ssim", "SSIM").decode()
    styles = re.findall(r'style="fill: none; (stroke-dasharray: [^;]*; )?.*?stroke: (#\w{6})', drawn)
    known = {colour_name.lower() for colour_name in (*COLOURS, *PEER_COLOURS)}
    curves = {(dash, shade) for dash, shade in styles if shade in known}
    assert len(curves) == len(methods)
    assert len({dash for dash, _ in curves}) == 1 + len(PEER_DASHES)
    for shade in PEER_COLOURS:
        assert (1 + 0.05) / (luminance(shade) + 0.05) > 4.5, shade  # against the white of the page
