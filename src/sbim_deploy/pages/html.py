"""Self-contained HTML pages: text from strangers stays text, pictures lie inside, nothing is fetched."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image

from sbim_deploy.io.overwriting import new_file

MAX_TEXT = 400
LONGEST_ALTERNATIVE = 4000  # a plot read aloud has all of its values


def text(value: object, longest: int = MAX_TEXT) -> str:
    """Return a value as HTML text or attribute, shortened to ``longest`` characters.

    What cannot be printed, such as control characters, half surrogates and marks that turn the direction of
    writing, becomes the replacement character.
    """
    shown = "".join(each if each.isprintable() else "\ufffd" for each in str(value))
    return html.escape(shown if len(shown) <= longest else shown[: longest - 1] + "…")


def table(rows: Iterable[tuple[object, object]], longest: int = MAX_TEXT) -> str:
    """Return a table of names and values, escaped and shortened to ``longest`` characters."""
    cells = (
        f'<tr><th scope="row">{text(name)}</th><td>{text(value, longest)}</td></tr>' for name, value in rows
    )
    return f'<table class="names">{"".join(cells)}</table>'


def figure(address: str, alternative: str, caption: str, kind: str = "") -> str:
    """Return a picture with its caption below it; ``kind`` is the CSS class of the picture."""
    return (
        f'<figure><img class="{kind}" src="{address}" alt="{text(alternative, LONGEST_ALTERNATIVE)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def png_uri(picture: Image.Image) -> str:
    """Return a picture as the address of a PNG that holds it."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return data_uri(stream.getvalue(), "image/png")


def page_asset(name: str) -> str:
    """Return the text of a style or a script that lies in the package's ``assets/pages``."""
    return files("sbim_deploy").joinpath("assets/pages", name).read_text(encoding="utf-8")


def packed_page_asset(name: str) -> str:
    """Return the text of a script of others, which lies in ``assets/pages`` by gzip."""
    return gzip.decompress(files("sbim_deploy").joinpath("assets/pages", name).read_bytes()).decode("utf-8")


def write_page(path: Path, title: str, style: str, body: str, script: str = "", force: bool = False) -> None:
    """Write a page whose policy lets a browser run this script alone, or none, and fetch nothing.

    Args:
        path: the file.
        title: plain text; style, body and script are inserted as they are.
        style: CSS.
        body: HTML.
        script: JavaScript, which runs after the body.
        force: whether a file that is there is replaced.

    Raises:
        InputError: the file cannot be written, or is there already.
    """
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        body += f"\n<script>{script}</script>"
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    with new_file(path, force) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 42
MAX_MARKED = 4
SMALLEST = 1e-12

Points = Sequence[tuple[float, float]]


def log_plot(title: str, x_label: str, line: Points, band: tuple[Points, Points] | None = None) -> str:
    """Draw y over x >= 0 as a line, within a band from its lower to its upper edge where there is one.

    The y axis is logarithmic and runs over whole decades, with what is not above 0 at its foot; few points
    are marked one by one. ``line`` has at least one point. Its first, its last, its smallest and its largest
    value are the alternative text.
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
    told = text(_values(title, x_label, line))
    return (
        f'<svg class="plot" role="img" aria-label="{told}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(drawn)}</svg>"
    )


def _values(title: str, x_label: str, line: Points) -> str:
    """Return a line in words."""
    (first_x, first), (last_x, last) = line[0], line[-1]
    values = [y for _, y in line]
    return (
        f"{title}: {first:.3g} at {first_x:g} and {last:.3g} at {last_x:g} ({x_label}), between "
        f"{min(values):.3g} and {max(values):.3g}"
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
