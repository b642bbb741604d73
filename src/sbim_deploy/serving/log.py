"""The server's log has one line for each event, as text or as JSON, and never names a patient."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TextIO

LOGGER = logging.getLogger("sbim_deploy.serving")


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event with its fields."""
    LOGGER.log(level, event, extra={"fields": fields})


def warn(event: str, **fields: Any) -> None:
    """Write an event that someone should look at."""
    log(event, logging.WARNING, **fields)


def place_of(error: BaseException) -> str:
    """Return the file and line that an unexpected error came from; its text could repeat a client's data."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"


def set_up_log(as_json: bool, stream: TextIO | None = None) -> None:
    """Send the log to a stream, stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _TextLines())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


class SliceTimes:
    """Latencies and waits of the slices that were sent, in seconds."""

    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._waits: list[float] = []
        self._fallbacks = 0

    def add(self, latency: float, wait: float, is_fallback: bool) -> None:
        """Count a slice: from its last readout to its image sent, and to the start of its reconstruction."""
        self._latencies.append(latency)
        self._waits.append(wait)
        self._fallbacks += is_fallback

    def summary(self) -> dict[str, Any]:
        """Return the fields of the log's line."""
        return {
            "slices": len(self._latencies),
            "fallbacks": self._fallbacks,
            "latency_median_s": round(median(self._latencies), 3) if self._latencies else None,
            "latency_max_s": round(max(self._latencies), 3) if self._latencies else None,
            "queue_wait_max_s": round(max(self._waits), 3) if self._waits else None,
        }


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        return f"{_time(record)} {record.levelname.lower()} {record.getMessage()}{fields}"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps({**line, **_fields(record)}, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _plain(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text) if " " in text or not text.isprintable() else text


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
