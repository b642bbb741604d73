"""How long a session's slices took: the one line that its end leaves in the log."""

from __future__ import annotations

from statistics import median
from typing import Any


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
