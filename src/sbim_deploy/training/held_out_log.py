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
