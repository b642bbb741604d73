"""What the scans of an experiment are simulated of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.methods import Name
from sbim_deploy.io.documents import Natural, real, whole
from sbim_deploy.runs.simulate import MAX_SIZE, MIN_SIZE, n_brain_slices
from sbim_deploy.runs.simulate_volume import MAX_VOLUME_SIZE

BRAIN, HEAD = "brain", "head"


@dataclass(frozen=True)
class SimulatedObject:
    """What a simulated scan is of, under the name that it has in the results.

    Either a ``phantom``, or a NIfTI ``volume`` of magnitudes: all of it in three dimensions, and else some
    slices in a ``plane``, by their numbers from left, posterior or inferior, of which the experiment's own
    slices are places in ``volume_slices``. The slices of shepp-logan differ in phase and noise alone, and so
    do volumes.
    """

    name: Name
    phantom: Literal["brain", "shepp-logan", "head"] | None = None
    volume: Path | None = None
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    volume_slices: tuple[Natural, ...] = ()

    def __post_init__(self) -> None:
        """Check that it is one thing, whose slices differ."""
        if (self.phantom is None) == (self.volume is None):
            raise InputError("phantom and volume are both given or both missing, expected one of them")
        check_distinct("volume_slices", self.volume_slices)

    def check(self, dimensions: int) -> None:
        """Check that it is an object of slices, or of volumes.

        Raises:
            InputError: it is not.
        """
        if dimensions == 3 and (self.volume_slices or self.plane != "axial"):
            raise InputError("volume_slices and plane are of dimensions 2: a volume is taken whole")
        if dimensions == 2 and (self.volume is None) == bool(self.volume_slices):
            raise InputError("volume and volume_slices go together: give both, or neither")
        if self.phantom is not None and (self.phantom == HEAD) != (dimensions == 3):
            known = f"{HEAD!r}" if dimensions == 3 else f"{BRAIN!r} or 'shepp-logan'"
            raise InputError(f"phantom is {self.phantom!r}, expected {known} in dimensions {dimensions}")

    def n_slices(self) -> float:
        """Return how many slices there are to choose from."""
        if self.volume is None:
            return n_brain_slices() if self.phantom == BRAIN else math.inf
        return len(self.volume_slices)


@dataclass(frozen=True)
class Simulation:
    """Scans as ``sbim-deploy simulate`` makes them.

    Without ``objects`` it is one, of the synthetic brains held out from training, or of the head that ships.
    ``partitions`` are those of a volume; None is as many as its ``size``.
    """

    size: Annotated[int, whole(MIN_SIZE, MAX_SIZE)] = 128
    coils: Annotated[int, whole(1, 256)] = 8
    noise: Annotated[float, real(0, 1e6)] = 0.01
    partitions: Annotated[int, whole(MIN_SIZE, MAX_VOLUME_SIZE)] | None = None
    objects: tuple[SimulatedObject, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two objects of one name."""
        check_distinct("objects", [each.name for each in self.objects])

    def n_slices(self) -> float:
        """Return how many slices there are to choose from in every scan."""
        return min([each.n_slices() for each in self.objects] or [n_brain_slices()])


def check_distinct(name: str, values: Sequence[Any]) -> None:
    """Raise InputError for a value that an entry of the YAML has twice."""
    for value in values:
        if values.count(value) > 1:
            way_out = "; give each a name of its own" if name in ("methods", "objects") else ""
            raise InputError(f"{name} has {value} twice{way_out}")
