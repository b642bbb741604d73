"""``sbim-deploy recon`` of many files."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli.output import describe_engine, note, print_json, print_table, progress_bar, warn
from sbim_deploy.errors import InputError, install_command
from sbim_deploy.words import plural

if TYPE_CHECKING:
    from sbim_deploy.runs.settings import ReconSettings
    from sbim_deploy.study.files import FileRecord, StudyReport


@dataclass(frozen=True)
class Cluster:
    """The options that say where a study runs."""

    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes for a study on this machine; default one for each core, without Dask one."
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="The Dask cluster that a study runs on, such as tcp://host:8786."
        ),
    ] = None
    resources: Annotated[
        str | None,
        typer.Option(metavar="NAME=AMOUNT", help="What a worker of that cluster must offer, such as GPU=1."),
    ] = None

    def check_absent(self) -> None:
        """Raise InputError where one of them is given for a single file."""
        for name, value in asdict(self).items():
            if value is not None:
                raise InputError(
                    f"--{name} is of a study: several files, a folder, or a list of paths (.txt)"
                )


def is_study(inputs: Sequence[Path]) -> bool:
    """Tell whether inputs are a study: several, a folder, or a list of paths."""
    return len(inputs) > 1 or inputs[0].suffix == ".txt" or inputs[0].is_dir()


def run_recon_study(
    inputs: Sequence[Path],
    folder: Path,
    recon: ReconSettings,
    cluster: Cluster,
    json: bool,
) -> None:
    """Reconstruct a study with a bar and a line for each file on stderr, and its table on stdout.

    Raises:
        InputError: an option is wrong, or at least one file has failed.
    """
    from sbim_deploy.records import NOTICE
    from sbim_deploy.study.files import REPORT_NAME, report_as_dict
    from sbim_deploy.study.run import EXTRA, StudySettings, run_study

    settings = StudySettings(recon, cluster.workers, cluster.scheduler, _parse_resources(cluster.resources))
    if settings.runs_alone:
        note(f"in one process, for want of Dask; on several: {install_command(EXTRA)}")
    try:
        with ExitStack() as stack:
            progress = _Progress(stack)
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, progress.interrupt)
                progress.before[number] = before
                stack.callback(signal.signal, number, before)
            report = run_study(inputs, folder, settings, progress)
    except KeyboardInterrupt:
        note("stopped: what is finished is kept, go on with --resume", even_quiet=True)
        raise
    for warning in report.model_warnings:
        warn(warning)
    if json:
        print_json(report_as_dict(report))
    else:
        _print_summary(report)
    failed = report.counts["failed"]
    if failed:
        raise InputError(
            f"{failed} of {plural(len(report.files), 'file')} failed, the others are whole: "
            f"{folder / REPORT_NAME} tells why; go on with --resume"
        )
    note(f"{folder / REPORT_NAME}: {report.seconds:.1f} s. {NOTICE}")


class _Progress:
    """A bar over all files, and a line for each on stderr."""

    def __init__(self, stack: ExitStack):
        self._stack = stack
        self._move_to: Callable[[float], None] = lambda _done: None
        self._n_ended = self._n_files = 0
        self._interrupted = False
        self.before: dict[int, object] = {}  # what signals did, for each

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Stop the study: where Python cannot pass the exception on, as in a callback, at the next step."""
        self._interrupted = True
        before = self.before[number]
        if callable(before):
            before(number, frame)
        raise KeyboardInterrupt

    def left_out(self, why: str) -> None:
        note(f"left out: {why}")

    def waiting(self, what: str) -> None:
        note(f"waiting for a worker: {what}")

    def started(self, n_files: int, n_workers: int, engine: Mapping[str, str]) -> None:
        note(describe_engine(engine))
        self._n_files = n_files
        bar = progress_bar(f"{plural(n_files, 'file')}, {plural(n_workers, 'worker')}", n_files)
        self._move_to = self._stack.enter_context(bar)

    def advanced(self, n_files: float) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._move_to(n_files)

    def ended(self, record: FileRecord) -> None:
        self._n_ended += 1
        what = {
            "done": f"{plural(record.slices, 'slice')}, {record.seconds:.1f} s",
            "kept": "is there already",
            "failed": f"FAILED: {record.error}",
        }[record.state]
        place = f"{self._n_ended}/{self._n_files}"
        note(f"{place} {record.name}: {what}", even_quiet=record.state == "failed")
        for warning in record.warnings:
            warn(f"{record.name}: {warning}")


def _print_summary(report: StudyReport) -> None:
    rows = []
    for state, count in report.counts.items():
        files = [record for record in report.files if record.state == state]
        n_slices = sum(record.slices for record in files)
        seconds = sum(record.compute_seconds for record in files)
        rows.append((state, str(count), str(n_slices), f"{seconds:.1f}"))
    print_table(("files", "number", "slices", "compute s"), rows)
    for record in report.files:
        if record.state == "failed":
            typer.echo(f"failed: {record.name}: {record.error}")


def _parse_resources(text: str | None) -> dict[str, float] | None:
    """Read NAME=AMOUNT,NAME=AMOUNT."""
    if text is None:
        return None
    resources = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        try:
            resources[name.strip()] = float(amount)
        except ValueError:
            resources[name.strip()] = 0.0
        if not name.strip() or not 0 < resources[name.strip()] < float("inf"):
            raise InputError(f"--resources is {text!r}: expected NAME=AMOUNT, such as GPU=1")
    return resources
