"""How to reconstruct a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import GUESSED, Reading
from sbim_deploy.models.folder import DEMO
from sbim_deploy.models.precision import check_precision
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.map_choice import AUTO, ESPIRIT, MAP_METHODS, NLINV
from sbim_deploy.mri.masks import CENTRED, MASK_CONVENTIONS, PATTERNS
from sbim_deploy.recon.classical import Classical
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, SCORE_GRAPH
from sbim_deploy.records import MAX_MAP_SETS
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.plan import Plan

DIMENSIONS = (2, 3)


@dataclass(frozen=True)
class Undersampling:
    """Lines to take away from a fully sampled file, for experiments."""

    pattern: str
    acceleration: float
    convention: str = CENTRED

    def __post_init__(self) -> None:
        """Check the names; the acceleration is checked against the file's lines."""
        if self.convention not in MASK_CONVENTIONS:
            raise InputError(
                f"unknown mask convention {self.convention!r}: expected one of {', '.join(MASK_CONVENTIONS)}"
            )
        if self.pattern not in PATTERNS:
            raise InputError(f"unknown pattern {self.pattern!r}: expected one of {', '.join(PATTERNS)}")


@dataclass(frozen=True)
class ReconSettings:
    """How to reconstruct a file; ``slices`` is a half-open range, None is all of them.

    ``batch`` counts the images in a call of the engine: slices, and with several ``samples`` those of a slice
    first. ``noise`` is the standard deviation of each part of k-space; None measures it. ``map_method`` is
    how maps are estimated where none are given, ``map_sets`` how many sets of them. ``method`` None is the
    sampler of ``choice``; another takes no network, and nothing that is said of one. ``orientation`` is that
    of k-space. ``reading`` is how k-space in a plain array is read. ``dimensions`` 3 says it is a volume,
    ``volume`` which of several in the file, and ``through_plane`` that its slices are reconstructed together.
    ``precision`` is that of :func:`sbim_deploy.models.backends.open_engine`.
    ``resume`` goes on with a run that was stopped, ``force`` replaces outputs that are there.
    """

    model: str | Path = DEMO
    maps: Path | None = None
    map_method: str = AUTO
    map_sets: int = 1
    noise: float | None = None
    method: Classical | None = None
    choice: SamplerChoice | Plan = field(default_factory=SamplerChoice)
    seed: int = 0
    samples: int = 1
    orientation: Orientation = Orientation.AUTO
    slices: tuple[int, int] | None = None
    batch: int = 1
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    graph: str = DEFAULT_GRAPH
    undersampling: Undersampling | None = None
    reading: Reading = GUESSED
    dimensions: int = 2
    through_plane: bool = False
    volume: int | None = None
    resume: bool = False
    force: bool = False

    @property
    def slices_a_batch(self) -> int:
        """The slices that are computed together."""
        return max(1, self.batch // self.samples)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("samples", self.samples), ("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1")
        self._check_dimensions()
        self._check_through_plane()
        check_precision(self.precision)
        self._check_without_network()
        if self.map_method not in MAP_METHODS:
            raise InputError(
                f"unknown map method {self.map_method!r}: expected one of {', '.join(MAP_METHODS)}"
            )
        if self.maps is not None and (self.map_method != AUTO or self.map_sets != 1):
            raise InputError("maps are given and so is a method to estimate them: leave one of them out")
        if not 1 <= self.map_sets <= MAX_MAP_SETS:
            raise InputError(f"map sets is {self.map_sets}: expected 1 or {MAX_MAP_SETS}")
        if self.map_sets > 1 and self.map_method == NLINV:
            raise InputError(f"map method {NLINV} estimates one set: take {ESPIRIT} or {AUTO} for two")
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise InputError(f"noise is {self.noise:g}: expected a finite number above 0")

    def _check_dimensions(self) -> None:
        """Refuse what does not go with slices, or with a volume."""
        if self.dimensions not in DIMENSIONS:
            raise InputError(f"dimensions is {self.dimensions}: expected 2, slices, or 3, a volume")
        if self.dimensions == 2 and self.volume is not None:
            raise InputError("a volume is named, and dimensions is 2, slices: give --dimensions 3 too")

    def _check_through_plane(self) -> None:
        """Refuse what slices that are reconstructed together do not take."""
        if not self.through_plane:
            return
        if self.dimensions == 2:
            raise InputError("through-plane is of a volume, and dimensions is 2: give --dimensions 3 too")
        if self.method is not None:
            raise InputError(f"method {self.method} takes no network: leave --through-plane out")
        if self.samples > 1:
            raise InputError(
                f"through-plane draws one image, and {self.samples} samples are asked for: leave --samples "
                "out, or take the preset balanced or fast"
            )
        if self.map_sets > 1:
            raise InputError("through-plane takes one set of maps: leave --map-sets out")
        if self.graph not in (DEFAULT_GRAPH, SCORE_GRAPH):
            raise InputError(f"through-plane takes --graph {SCORE_GRAPH}, and {self.graph} is asked for")

    def _check_without_network(self) -> None:
        """Refuse what a method without the network would ignore."""
        if self.method is None:
            return
        ignored = {
            "model": str(self.model) != DEMO,
            "sampler": self.choice != SamplerChoice(),
            "samples": self.samples != 1,
            "backend": self.backend != "auto",
            "precision": self.precision is not None,
            "graph": self.graph != DEFAULT_GRAPH,
            "threads": self.threads is not None,
            "batch": self.batch != 1,
        }
        given = [name for name, is_given in ignored.items() if is_given]
        if given:
            raise InputError(f"method {self.method} takes no network: leave {' and '.join(given)} out")
