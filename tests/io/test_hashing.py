from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.hashing import file_sha256


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc" * 100_000)
    assert file_sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="no such file"):
            file_sha256(path)
