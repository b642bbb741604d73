"""Keeps the recurrence of the last shapes, whose memory and graphs cost as much as some of its steps."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from sbim_deploy.engines.engine import Arrays, Recurrence


class Restartable(Recurrence, Protocol):
    """A recurrence that can begin again with other inputs of the same shapes."""

    def restart(self, inputs: Arrays) -> None:
        """Begin again from ``inputs``, all of them, once every run is over."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class RecurrenceKeeper:
    """Lends one recurrence at a time, and keeps it for the next who asks for the like.

    Who asks while it is lent gets another, which is freed after use. After an error it is freed too, and so
    it is as soon as another is asked for.
    """

    def __init__(self) -> None:
        self._kept: Restartable | None = None
        self._key: tuple[Any, ...] = ()
        self._lent: Callable[[], LentRecurrence | None] = lambda: None
        self._lock = threading.Lock()

    def begin(
        self, state: str, output: str, inputs: Arrays, make: Callable[[], Restartable]
    ) -> LentRecurrence:
        """Return the kept recurrence, begun again, or a new one."""
        shapes = sorted((name, array.shape, array.dtype.str) for name, array in inputs.items())
        key = (state, output, *shapes)
        with self._lock:
            lent = self._lent()
            if lent is not None and lent.is_open:
                return LentRecurrence(make(), lambda: None, is_kept=False)
            if self._kept is not None and key == self._key:
                try:
                    self._kept.restart(inputs)
                except BaseException:
                    self._drop()
                    raise
            else:
                self._drop()
                self._kept, self._key = make(), key
            lent = LentRecurrence(self._kept, self.drop, is_kept=True)
            self._lent = weakref.ref(lent)
            return lent

    def drop(self) -> None:
        """Free the kept recurrence."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self._kept, self._lent = None, lambda: None


class LentRecurrence:
    """A recurrence that goes back to its keeper when it is closed, or when nothing refers to it."""

    def __init__(self, recurrence: Restartable, drop: Callable[[], None], is_kept: bool):
        self._recurrence: Restartable | None = recurrence
        self._drop, self._is_kept = drop, is_kept

    @property
    def is_open(self) -> bool:
        """Whether it was neither closed nor given up."""
        return self._recurrence is not None

    def advance(self, changed: Arrays) -> None:
        """Run the graph once; see :class:`sbim_deploy.engines.engine.Recurrence`."""
        recurrence = self._open()
        try:
            recurrence.advance(changed)
        except ValueError:
            raise  # of arrays that were refused: nothing has begun
        except BaseException:
            self._give_up(recurrence)
            raise

    def read(self) -> NDArray[Any]:
        """Return a copy of the state, once every run is over."""
        recurrence = self._open()
        try:
            return recurrence.read()
        except BaseException:
            self._give_up(recurrence)
            raise

    def close(self) -> None:
        """Give it back."""
        if self._recurrence is not None and not self._is_kept:
            self._recurrence.close()
        self._recurrence = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Restartable:
        if self._recurrence is None:
            raise ValueError("the recurrence is closed: begin another one")
        return self._recurrence

    def _give_up(self, recurrence: Restartable) -> None:
        self._drop()
        recurrence.close()
        self._recurrence = None
