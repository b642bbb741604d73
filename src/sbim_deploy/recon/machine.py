"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy import __version__


def machine() -> dict[str, Any]:
    """Return the processor's name, its cores, and the versions that every backend shares."""
    return {
        "cpu": _line_of(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "sbim-deploy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def peak_memory_mb() -> float | None:
    """Return the most memory that this process has held, or None where the system does not tell."""
    # Not getrusage, whose maximum is the parent's where the parent held more.
    peak = _line_of(Path("/proc/self/status"), "VmHWM")
    return None if peak is None else int(peak.split()[0]) / 1024


def _line_of(path: Path, name: str) -> str | None:
    """Return what stands after ``name`` and a colon in a file, if the system has it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    parts = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in parts if key.strip() == name), None)
