"""A session's raw data as an ISMRMRD file, where the server was asked to keep it."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sbim_deploy.mrd.messages import Readout
from sbim_deploy.serving.log import warn


class RawFile:
    """Appends a session's readouts to DIR/TIME-SESSION.h5, which has that name once it is closed.

    A disk that fails ends the saving, with a line in the log, and not the session. ``sbim-deploy recon``
    and ``sbim-deploy replay`` read the file.
    """

    def __init__(self, folder: Path, session: int, header: str):
        from ismrmrd import Dataset

        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{session}.h5"
        self._session = session
        self._path, self._hidden = folder / name, folder / f".{name}.partial"
        self._dataset = None
        try:
            # Raw data are a patient's: for the server's own user.
            os.close(os.open(self._hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._dataset = Dataset(str(self._hidden), "dataset", create_if_needed=True)
            self._dataset.write_xml_header(header.encode())
        except OSError as error:
            self._failed(error)

    def append(self, readout: Readout) -> None:
        """Append a readout as it came."""
        from ismrmrd import Acquisition, AcquisitionHeader

        if self._dataset is None:
            return
        header = AcquisitionHeader.from_buffer_copy(readout.header.tobytes())
        acquisition = Acquisition(header, readout.data, readout.trajectory)
        try:
            self._dataset.append_acquisition(acquisition)
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """Give the file its name."""
        if self._dataset is None:
            return
        try:
            self._dataset.close()
            os.replace(self._hidden, self._path)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        warn("raw-data-not-saved", session=self._session, reason=os.strerror(error.errno or 0))
        if self._dataset is not None:
            with suppress(OSError):
                self._dataset.close()
        self._dataset = None
        self._hidden.unlink(missing_ok=True)
