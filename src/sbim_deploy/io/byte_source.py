"""The bytes of a file from strangers, taken in order; counts are compared with what is left.

No more than a window of the file is in memory.
"""

from __future__ import annotations

from io import FileIO

import numpy as np

from sbim_deploy.errors import InputError

WINDOW_BYTES = 16 * 1024


class Source:
    """The bytes of an open file in order, a window of them in memory.

    Attributes:
        size: how many there are.
        within: what is being read, for error messages.
    """

    def __init__(self, file: FileIO, size: int, where: str) -> None:
        self.size, self.within = size, "the beginning"
        self._file, self._where = file, where
        self._start = self._next = 0
        self._window = b""
        self._spent, self._budget = 0, size

    @property
    def place(self) -> int:
        """The place of the next byte."""
        return self._start + self._next

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return self.size - self.place

    def begin(self, within: str, budget: int | None) -> None:
        """Begin a part that may take so many bytes beside its arrays; None is without bound."""
        self.within = within
        self._spent, self._budget = -self._next, self.size if budget is None else budget

    def fault(self, what: str) -> InputError:
        """Return the error of bytes that no sound stream has."""
        return InputError(
            f"{self._where}: {self.within}, byte {self.place}: {what}; the stream is damaged, fetch it again"
        )

    def peek(self) -> int:
        """Return the next byte, which is still to be read."""
        value = self.byte()
        self._next -= 1
        return value

    def byte(self) -> int:
        """Read a byte."""
        if self._next >= len(self._window):
            self._fill()
        value = self._window[self._next]
        self._next += 1
        return value

    def varint(self) -> int:
        """Read an unsigned number of up to 64 bits, seven in each byte."""
        value = self.byte()
        if value < 0x80:
            return value
        value &= 0x7F
        for shift in range(7, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        if byte >= 0x80 or value >= 2**64:
            raise self.fault("a number has more than 64 bits")
        return value

    def count(self, least: int, what: str) -> int:
        """Read how many parts follow, each of at least so many bytes."""
        n_parts = self.varint()
        self.check_left(n_parts, least, what)
        return n_parts

    def check_left(self, n_parts: int, least: int, what: str) -> None:
        """Check that the bytes that are left can hold so many parts.

        Raises:
            InputError: they cannot.
        """
        if n_parts * least > self.left:
            raise InputError(
                f"{self._where}: {self.within}, byte {self.place}: {n_parts} {what} need {n_parts * least} "
                f"bytes and {self.left} are left; the stream is incomplete or damaged, fetch it again"
            )

    def take(self, n_bytes: int) -> bytes:
        """Read the next bytes, few."""
        end = self._next + n_bytes
        if end <= len(self._window):
            taken = self._window[self._next : end]
            self._next = end
            return taken
        parts = []
        while n_bytes:
            if self._next >= len(self._window):
                self._fill()
            part = self._window[self._next : self._next + n_bytes]
            self._next += len(part)
            n_bytes -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, n_bytes: int) -> None:
        """Step over bytes that :meth:`check_left` has found to be there."""
        if self._next + n_bytes <= len(self._window):
            self._next += n_bytes
            self._spent -= n_bytes
            return
        self._spent += self._next
        self._start, self._next, self._window = self.place + n_bytes, 0, b""

    def skip_varints(self, n_numbers: int) -> None:
        """Step over numbers of up to 64 bits."""
        while n_numbers:
            if self._next >= len(self._window):
                self._fill()
            rest = np.frombuffer(self._window, np.uint8, offset=self._next)
            ends = np.flatnonzero(rest < 0x80)
            found = min(len(ends), n_numbers)
            n_numbers -= found
            stepped = len(rest) if n_numbers else int(ends[found - 1]) + 1
            self._next += stepped
            self._spent -= stepped

    def _fill(self) -> None:
        """Read the next window; the bytes of the one before are spent."""
        self._start += len(self._window)
        self._spent += self._next
        self._next, self._window = 0, b""
        if self._spent > self._budget:
            raise self.fault(f"has more than {self._budget} bytes beside its arrays")
        if self._file.tell() != self._start:
            self._file.seek(self._start)
        self._window = self._file.read(WINDOW_BYTES)
        if not self._window:
            raise InputError(
                f"{self._where}: ends after {self.size} bytes, within {self.within}; the sender stopped or "
                "the file is cut short: send or fetch it again"
            )
