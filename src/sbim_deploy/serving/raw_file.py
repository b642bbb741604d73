"""A session's raw data as an MRD file, where the server was asked to keep it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import h5py

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.mrd.file import MrdWriter
from sbim_deploy.mrd.messages import Readout
from sbim_deploy.serving.log import warn

_FAILURES = (OSError, RuntimeError, InputError)  # h5py raises one of the first two where a disk fails


class RawFile:
    """Appends a session's readouts to DIR/TIME-SESSION.h5, which has that name once it is closed.

    A disk that fails ends the saving, with a line in the log, and not the session. ``sbim-deploy recon``
    and ``sbim-deploy replay`` read the file.
    """

    def __init__(self, folder: Path, session: int, header: str):
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{session}.h5"
        self._session = session
        self._path, self._hidden = folder / name, folder / f".{name}.partial"
        self._file: h5py.File | None = None
        try:
            # Raw data are a patient's: for the server's own user.
            os.close(os.open(self._hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._file = h5py.File(self._hidden, "w")
            self._readouts = MrdWriter(self._file, header.encode())
        except _FAILURES as error:
            self._failed(error)

    def append(self, readout: Readout) -> None:
        """Append a readout as it came."""
        if self._file is None:
            return
        try:
            check_free_space(self._path.parent, readout.data.nbytes + readout.header.nbytes)
            self._readouts.append(readout)
        except _FAILURES as error:
            self._failed(error)

    def close(self) -> None:
        """Close the file and give it its name."""
        if self._file is None:
            return
        try:
            self._file.close()
            os.replace(self._hidden, self._path)
        except _FAILURES as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        number = errno.ENOSPC if isinstance(error, InputError) else getattr(error, "errno", None) or errno.EIO
        warn("raw-data-not-saved", session=self._session, reason=os.strerror(number))
        if self._file is not None:
            with suppress(*_FAILURES):
                self._file.close()
        self._file = None
        self._hidden.unlink(missing_ok=True)
