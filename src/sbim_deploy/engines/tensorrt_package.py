"""The packages `tensorrt` and `tensorrt_rtx`: one Python API, with few differences."""

from __future__ import annotations

import importlib
from collections import deque
from functools import cache
from typing import Any

from sbim_deploy.errors import BackendMissingError, InputError

PACKAGES = {"trt": "tensorrt", "rtx": "tensorrt_rtx"}
MAX_MESSAGES = 8
MAX_CHARACTERS = 600


def import_package(backend: str) -> Any:
    """Return the module of a backend, ``trt`` or ``rtx``.

    Raises:
        InputError: an unknown backend.
        BackendMissingError: its package is not installed.
    """
    if backend not in PACKAGES:
        raise InputError(f"unknown backend {backend!r}: expected one of {', '.join(PACKAGES)}")
    try:
        return importlib.import_module(PACKAGES[backend])
    except ImportError as error:
        raise BackendMissingError(
            f'{PACKAGES[backend]} is not installed: pip install "sbim-deploy[{backend}]"'
        ) from error


def known_capabilities(trt: Any) -> list[int]:
    """Return the compute capabilities that TensorRT-RTX builds for, such as 89; none for TensorRT."""
    names = getattr(trt, "ComputeCapability", None)
    return sorted(int(name[2:]) for name in getattr(names, "__members__", {}) if name.startswith("SM"))


@cache
def logger_of(trt: Any) -> Any:
    """Return the one logger of a package; its `errors` hold the last messages until they are taken.

    TensorRT keeps the first logger that it is given for the rest of the process.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=MAX_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(" ".join(message.split()))

    return Logger()


def take_errors(trt: Any) -> str:
    """Return what the package complained about since the last time, in one line."""
    errors = logger_of(trt).errors
    text = "; ".join(dict.fromkeys(errors)) or "it gave no reason"
    errors.clear()
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."
