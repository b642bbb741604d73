"""What commands print: progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from sbim_deploy.errors import SbimDeployError


def print_json(value: Any) -> None:
    """Print JSON on stdout; numbers that JSON does not have become null."""
    typer.echo(json.dumps(_without_nonfinite(value), indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns, the first to the left and the others to the right."""
    table = [list(columns), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        typer.echo("  ".join(cells).rstrip())


def note(text: str) -> None:
    """Print a line on stderr."""
    typer.echo(_called(text), err=True)


_NAMES: dict[str, str] = {}  # what is said in place of a temporary file's path


@contextmanager
def calling(path: str, name: str) -> Iterator[None]:
    """Say a name in place of a path in notes and errors while the block runs."""
    _NAMES[path] = name
    try:
        yield
    except SbimDeployError as error:
        error.args = (_called(str(error)),)
        raise
    finally:
        del _NAMES[path]


def _called(text: str) -> str:
    for path, name in _NAMES.items():
        text = text.replace(path, name)
    return text


@contextmanager
def progress_bar(description: str, total: int | None, done: int = 0) -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr while the block runs; the callable moves it to a number of steps done.

    Where stderr is no terminal there is no bar, and the caller's notes say what happens.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda done: progress.update(task, completed=done)


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item) for item in value]
    return value


def describe_engine(description: Mapping[str, str]) -> str:
    """Return one line of what runs the network and why it is that."""
    kernel = f", convolutions by {description['convolutions']}" if "convolutions" in description else ""
    return f"engine: {description['backend']} {description['version']}{kernel} ({description['chosen']})"
