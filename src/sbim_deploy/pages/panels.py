"""Comparison pictures: a grid of labelled panels on black, with a caption, as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sbim_deploy.io.overwriting import new_file
from sbim_deploy.records import FloatArray

PANEL_SIDE = 300  # small images are enlarged to about this many pixels
LARGEST_SIDE = 512  # and larger ones reduced to this many; between the two, a pixel is a pixel
GAP = 14
MARGIN = 26
TITLE_SIZE = 19
NOTE_SIZE = 15
BAR_HEIGHT = 9
TITLE_LINE = 32
NOTE_LINE = 24

WHITE = (245, 245, 245)
GREY = (165, 165, 165)
DARK_GREY = (70, 70, 70)
BLACK = (0, 0, 0)

GRAY_ANCHORS = np.array([(0, 0, 0), (255, 255, 255)], dtype=np.float64)
# Dark to bright by way of purple and orange: each anchor is lighter than the one before.
ERROR_ANCHORS = np.array(
    [
        (0, 0, 0),
        (42, 11, 90),
        (125, 30, 112),
        (205, 66, 70),
        (246, 142, 28),
        (252, 214, 110),
        (255, 255, 245),
    ],
    dtype=np.float64,
)
# The font that Pillow carries has no glyph for these.
PLAIN = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "−": "-", "σ": "sigma", "λ": "lambda", "µ": "u", "μ": "u"}
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Panel:
    """One panel: a real image (rows, columns), its title and the values shown darkest and brightest.

    Attributes:
        image: float (rows, columns); what is not finite is shown as the darkest.
        title: the label above; not repeated where the panel above in the grid has the same.
        window: (low, high), the values at the two ends of the colormap.
        colormap: "gray", or "error", which adds a bar of its colours and its window below.
        note: a line below the panel, such as its scores.
    """

    image: FloatArray
    title: str
    window: tuple[float, float]
    colormap: Literal["gray", "error"] = "gray"
    note: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for an image or a window that cannot be shown."""
        if self.image.ndim != 2 or 0 in self.image.shape or np.iscomplexobj(self.image):
            raise ValueError(
                f"panel image is {self.image.dtype} {self.image.shape}, expected real (rows, columns)"
            )
        if not all(math.isfinite(end) for end in self.window) or self.window[0] >= self.window[1]:
            raise ValueError(f"panel window is {self.window}, expected low < high, both finite")


def write_montage(
    path: Path, rows: Sequence[Sequence[Panel]], caption: str, enlarged: bool = True, force: bool = False
) -> None:
    """Write the panels as a grid, all enlarged by one factor, with the caption below.

    Args:
        path: the PNG file to write.
        rows: the grid, at least one row of at least one panel; rows may differ in length.
        caption: a text below the grid, wrapped to its width.
        enlarged: whether small images are enlarged; large ones are reduced in any case.
        force: whether a file that is there is replaced.

    Raises:
        InputError: the file cannot be written, or is there already.
    """
    if not rows or not all(rows):
        raise ValueError("the montage has an empty row, expected at least one panel in each")
    scale = _common_scale([panel for row in rows for panel in row])
    picture = _draw_montage(rows, caption.translate(PLAIN), scale if enlarged else min(scale, 1))
    if all(panel.colormap == "gray" for row in rows for panel in row):
        picture = picture.convert("L")  # two thirds of the file
    with new_file(path, force) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def colour(values: NDArray[np.floating], window: tuple[float, float], colormap: str) -> NDArray[np.uint8]:
    """Give 8-bit RGB of the values' shape plus an axis of 3; what lies outside the window is clipped."""
    low, high = window
    position = np.nan_to_num((values.astype(np.float64) - low) / (high - low), nan=0.0).clip(0, 1)
    anchors = GRAY_ANCHORS if colormap == "gray" else ERROR_ANCHORS
    stops = np.linspace(0, 1, len(anchors))
    channels = [np.interp(position, stops, anchors[:, channel]) for channel in range(3)]
    rgb: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return rgb


