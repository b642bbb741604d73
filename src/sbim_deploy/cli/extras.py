"""Packages that only some commands need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sbim_deploy.errors import BackendMissingError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import into the line that says how to install what is missing.

    Raises:
        BackendMissingError: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f'this command needs {error.name}, which is not installed: pip install "sbim-deploy[{extra}]"'
        ) from error
