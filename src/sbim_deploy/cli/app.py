"""The program: its commands, and how errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Annotated, Any, NoReturn

import typer

from sbim_deploy import __version__
from sbim_deploy.cli.bench import bench
from sbim_deploy.cli.build import build
from sbim_deploy.cli.demo import demo
from sbim_deploy.cli.evaluate import evaluate
from sbim_deploy.cli.experiment import experiment
from sbim_deploy.cli.export import export
from sbim_deploy.cli.help import Command
from sbim_deploy.cli.info import info
from sbim_deploy.cli.options import with_groups
from sbim_deploy.cli.output import Loudness, detail, set_loudness, talking
from sbim_deploy.cli.plan import plan
from sbim_deploy.cli.recon import recon
from sbim_deploy.cli.replay import replay
from sbim_deploy.cli.sample import sample
from sbim_deploy.cli.serve import serve
from sbim_deploy.cli.simulate import simulate
from sbim_deploy.cli.train import train
from sbim_deploy.cli.triton import triton
from sbim_deploy.cli.validate import validate
from sbim_deploy.errors import InputError, SbimDeployError

INTERRUPTED, TERMINATED = 130, 143

app = typer.Typer(
    name="sbim-deploy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sbim-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Score-based MRI reconstruction without PyTorch. Research use only.

    Exit codes: 0 ok, 1 crash, 2 usage or bad input, 3 parity failed, 4 backend missing,
    5 stale or incompatible engine, 6 checksum.
    """


for command in (
    demo,
    recon,
    evaluate,
    experiment,
    simulate,
    plan,
    sample,
    info,
    export,
    build,
    validate,
    bench,
    triton,
    train,
    replay,
    serve,
):
    app.command(cls=Command)(with_groups(command if command is plan else talking(command)))


def _run() -> NoReturn:
    """Run the command that the arguments name, and end; one that is typed wrongly is an error as any other.

    Raises:
        InputError: a command, an option or a value is none, or one is missing.
    """
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # typer's own, by what they can do: where their classes come from depends on its version.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            sys.exit(InputError.exit_code)
        said = error.format_message().strip().rstrip(".")
        context = getattr(error, "ctx", None)
        path = "sbim-deploy" if context is None else " ".join(["sbim-deploy", *_names(context)])
        raise InputError(f"{said[:1].lower()}{said[1:]} ({path} --help tells what there is)") from None
    sys.exit(code if isinstance(code, int) else 0)  # an option such as --version ends with a number


def _names(context: Any) -> list[str]:
    """Return the names of the commands that led to a context, below the program."""
    return [] if context.parent is None else [*_names(context.parent), str(context.info_name)]


def _tell_causes(error: BaseException) -> None:
    """Say with ``--verbose`` which errors an error was made of."""
    while (cause := error.__cause__) is not None:
        detail(f"because of {type(cause).__name__}: {' '.join(str(cause).split())}")
        error = cause


def main() -> None:
    """Run the program; an error that a user can act on is one line on stderr and an exit code.

    SIGTERM ends it as Ctrl-C does, so that temporary files go and outputs are free; a second one at once.
    """
    terminated = []

    def terminate(*_signal: object) -> None:
        terminated.append(True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    handles = before == signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if handles:
        signal.signal(signal.SIGTERM, terminate)
    try:
        _run()
    except SbimDeployError as error:
        typer.echo(f"sbim-deploy: error: {error}", err=True)
        _tell_causes(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # typer makes the first the second
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        typer.echo(f"sbim-deploy: {'terminated' if terminated else 'interrupted'}", err=True)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    finally:
        set_loudness(Loudness.USUAL)
        if handles:
            signal.signal(signal.SIGTERM, before)
