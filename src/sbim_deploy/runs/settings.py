"""How to reconstruct a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import DEMO
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.map_choice import AUTO, ESPIRIT, MAP_METHODS, NLINV
from sbim_deploy.mri.masks import CENTRED, MASK_CONVENTIONS, PATTERNS
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH
from sbim_deploy.records import MAX_MAP_SETS
from sbim_deploy.samplers.choice import SamplerChoice


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
    how maps are estimated where none are given, ``map_sets`` how many sets of them. ``orientation`` is that
    of k-space. ``sd_factor`` multiplies the standard deviation, as scans with a reference were found to need
    it.
    """

    model: str | Path = DEMO
    maps: Path | None = None
    map_method: str = AUTO
    map_sets: int = 1
    noise: float | None = None
    choice: SamplerChoice = field(default_factory=SamplerChoice)
    seed: int = 0
    samples: int = 1
    sd_factor: float = 1.0
    orientation: Orientation = Orientation.AUTO
    slices: tuple[int, int] | None = None
    batch: int = 1
    backend: str = "auto"
    threads: int | None = None
    graph: str = DEFAULT_GRAPH
    undersampling: Undersampling | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("samples", self.samples), ("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1")
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
        if not 0 < self.sd_factor < math.inf:
            raise InputError(f"sd factor is {self.sd_factor:g}: expected a finite number above 0")
        if self.samples == 1 and self.sd_factor != 1:
            raise InputError(
                "sd factor is given, but one sample has no standard deviation: draw more of them"
            )
