"""How counts are told, in messages and on pages alike."""

from __future__ import annotations


def plural(count: int, what: str) -> str:
    """Return a count with its noun: 1 slice, 2 slices."""
    return f"{count} {what}{'' if count == 1 else 's'}"
