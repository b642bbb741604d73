from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sbim_deploy.errors import InputError
from sbim_deploy.pages.panels import MARGIN, TITLE_LINE, Panel, colour, write_montage

RAMP = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)


def draw(path: Path, rows: list[list[Panel]], caption: str = "") -> np.ndarray[Any, np.dtype[np.uint8]]:
    write_montage(path, rows, caption)
    with Image.open(path) as picture:
        coloured = any(panel.colormap == "error" for row in rows for panel in row)
        assert (picture.format, picture.mode) == ("PNG", "RGB" if coloured else "L")
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("colormap", ["gray", "error"])
def test_colormaps_grow_brighter_from_black(colormap: str) -> None:
    colours = colour(np.linspace(0, 1, 256), (0, 1), colormap).astype(int)
    luminance = colours @ np.array([0.2126, 0.7152, 0.0722])
    assert tuple(colours[0]) == (0, 0, 0)
    assert luminance[-1] > 250
    assert (np.diff(luminance) > -0.3).all()
    assert (np.diff(luminance[::8]) > 0).all()


def test_values_outside_the_window_and_non_finite_ones_are_clipped() -> None:
    values = np.array([-1.0, 2.0, 3.0, 4.0, 9.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(colour(values, (2, 4), "gray")[:, 0], [0, 0, 128, 255, 255, 0, 255, 0])


def test_image_of_full_size_is_shown_pixel_by_pixel(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((300, 320), dtype=np.float32)
    picture = draw(tmp_path / "out.png", [[Panel(image, "image", (0, 1))]])
    top = MARGIN + TITLE_LINE
    np.testing.assert_array_equal(
        picture[top : top + 300, MARGIN : MARGIN + 320], colour(image, (0, 1), "gray")
    )


@pytest.mark.parametrize(
    ("shape", "side"), [((10, 10), 300), ((64, 48), 320), ((320, 320), 320), ((800, 400), 512)]
)
def test_panels_are_enlarged_or_reduced_to_a_readable_size(
    tmp_path: Path, shape: tuple[int, int], side: int
) -> None:
    picture = draw(tmp_path / "out.png", [[Panel(np.ones(shape, np.float32), "", (0, 1))]])
    assert picture.shape[0] == 2 * MARGIN + side


def test_small_panels_stay_as_they_are_where_that_is_asked_for(tmp_path: Path) -> None:
    write_montage(tmp_path / "out.png", [[Panel(RAMP, "", (0, 1))]], "", enlarged=False)
    with Image.open(tmp_path / "out.png") as picture:
        shown = np.asarray(picture)[MARGIN : MARGIN + 10, MARGIN : MARGIN + 10]
        assert picture.height == 2 * MARGIN + 10
    np.testing.assert_array_equal(shown, colour(RAMP, (0, 1), "gray")[..., 0])


def test_titles_are_not_repeated_down_a_column(tmp_path: Path) -> None:
    row = [Panel(RAMP, "image", (0, 1)), Panel(RAMP, "error x 5", (0, 1))]
    other = [Panel(RAMP, "another", (0, 1)), Panel(RAMP, "error x 5", (0, 1))]
    same = draw(tmp_path / "same.png", [row, row])
    new = draw(tmp_path / "new.png", [row, other])
    assert new.shape[0] - same.shape[0] == TITLE_LINE


def test_error_panel_has_a_bar_of_its_colours(tmp_path: Path) -> None:
    dark = np.zeros((10, 10), np.float32)
    gray = draw(tmp_path / "gray.png", [[Panel(dark, "", (0, 1))]])
    error = draw(tmp_path / "error.png", [[Panel(dark, "", (0, 1), "error")]])
    assert not gray.any()
    below = error[MARGIN + 300 :].astype(int)
    assert np.abs(below - (246, 142, 28)).sum(axis=-1).min() < 6


def test_long_captions_wrap_and_long_titles_are_shortened(tmp_path: Path) -> None:
    panel = Panel(
        np.zeros((10, 10), np.float32), "a title much too long for its panel " * 3, (0, 1), note="n" * 99
    )
    one = draw(tmp_path / "one.png", [[panel]], "short")
    many = draw(tmp_path / "many.png", [[panel]], "a caption of many words " * 10)
    assert one.shape[1] == many.shape[1] == 300 + 2 * MARGIN
    assert many.shape[0] > one.shape[0]
    for picture in (one, many):
        assert not picture[:, :MARGIN].any()
        assert not picture[:, -MARGIN:].any()


def test_ragged_rows_and_panels_of_different_size_are_drawn(tmp_path: Path) -> None:
    small = Panel(RAMP[:4, :6], "small", (0, 1))
    picture = draw(tmp_path / "out.png", [[Panel(RAMP, "large", (0, 1)), small], [small]], "σ × 5 — é")
    assert picture.any()


def test_picture_is_the_same_each_time(tmp_path: Path) -> None:
    rows = [[Panel(RAMP, "image", (0, 1)), Panel(RAMP, "error", (0, 0.3), "error", "note")]]
    np.testing.assert_array_equal(
        draw(tmp_path / "a.png", rows, "caption"), draw(tmp_path / "b.png", rows, "caption")
    )


@pytest.mark.parametrize(
    ("image", "window"),
    [
        (RAMP.astype(np.complex64), (0, 1)),
        (RAMP[0], (0, 1)),
        (RAMP[:0], (0, 1)),
        (RAMP, (1, 1)),
        (RAMP, (0, np.nan)),
    ],
)
def test_panels_that_cannot_be_shown_are_refused(image: Any, window: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="panel"):
        Panel(image, "bad", window)


def test_empty_montage_and_missing_folder_are_refused(tmp_path: Path) -> None:
    for rows in ([], [[]]):
        with pytest.raises(ValueError, match="empty row"):
            write_montage(tmp_path / "out.png", rows, "")
    with pytest.raises(InputError, match="does not exist"):
        write_montage(tmp_path / "none" / "out.png", [[Panel(RAMP, "", (0, 1))]], "")
    assert not list(tmp_path.iterdir())
