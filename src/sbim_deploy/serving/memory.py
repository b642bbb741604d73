"""Limits the memory of all sessions' data, and returns freed memory to the system."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable

from sbim_deploy.errors import InputError

MIB = 1024**2

TRIM_S = 5.0
MAX_WAIT_S = 60.0  # for the slices at work, which an engine that hangs never ends


class MemoryBudget:
    """The bytes that sessions may take together, and give back. It is thread-safe.

    Beside what they take, as much stays free as the largest work on a slice needs. More slices are worked on
    at once only while there is room for that, and who needs it for data waits until they are done.
    """

    def __init__(self, total_bytes: int):
        self.total_bytes = total_bytes
        self._taken = 0
        self._reserved: dict[object, int] = {}
        self._at_work: list[int] = []
        self._waiting = 0
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """The bytes that are taken now."""
        return self._taken

    def take(self, n_bytes: int) -> None:
        """Take bytes. Where slices at work beside another are in the way, this waits for them.

        Raises:
            InputError: fewer are left.
        """
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._can_take(n_bytes), MAX_WAIT_S)
            finally:
                self._waiting -= 1
            self._check(n_bytes, max(self._largest, sum(self._at_work)))
            self._taken += n_bytes

    def reserve(self, owner: object, n_bytes: int) -> None:
        """Keep bytes free for the work on an owner's slices, in place of what was kept for it before.

        Raises:
            InputError: there are fewer beside what is taken.
        """
        with self._changed:
            largest = max((each for key, each in self._reserved.items() if key is not owner), default=0)
            if n_bytes > max(largest, self._reserved.get(owner, 0)):
                self._check(0, n_bytes)
            self._reserved[owner] = n_bytes

    def cancel(self, owner: object) -> None:
        """Keep nothing free for an owner any more."""
        with self._changed:
            self._reserved.pop(owner, None)
            self._changed.notify_all()

    def begin_work(self, n_bytes: int) -> bool:
        """Begin to work on a slice, and tell whether there is room: always where no other is at work."""
        with self._changed:
            if self._at_work and not self.has_room([n_bytes]):
                return False
            self._at_work.append(n_bytes)
            return True

    def has_room(self, works: Iterable[int]) -> bool:
        """Tell whether there is room for works of so many bytes beside what is taken and at work."""
        with self._changed:
            at_work = sum(self._at_work) + sum(works)
            return not self._waiting and at_work <= self.total_bytes - self._taken

    def end_work(self, n_bytes: int) -> None:
        """End the work that :meth:`begin_work` began."""
        with self._changed:
            self._at_work.remove(n_bytes)
            self._changed.notify_all()

    @property
    def _largest(self) -> int:
        return max(self._reserved.values(), default=0)

    def _can_take(self, n_bytes: int) -> bool:
        """Tell whether bytes can be taken now.

        Raises:
            InputError: they could not even if at most one slice were at work.
        """
        self._check(n_bytes, self._largest)
        return n_bytes + max(self._largest, sum(self._at_work)) <= self.total_bytes - self._taken

    def _check(self, n_bytes: int, reserved: int) -> None:
        left = self.total_bytes - self._taken
        if n_bytes + reserved <= left:
            return
        if not n_bytes:
            raise InputError(
                f"the work on a slice would take {reserved / MIB:.1f} MiB, {left / MIB:.1f} of "
                f"{self.total_bytes / MIB:.0f} MiB are left: try later, or raise --max-memory"
            )
        raise InputError(
            f"the sessions' data would take {n_bytes / MIB:.1f} MiB more, {(left - reserved) / MIB:.1f} of "
            f"{self.total_bytes / MIB:.0f} MiB are left beside {reserved / MIB:.1f} for the work on a slice: "
            "try later, or raise --max-memory"
        )

    def give(self, n_bytes: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._taken -= n_bytes
            self._changed.notify_all()


class Share:
    """What one session has taken of a budget. All of it goes back at the end. It is thread-safe.

    One thread holds, others release.
    """

    def __init__(self, budget: MemoryBudget):
        self._budget = budget
        self._held: dict[object, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._work = 0

    def hold(self, owner: object, n_bytes: int) -> None:
        """Hold so many bytes for an owner in place of what it held before.

        Raises:
            InputError: the budget has fewer left.
        """
        with self._lock:
            if self._closed:
                return
            change = n_bytes - self._held.get(owner, 0)
        if change > 0:
            self._budget.take(change)  # it may wait, and what other owners hold is released meanwhile
        else:
            self._budget.give(-change)
        with self._lock:
            if self._closed:
                self._budget.give(change)
            else:
                self._held[owner] = n_bytes

    def reserve(self, n_bytes: int) -> None:
        """Keep so many bytes free for the work on this session's slices, or as many as before if more.

        Raises:
            InputError: the budget has fewer.
        """
        with self._lock:
            if not self._closed and n_bytes > self._work:
                self._budget.reserve(self, n_bytes)
                self._work = n_bytes

    def release(self, owner: object) -> None:
        """Give back what an owner holds."""
        with self._lock:
            self._budget.give(self._held.pop(owner, 0))

    def close(self) -> None:
        """Give everything back; nothing can be held afterwards."""
        with self._lock:
            self._closed = True
            self._budget.cancel(self)
            self._budget.give(sum(self._held.values()))
            self._held.clear()


class HeapTrimmer:
    """Trims the heaps every five seconds at most. It does nothing where the C library is not glibc."""

    def __init__(self) -> None:
        self._trim = _find_trim()
        self._due = time.monotonic() + TRIM_S

    def trim_when_due(self) -> None:
        """Trim if the last time is long enough ago. This takes a millisecond, or tens after much work."""
        now = time.monotonic()
        if self._trim is not None and now >= self._due:
            self._trim(0)
            self._due = now + TRIM_S


def _find_trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # no such function; on Windows no such library
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    found: Callable[[int], int] = trim
    return found
