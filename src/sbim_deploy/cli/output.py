"""What commands print: progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import functools
import inspect
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from importlib.metadata import version
from typing import Annotated, Any

import typer

from sbim_deploy import __version__
from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.words import plural


class Loudness(IntEnum):
    """How much a command says on stderr; what it prints on stdout is always the same."""

    QUIET = 0
    USUAL = 1
    VERBOSE = 2


_LOUDNESS = [Loudness.USUAL]  # of the command that runs: a program runs one

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing on stderr but warnings and errors.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Say more on stderr: versions, why this engine, times, and an error's causes."
    ),
]


def talking(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes ``--quiet`` and ``--verbose`` too."""
    declared = inspect.signature(command, eval_str=True).parameters.values()
    kinds = {"quiet": Quiet, "verbose": Verbose}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in kinds.items()
    ]

    @functools.wraps(command)
    def talks(*, quiet: bool, verbose: bool, **given: Any) -> None:
        if quiet and verbose:
            raise InputError("--quiet and --verbose are both given: give one of them")
        set_loudness(Loudness.QUIET if quiet else Loudness.VERBOSE if verbose else Loudness.USUAL)
        detail(
            f"sbim-deploy {__version__}, Python {platform.python_version()}, NumPy {version('numpy')}, "
            f"{platform.system()} {platform.machine()}"
        )
        command(**given)

    talks.__signature__ = inspect.Signature([*declared, *more])  # type: ignore[attr-defined]
    return talks


def set_loudness(loudness: Loudness) -> None:
    """Say how much is said from now on."""
    _LOUDNESS[0] = loudness


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


def note(text: str, even_quiet: bool = False) -> None:
    """Print a line on stderr: what happens, which ``--quiet`` leaves out unless the user must know it."""
    if even_quiet or _LOUDNESS[0] > Loudness.QUIET:
        typer.echo(_called(text), err=True)


def warn(text: str) -> None:
    """Print a warning on stderr, which nothing silences."""
    note(f"warning: {text}", even_quiet=True)


def detail(text: str) -> None:
    """Print a line on stderr for who asked for more."""
    if _LOUDNESS[0] is Loudness.VERBOSE:
        note(text)


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
    if _LOUDNESS[0] is Loudness.QUIET or sys.stderr is None or not sys.stderr.isatty():
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


def describe_engine(description: Mapping[str, str], whole: bool = False) -> str:
    """Return one line of what runs the network; ``whole``, or with ``--verbose``, also why it is that."""
    name = f"engine: {description['backend']} {description['version']}"
    if (streams := description.get("streams", "1")) != "1":
        name = f"{name}, {plural(int(streams), 'call')} side by side"
    if whole or _LOUDNESS[0] is Loudness.VERBOSE:
        kernel = f", convolutions by {description['convolutions']}" if "convolutions" in description else ""
        return f"{name}{kernel} ({description['chosen']})"
    return f"{name}, since {description['failed']}" if "failed" in description else name
