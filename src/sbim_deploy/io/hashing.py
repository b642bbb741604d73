"""The SHA-256 of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sbim_deploy.errors import InputError


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits, read in small pieces.

    Raises:
        InputError: ``path`` is no plain file or cannot be read.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; check the path")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
