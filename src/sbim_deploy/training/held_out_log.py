"""The table of held-out losses: a row for each measurement, a column for each noise level."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from sbim_deploy.io.atomic import replacing


def begin_log(path: Path, sigmas: Sequence[float], step: int) -> None:
    """Write the header, and keep what a run up to ``step`` wrote under the same one."""
    header = ["step", *(f"sigma_{sigma:.4g}" for sigma in sigmas)]
    rows: list[list[str]] = []
    if step and path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            old = list(csv.reader(file))
        if old[:1] == [header]:
            rows = [row for row in old[1:] if int(row[0]) <= step]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def append_row(path: Path, step: int, losses: Sequence[float]) -> None:
    """Append the losses at ``step``."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([step, *(f"{loss:.6g}" for loss in losses)])


def plot_log(path: Path, picture: Path) -> None:
    """Draw the log at ``path``: the loss at each noise level over the steps."""
    # A figure of its own, not pyplot's: no display is asked for and no state is left behind.
    from matplotlib.figure import Figure

    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    steps = [int(row[0]) for row in rows]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="held-out loss", yscale="log")
    for column, name in enumerate(header[1:], start=1):
        axes.plot(steps, [float(row[column]) for row in rows], marker=".", label=name.replace("_", " "))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png")
