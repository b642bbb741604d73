"""What is told on stderr while a file is reconstructed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from sbim_deploy.cli.output import describe_engine, note, progress_bar, warn
from sbim_deploy.words import plural


class _Bar:
    """A progress bar that starts when the run knows its length."""

    def __init__(self, stack: ExitStack):
        self._stack = stack
        self._told: set[str] = set()

    def started(self, n_slices: int, n_done: int, n_calls: int, engine: Mapping[str, str]) -> None:
        note(describe_engine(engine))
        if n_done:
            note(f"resuming: {n_done} of {plural(n_slices, 'slice')} done")
        bar = progress_bar(plural(n_slices, "slice"), n_slices * n_calls, n_done * n_calls)
        self._move_to = self._stack.enter_context(bar)
        self._done = n_done * n_calls
        self._is_long = n_slices > 1

    def doubted(self, index: int, doubts: Mapping[str, str]) -> None:
        # The first slice of each kind while there is time to stop; the closing lines list all of them.
        for kind, doubt in doubts.items():
            if self._is_long and kind not in self._told:
                self._told.add(kind)
                warn(f"slice {index}: {doubt}")

    def left_out(self, reason: str) -> None:
        note(f"going on without a slice: {reason}", even_quiet=True)

    def advanced(self, n_calls: int) -> None:
        self._done += n_calls
        self._move_to(self._done)


@contextmanager
def shown_progress() -> Iterator[_Bar]:
    """Show the bar of a run while the block runs."""
    with ExitStack() as stack:
        yield _Bar(stack)
