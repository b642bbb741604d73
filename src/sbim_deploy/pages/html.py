"""Self-contained HTML pages: text from strangers stays text, pictures lie inside, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sbim_deploy.io.atomic import replacing

MAX_TEXT = 400


def text(value: object) -> str:
    """Return a value as HTML text or attribute, shortened to 400 characters.

    What cannot be printed, such as control characters, half surrogates and marks that turn the direction of
    writing, becomes the replacement character.
    """
    shown = "".join(each if each.isprintable() else "\ufffd" for each in str(value))
    return html.escape(shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…")


def table(rows: Sequence[tuple[object, object]]) -> str:
    """Return a table of names and values, escaped."""
    cells = (f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Return (rows, columns) grey or (rows, columns, 3) coloured pixels as the address of a PNG picture."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def write_page(path: Path, title: str, style: str, script: str, body: str) -> None:
    """Write a page whose policy lets a browser run this script alone, and fetch nothing.

    Args:
        path: the file.
        title: plain text; style, script and body are inserted as they are.
        style: CSS.
        script: JavaScript, run after the body.
        body: HTML.

    Raises:
        InputError: the file cannot be written.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 42
MAX_MARKED = 4
SMALLEST = 1e-12

Points = Sequence[tuple[float, float]]


def log_plot(title: str, x_label: str, line: Points, band: tuple[Points, Points] | None = None) -> str:
    """Draw y over x >= 0 as a line, within a band from its lower to its upper edge where there is one.

    The y axis is logarithmic and runs over whole decades, with what is not above 0 at its foot; few points
    are marked one by one. ``line`` has at least one point.
    """
    edges = list(line) if band is None else [*band[0], *band[1]]
    last = max(max(x for x, _ in edges), 1)
    decades = [math.log10(max(y, SMALLEST)) for _, y in edges]
    low = math.floor(min(decades))
    high = max(math.ceil(max(decades)), low + 1)

    def place(point: tuple[float, float]) -> str:
        x, y = point
        up = (math.log10(max(y, SMALLEST)) - low) / (high - low)
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / last
        return f"{across:.1f},{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up:.1f}"

    drawn = [_grid(low, high, last)]
    if band is not None:
        outline = " ".join(map(place, [*band[0], *reversed(band[1])]))
        drawn.append(f'<polygon class="band" points="{outline}"/>')
    dashed = " few" if len(line) <= MAX_MARKED else ""
    drawn.append(f'<polyline class="line{dashed}" points="{" ".join(map(place, line))}"/>')
    if dashed:
        corners = (place(point).split(",") for point in line)
        drawn += [f'<circle class="mark" cx="{x}" cy="{y}" r="4"/>' for x, y in corners]
    drawn.append(f'<text class="title" x="{LEFT}" y="18">{text(title)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{text(x_label)}</text>')
    return (
        f'<svg class="plot" role="img" aria-label="{text(title)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(drawn)}</svg>"
    )


def _grid(low: int, high: int, last: float) -> str:
    """Return a line with its number for each decade, and the first and the last x."""
    right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM
    drawn = []
    for decade in range(low, high + 1, max(1, (high - low) // 6)):
        y = foot - (foot - TOP) * (decade - low) / (high - low)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_decade(decade)}</text>')
    for x, value, anchor in ((LEFT, 0, "start"), (right, last, "end")):
        drawn.append(f'<text x="{x}" y="{foot + 16}" text-anchor="{anchor}">{value:g}</text>')
    return "".join(drawn)


def _decade(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -4 <= exponent <= 4 else f"1e{exponent}"
