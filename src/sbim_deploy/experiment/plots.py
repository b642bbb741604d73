"""The thesis's two plots: PSNR and SSIM over the acceleration, a curve and a band for each method."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.summary import Line

# Okabe and Ito's colours, which colour-blind readers can tell apart; the markers say it again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#8C564B")
PEER_COLOURS = ("#222222", "#666666", "#8A8A8A", "#B0B0B0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Fixed, so that the same results give the same page.
STYLE: Any = {
    "svg.hashsalt": "sbim-deploy",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


def plot_scores(lines: Sequence[Line], panels: Sequence[tuple[str, str]]) -> bytes:
    """Draw one pattern's curves side by side and return an SVG.

    Args:
        lines: the lines of one pattern.
        panels: the metric of each panel, and its axis's label.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.3), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (metric, label) in zip(axes, panels, strict=True):
            _draw_panel(axis, lines, metric)
            axis.set_ylabel(label)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), frameon=False)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _draw_panel(axis: Any, lines: Sequence[Line], metric: str) -> None:
    methods = list(dict.fromkeys(line.method for line in lines))
    samplers = [name for name in methods if name not in PEERS]
    for number, method in enumerate(methods):
        own = sorted(
            (line for line in lines if line.method == method), key=lambda line: line.setting.acceleration
        )
        accelerations = [line.setting.acceleration for line in own]
        intervals = [line.scores[metric].mean for line in own]
        is_sampler = method in samplers
        palette = COLOURS if is_sampler else PEER_COLOURS
        place = samplers.index(method) if is_sampler else number
        colour = palette[place % len(palette)]
        axis.fill_between(
            accelerations,
            [each.low for each in intervals],
            [each.high for each in intervals],
            color=colour,
            alpha=0.13 if is_sampler else 0.07,
            linewidth=0,
        )
        axis.plot(
            accelerations,
            [each.mean for each in intervals],
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1.8 if is_sampler else 1.2,
            linestyle="-" if is_sampler else "--",
            label=method,
        )
    # A sampler that fails shall not flatten the other curves.
    axis.set_ylim(bottom=max(axis.get_ylim()[0], 0))
    axis.set_xlabel("nominal acceleration R")
    axis.set_xticks(sorted({line.setting.acceleration for line in lines}))
    axis.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
