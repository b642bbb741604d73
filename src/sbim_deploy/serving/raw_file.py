"""A session's raw data as a file, where the server was asked to keep it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space, check_writable
from sbim_deploy.mrd.messages import Close, Header, Readout, Waveform
from sbim_deploy.mrd.recording import RecordingWriter
from sbim_deploy.serving.log import warn

UNFINISHED = ".partial"
_FAILURES = (OSError, InputError)


class RawFile:
    """Appends a session's header, readouts and waveforms to DIR/TIME-SESSION.mrd, a kept MRD stream.

    The file has that name once it is closed, and ``.partial`` behind it until then: whatever ends the server,
    what came before is in it. A disk that fails ends the saving, with a line in the log, and not the session.
    ``sbim-deploy recon`` and ``sbim-deploy replay`` read both.

    Attributes:
        outcome: the file's name, or why it is unfinished.
    """

    def __init__(self, folder: Path, session: int, header: Header):
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{session}.mrd"
        self._session = session
        self._path, self._unfinished = folder / name, folder / f"{name}{UNFINISHED}"
        self._writer: RecordingWriter | None = None
        self.outcome = self._unfinished.name
        try:
            check_free_space(folder, len(header.xml))
            self._writer = RecordingWriter(self._unfinished, header)
        except _FAILURES as error:
            self._failed(error)

    @property
    def is_open(self) -> bool:
        """Whether the file still takes messages: it is not closed, and nothing has failed."""
        return self._writer is not None

    def append(self, message: Readout | Waveform) -> None:
        """Append a message as it came."""
        if self._writer is None:
            return
        try:
            check_free_space(self._path.parent, message.data.nbytes + message.header.nbytes)
            self._writer.append(message)
        except _FAILURES as error:
            self._failed(error)

    def close(self, complete: bool) -> None:
        """Close the file, once, and give it its name; ``complete`` says that the client sent all it had."""
        if self._writer is None:
            return
        try:
            if complete:
                self._writer.append(Close())
            self._writer.close()
            if self._path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.rename(self._unfinished, self._path)
            self.outcome, self._writer = self._path.name, None
        except _FAILURES as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        number = errno.ENOSPC if isinstance(error, InputError) else getattr(error, "errno", None) or errno.EIO
        reason = os.strerror(number)
        kept = self._unfinished.name if self._unfinished.exists() else None
        warn("raw-data-not-saved", session=self._session, reason=reason, kept=kept)
        self.outcome = f"unfinished ({reason})"
        if self._writer is not None:
            with suppress(*_FAILURES):
                self._writer.close()
        self._writer = None


def check_raw_folder(folder: Path) -> None:
    """Check that raw data can be kept in a folder.

    Raises:
        InputError: there is no such folder, or it takes no files, or its disk is full.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder for raw data: create it first")
    check_writable(folder / "raw.mrd")
    check_free_space(folder, 0)


def warn_of_unfinished(folder: Path) -> None:
    """Log what servers that were killed left in a folder, or others are still writing."""
    for path in sorted(folder.glob(f"*{UNFINISHED}")):
        with suppress(OSError):
            warn("raw-data-unfinished", file=path.name, bytes=path.stat().st_size)
