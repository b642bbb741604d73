"""How many slices are reconstructed side by side, and the memory that the work on one takes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from sbim_deploy.engines.engine import available_cores

MIB = 1024**2

# What the work on a slice takes at most, by benchmarks/work_memory.py: preparation, sampler and fallback,
# with the copies of a slice that is assembled or combined meanwhile.
COPIES_OF_KSPACE = 16
BYTES_OF_PIXEL, BYTES_OF_PIXEL_AND_CHANNEL = 200, 40
BYTES_OF_COIL_PAIR = 120_000  # ESPIRiT's operators
COPIES_OF_ENCODING = 4
BYTES_OF_SHAPE = 64 * MIB  # of the engine for a new size, the smallest too
# And along a trajectory: Fourier transforms of it in double precision, and those on the doubled grid.
COPIES_OF_SAMPLES, BYTES_OF_SAMPLE = 14, 128
COPIES_OF_DOUBLED_GRID, BYTES_OF_DOUBLED_PIXEL = 8, 600

MEMORY_SHARE = 0.5
LIMITS_OF_CONTAINERS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def work_bytes(shape: tuple[int, int, int], width: int, n_samples: int = 0) -> int:
    """Return the bytes that the work on one slice takes at most, beside its k-space (coil, rows, columns).

    ``width`` is that of the network's first stage. A network's weights are not in it. Of samples along a
    trajectory there are ``n_samples`` in each coil, and ``shape`` has the rows and columns of the image.
    """
    n_coils, n_rows, n_columns = shape
    n_pixels, size = n_rows * n_columns, np.dtype(np.complex64).itemsize
    along_trajectory = 0
    if n_samples:
        along_trajectory = (
            COPIES_OF_SAMPLES * size * n_coils * n_samples
            + BYTES_OF_SAMPLE * n_samples
            + COPIES_OF_DOUBLED_GRID * size * n_coils * n_pixels
            + BYTES_OF_DOUBLED_PIXEL * n_pixels
        )
    return (
        BYTES_OF_SHAPE
        + COPIES_OF_KSPACE * size * n_coils * n_pixels
        + (BYTES_OF_PIXEL + BYTES_OF_PIXEL_AND_CHANNEL * width) * n_pixels
        + BYTES_OF_COIL_PAIR * n_coils**2
        + COPIES_OF_ENCODING * size * (n_rows**2 + n_columns**2)
        + along_trajectory
    )


def count_streams(n_pieces: int, piece_bytes: int, threads: int | None = None) -> int:
    """Return how many pieces of work are done side by side, each on its share of the threads.

    It is the fewest with which the work takes as many rounds as with one a thread. The work of all together
    fits into half of the memory that there is, whether it is free or not: a run that is resumed has as many.

    Args:
        n_pieces: the slices, or batches of them.
        piece_bytes: what the work on one takes, such as :func:`work_bytes`.
        threads: the threads of all together; None is one for each core.
    """
    most = min(n_pieces, threads or available_cores())
    memory = memory_bytes()
    if memory is not None:
        most = min(most, int(MEMORY_SHARE * memory) // piece_bytes)
    n_rounds = -(-n_pieces // max(1, most))
    return -(-n_pieces // n_rounds)


def memory_bytes() -> int | None:
    """Return the memory of this machine, or of the container that this runs in; None where none is told."""
    told = []
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        told.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in LIMITS_OF_CONTAINERS:
        with suppress(OSError, ValueError):  # without a limit it says "max"
            told.append(int(path.read_text()))
    return min(told, default=None)