def _draw_montage(rows: Sequence[Sequence[Panel]], caption: str, scale: float) -> Image.Image:
    cell = max(round(scale * panel.image.shape[1]) for row in rows for panel in row)
    width = 2 * MARGIN + max(map(len, rows)) * (cell + GAP) - GAP
    caption_lines = _wrap(caption, ImageFont.load_default(NOTE_SIZE), width - 2 * MARGIN)
    titled = [_new_titles(row, above) for row, above in zip(rows, [[], *rows], strict=False)]
    heights = [_row_height(row, titles, scale) for row, titles in zip(rows, titled, strict=True)]
    height = 2 * MARGIN + sum(heights) + GAP * (len(rows) - 1) + NOTE_LINE * len(caption_lines)
    picture = Image.new("RGB", (width, height + (GAP if caption_lines else 0)), BLACK)
    top = MARGIN
    for row, titles, row_height in zip(rows, titled, heights, strict=True):
        for column, (panel, title) in enumerate(zip(row, titles, strict=True)):
            left = MARGIN + column * (cell + GAP)
            _draw_panel(picture, panel, title, (left, top + (TITLE_LINE if any(titles) else 0)), cell, scale)
        top += row_height + GAP
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(caption_lines):
        pen.text((MARGIN, top + number * NOTE_LINE), line, GREY, ImageFont.load_default(NOTE_SIZE))
    return picture


def _draw_panel(
    picture: Image.Image, panel: Panel, title: str, corner: tuple[int, int], cell: int, scale: float
) -> None:
    left, top = corner
    pen = ImageDraw.Draw(picture)
    middle = left + cell // 2
    font = ImageFont.load_default(TITLE_SIZE)
    pen.text((middle, top - 12), _shorten(title, font, cell), WHITE, font, anchor="ms")
    rows, columns = (round(scale * size) for size in panel.image.shape)
    shown = np.nan_to_num(panel.image.astype(np.float32), nan=panel.window[0])
    resampling = Image.Resampling.BICUBIC if scale >= 1 else Image.Resampling.LANCZOS
    enlarged = np.asarray(Image.fromarray(shown).resize((columns, rows), resampling))
    tile = Image.fromarray(colour(enlarged, panel.window, panel.colormap))
    picture.paste(tile, (left + (cell - columns) // 2, top))
    bottom = top + rows
    font = ImageFont.load_default(NOTE_SIZE)
    if panel.note:
        pen.text((middle, bottom + 17), _shorten(panel.note, font, cell), GREY, font, anchor="ms")
    if panel.colormap == "error":
        _draw_bar(picture, panel, (left, bottom + (NOTE_LINE if panel.note else 0)), cell)


def _draw_bar(picture: Image.Image, panel: Panel, corner: tuple[int, int], cell: int) -> None:
    """Draw the window's ends at the panel's edges and the colours between them."""
    left, top = corner
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(NOTE_SIZE)
    low, high = (f"{end:.3g}" for end in panel.window)
    pen.text((left, top + 17), low, GREY, font, anchor="ls")
    pen.text((left + cell, top + 17), high, GREY, font, anchor="rs")
    start = left + math.ceil(font.getlength(low)) + 10
    length = left + cell - math.ceil(font.getlength(high)) - 10 - start
    if length > 0:
        ramp = colour(np.tile(np.linspace(0, 1, length), (BAR_HEIGHT, 1)), (0, 1), panel.colormap)
        picture.paste(Image.fromarray(ramp), (start, top + 8))
        pen.rectangle((start - 1, top + 7, start + length, top + 8 + BAR_HEIGHT), outline=DARK_GREY)


def _common_scale(panels: Sequence[Panel]) -> float:
    largest: int = max(side for panel in panels for side in panel.image.shape)
    return max(1, round(PANEL_SIDE / largest)) if largest <= LARGEST_SIDE else LARGEST_SIDE / largest


def _new_titles(row: Sequence[Panel], above: Sequence[Panel]) -> list[str]:
    known = [panel.title for panel in above] + [""] * len(row)
    titles = zip((panel.title for panel in row), known, strict=False)
    return ["" if title == over else title.translate(PLAIN) for title, over in titles]


def _row_height(row: Sequence[Panel], titles: Sequence[str], scale: float) -> int:
    below: list[int] = [
        round(scale * panel.image.shape[0]) + NOTE_LINE * (bool(panel.note) + (panel.colormap == "error"))
        for panel in row
    ]
    return max(below) + (TITLE_LINE if any(titles) else 0)


def _shorten(text: str, font: Font, width: int) -> str:
    shown = text.translate(PLAIN)
    while font.getlength(shown) > width and len(shown) > 1:
        shown = shown.rstrip("…")[:-1] + "…"
    return shown


def _wrap(text: str, font: Font, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
