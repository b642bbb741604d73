"""``sbim-deploy experiment``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli.options import needs
from sbim_deploy.cli.output import note, print_table, progress_bar
from sbim_deploy.words import plural

if TYPE_CHECKING:
    from sbim_deploy.experiment.store import Line


def experiment(
    config: Annotated[Path, typer.Argument(help="The YAML of the experiment (docs/experiments.md).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for the results.")],
) -> None:
    """Compare samplers and other methods over accelerations and slices, on one page.

    The same command goes on with an experiment that was stopped.
    """
    from sbim_deploy.experiment.settings import EXTRA, read_settings
    from sbim_deploy.records import NOTICE

    with needs(EXTRA):
        import matplotlib  # noqa: F401  the page needs it, hours later

        from sbim_deploy.experiment.page import write_page
        from sbim_deploy.experiment.run import run_experiment
        from sbim_deploy.experiment.scans import scan_names
        from sbim_deploy.experiment.store import summarise, write_summary

    settings = read_settings(config)
    with ExitStack() as stack:
        progress = _Progress(stack)
        try:
            finished = run_experiment(settings, output, progress)
        except KeyboardInterrupt:
            note(
                f"stopped: kept {plural(progress.done, 'result')} in {output}, the same command goes on",
                even_quiet=True,
            )
            raise
    scans = scan_names(settings)
    lines = [
        line
        for scan in (None, *(scans if len(scans) > 1 else ()))
        for line in summarise(finished.store.results, settings.baseline, scan)
    ]
    write_summary(output / "summary.csv", lines)
    page = output / "index.html"
    write_page(page, settings, finished, lines)
    _print_lines(lines)
    note(f"look at {page}. {NOTICE}")


class _Progress:
    """A bar that starts when the experiment knows its length, and lines on stderr."""

    def __init__(self, stack: ExitStack):
        self._stack = stack
        self._move_to: Callable[[int], None] = lambda _done: None
        self.done = 0

    def started(self, n_results: int, n_done: int) -> None:
        if n_done:
            note(f"going on: {n_done} of {plural(n_results, 'result')} done")
        self.done = n_done
        self._move_to = self._stack.enter_context(
            progress_bar(plural(n_results, "result"), n_results, n_done)
        )

    def advanced(self) -> None:
        self.done += 1
        self._move_to(self.done)

    def said(self, text: str) -> None:
        note(text)


def _print_lines(lines: list[Line]) -> None:
    errors = {"NRMSE": "nrmse", "through plane": "through_plane_nrmse"}
    errors = {title: metric for title, metric in errors.items() if metric in lines[0].scores}
    columns = ("scan", "method", "pattern", "R", "effective", "PSNR", "SSIM", *errors, "s")
    rows = [
        (
            line.scan or "all",
            line.method,
            line.setting.pattern,
            f"{line.setting.acceleration:g}",
            f"{line.effective_acceleration:.2f}",
            f"{line.scores['psnr'].mean.mean:.2f}",
            f"{line.scores['ssim'].mean.mean:.4f}",
            *(f"{line.scores[metric].mean.mean:.4f}" for metric in errors.values()),
            f"{line.seconds:.2f}",
        )
        for line in lines
    ]
    print_table(columns, rows)
