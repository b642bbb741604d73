"""A small plot with a logarithmic axis, as SVG for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sbim_deploy.io.html import text

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
