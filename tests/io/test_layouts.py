"""Axes are guessed where the sizes leave one reading, and refused with the way out where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import (
    guess_image_layout,
    guess_layout,
    guess_volume_layout,
    layout_of_sizes,
    named_layout,
    parse_layout,
)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((230, 180), "row,column"),
        ((8, 230, 180), "coil,row,column"),
        ((64, 128, 128), "coil,row,column"),
        ((230, 180, 8), "row,column,coil"),
        ((384, 12, 160), "row,coil,column"),
        ((20, 16, 640, 320), "slice,coil,row,column"),
        ((160, 8, 256, 192), "slice,coil,row,column"),
        ((20, 1, 640, 320), "slice,coil,row,column"),
        ((1, 8, 230, 180), "slice,coil,row,column"),
        ((256, 192, 1, 8), "row,column,slice,coil"),
        ((1, 256, 192, 8), "slice,row,column,coil"),
        ((384, 12, 160, 24), "row,coil,column,slice"),
        ((1, 1, 8, 230, 180), "coil,row,column"),
    ],
)
def test_the_ordinary_layouts_are_guessed(shape, axes):
    assert guess_layout(shape, "x").text == axes


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((64, 96, 96), "--layout, such as coil,row,column or slice,row,column"),
        ((128, 128, 128), "--layout"),
        ((8, 6, 4), "--layout"),
        ((1024,), "--layout"),
        ((8, 65536), "--layout"),
        ((3, 4, 8, 230, 180), "--layout"),
        ((256, 192, 8, 20), "--layout row,column,coil,slice or --layout row,column,slice,coil"),
        ((20, 256, 192, 8), "--layout slice,row,column,coil or --layout coil,row,column,slice"),
    ],
)
def test_what_could_be_two_things_is_refused_with_the_words_that_say_which(shape, words):
    with pytest.raises(InputError) as caught:
        guess_layout(shape, "a.npy")
    assert str(shape) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((230, 180), "row,column"), ((20, 230, 180), "slice,row,column"), ((230, 180, 20), "row,column,slice")],
)
def test_images_have_no_coils(shape, axes):
    assert guess_image_layout(shape, "x").text == axes


@pytest.mark.parametrize(
    "text", ["coil,row,column", "column,coil,row", "row,column,slice,coil", "row,slice,column"]
)
def test_a_slice_is_arranged_as_coil_row_column(text):
    sizes = {"slice": 2, "coil": 3, "row": 5, "column": 4}
    names = text.split(",")
    values = np.arange(120).reshape(2, 3, 5, 4)
    absent = tuple(axis for axis, name in enumerate(sizes) if name not in names)
    kept = [name for name in sizes if name in names]
    stored = values[tuple(0 if axis in absent else slice(None) for axis in range(4))]
    stored = stored.transpose([kept.index(name) for name in names])
    index = 1 if "slice" in names else 0
    layout = named_layout(text, stored.shape, "x")
    expected = values[index] if "coil" in names else values[index, :1]
    np.testing.assert_array_equal(layout.arranged(stored[layout.key(index)]), expected)


def test_axes_of_size_1_may_go_unnamed():
    layout = named_layout("coil,row,column", (1, 8, 1, 20, 30), "x")
    assert [layout.size(axis) for axis in ("slice", "coil", "row", "column")] == [1, 8, 20, 30]


@pytest.mark.parametrize("text", ["coil,row", "rows,columns", "coil,coil,row,column", "", "row;column"])
def test_words_that_are_no_layout_are_refused(text):
    with pytest.raises(InputError, match="such as coil,row,column"):
        parse_layout(text)


@pytest.mark.parametrize(
    ("text", "shape"), [("coil,row,column", (2, 8, 20, 30)), ("slice,coil,row,column", (8, 20, 30))]
)
def test_a_layout_of_another_number_of_axes_is_refused(text, shape):
    with pytest.raises(InputError, match=f"the layout {text} names"):
        named_layout(text, shape, "x")


def test_known_sizes_tell_the_axes_and_rows_come_first_where_both_would_do():
    sizes = {"slice": 1, "coil": 8, "row": 30, "column": 20}
    assert layout_of_sizes((30, 20, 8), sizes).text == "row,column,coil"
    assert layout_of_sizes((8, 30, 20), sizes).text == "coil,row,column"
    assert layout_of_sizes((8, 20, 30), sizes) is None
    assert layout_of_sizes((8, 20, 20), {**sizes, "row": 20}).text == "coil,row,column"


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((40, 4, 64, 48), "slice,coil,row,column"),
        ((4, 40, 64, 48), "coil,slice,row,column"),
        ((24, 24, 64, 48), "slice,coil,row,column"),
    ],
)
def test_a_volume_has_its_coils_second_or_first(shape, text):
    assert guess_volume_layout(shape, "k").text == text


@pytest.mark.parametrize("shape", [(40, 64, 48), (64, 48, 40, 4), (40, 40, 64, 48)])
def test_a_volume_of_other_axes_needs_their_names(shape):
    with pytest.raises(InputError, match="--layout, such as coil,slice,row,column"):
        guess_volume_layout(shape, "k")
