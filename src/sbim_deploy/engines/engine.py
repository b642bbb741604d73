"""The interface of all engines, and the check of the arrays that go in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError, SbimDeployError

MAX_REASON_LENGTH = 300
CORES_OF_CONTAINER = Path("/sys/fs/cgroup/cpu.max")  # as "200000 100000", two cores

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input: its name, its dtype and its sizes.

    A name in place of a size means that the size is free, but the same wherever the name stands. A size that
    is neither a number nor a name, such as "8*h", is free altogether.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


class Recurrence(Protocol):
    """A graph whose output is its own next input. The state stays in two buffers where the graph runs."""

    def advance(self, changed: Arrays) -> None:
        """Replace the inputs that ``changed`` names, run the graph once, and keep its output as the state.

        This may return before the run is over. ``changed`` may be overwritten as soon as it has returned.

        Raises:
            ValueError: a name, dtype or shape is not that of the inputs that the recurrence began with.
        """
        ...

    def read(self) -> NDArray[Any]:
        """Return a copy of the state, once every run is over."""
        ...


class Engine(Protocol):
    """A graph, ready to run.

    ``description`` says what runs it: the backend, its version and the device, for the output's provenance.
    ``streams`` in it is the number of calls that the engine computes side by side, for threads that share it;
    an engine that does not say so computes one at a time.
    """

    description: Mapping[str, str]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs by name.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
        """
        ...

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Begin a recurrence from ``inputs``, all of them, in which ``output`` becomes the input ``state``.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
        """
        ...


def available_cores() -> int:
    """Return the number of cores that this process may run on, as far as a container lets it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # without a quota it says "max"
        quota, period = map(int, CORES_OF_CONTAINER.read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


@contextmanager
def running(path: Path, name: str, inputs: Arrays) -> Iterator[None]:
    """Turn what an engine raises when it runs a graph into one line: memory that is not there, above all.

    Raises:
        InputError: the engine cannot run the graph.
    """
    try:
        yield
    except (SbimDeployError, ValueError):
        raise
    except Exception as error:  # engines raise exceptions of their own
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        shapes = ", ".join(f"{each} {array.shape}" for each, array in inputs.items() if array.ndim > 1)
        raise InputError(
            f"{path}: {name} cannot run it on {shapes} ({reason}); take a smaller batch or image, or another "
            "model or backend"
        ) from error


def check_inputs(specs: Mapping[str, TensorSpec], inputs: Arrays) -> None:
    """Raise ValueError, with what was got and expected, where ``inputs`` differ from ``specs``."""
    missing, unknown = sorted(specs.keys() - inputs.keys()), sorted(inputs.keys() - specs.keys())
    if missing or unknown:
        raise ValueError(f"inputs: missing {missing}, unknown {unknown}, expected {sorted(specs)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, spec in specs.items():
        array = inputs[name]
        if array.dtype != spec.dtype:
            raise ValueError(f"input {name!r} has dtype {array.dtype}, expected {spec.dtype}")
        if array.ndim != len(spec.shape):
            raise ValueError(f"input {name!r} has shape {array.shape}, expected {spec.shape}")
        for got, expected in zip(array.shape, spec.shape, strict=True):
            if isinstance(expected, int):
                fits = got == expected
            else:
                first, where = sizes.setdefault(expected, (got, name))
                fits = got == first
                if not fits:
                    raise ValueError(
                        f"input {name!r} has {expected} = {got}, but input {where!r} has {first}"
                    )
            if not fits:
                raise ValueError(f"input {name!r} has shape {array.shape}, expected {spec.shape}")


def check_changed(begun: Arrays, changed: Arrays) -> None:
    """Raise ValueError where ``changed`` differs in names, dtypes or shapes from the first inputs."""
    for name, array in changed.items():
        if name not in begun:
            raise ValueError(f"input {name!r} is unknown, expected one of {sorted(begun)}")
        expected = begun[name]
        if (array.dtype, array.shape) != (expected.dtype, expected.shape):
            raise ValueError(
                f"input {name!r} is {array.dtype} {array.shape}, expected {expected.dtype} {expected.shape} "
                "as the recurrence began"
            )
