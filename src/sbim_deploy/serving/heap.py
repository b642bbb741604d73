"""Memory that sessions freed, back to the system.

glibc keeps a heap for each of many threads, and what a session freed stays in the one that its thread had:
thousands of short sessions would hold tens of MiB that nobody uses. malloc_trim(3) gives back whole pages.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

TRIM_S = 5.0


class HeapTrimmer:
    """Trims the heaps every five seconds at most; does nothing where the C library is not glibc."""

    def __init__(self) -> None:
        self._trim = _find_trim()
        self._due = time.monotonic() + TRIM_S

    def trim_when_due(self) -> None:
        """Trim if the last time is long enough ago: about a millisecond, up to tens after much work."""
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
