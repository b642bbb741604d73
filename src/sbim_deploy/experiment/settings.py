"""What an experiment is: its YAML, checked key by key."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.methods import WAY_OUT, Method, Text, read_method
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.simulation import Simulation, check_distinct
from sbim_deploy.io.documents import Natural, Positive, convert, read_yaml, real, whole
from sbim_deploy.models.backends import check_backend
from sbim_deploy.models.folder import DEMO
from sbim_deploy.mri.masks import CENTRED, PATTERNS
from sbim_deploy.mri.plane_masks import PLANE_PATTERNS, POISSON
from sbim_deploy.mri.trajectories import TRAJECTORIES
from sbim_deploy.plugins import load_plugins
from sbim_deploy.recon.through_plane import MIN_SLICES
from sbim_deploy.runs.simulate import MAX_SIZE
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings

EXTRA = "experiment"
ESTIMATED, TRUE = "estimated", "true"
MASKED = "masked"
THROUGH_PLANE_NRMSE = "through_plane_nrmse"
LOWER_IS_BETTER = frozenset({"nrmse", THROUGH_PLANE_NRMSE})
MAX_KSPACE_BYTES = 1 << 30  # of a simulated volume: it is made in memory, and BART holds it some times

AtLeastOne = Meta(min_length=1, extra={"expected": "a list of at least one"})


@dataclass(frozen=True)
class Levels:
    """Geometric noise levels that the samplers take in place of the model's, and where Langevin begins.

    A network that divides its output by sigma takes any level; how well it knows it is another matter.
    """

    sigma_begin: Positive
    sigma_end: Positive
    n_levels: Annotated[int, whole(2, 100_000)]
    start_level: Natural = 0


Metric = Literal["psnr", "ssim", "nrmse", "masked_psnr", "masked_ssim", "through_plane_nrmse"]


@dataclass(frozen=True)
class Claim:
    """What somebody says: at which accelerations a method is ahead of another, or behind it."""

    says: Text
    method: str
    against: str
    metric: Metric
    ahead: tuple[float, ...] = ()
    behind: tuple[float, ...] = ()

    def at(self, acceleration: float) -> Literal["ahead", "behind"] | None:
        """Return what is said of an acceleration; None is nothing."""
        if acceleration in self.ahead:
            return "ahead"
        return "behind" if acceleration in self.behind else None


@dataclass(frozen=True)
class ExperimentSettings:
    """An experiment.

    Either ``simulate`` or ``kspace``, fully sampled fastMRI files with a reference, says where slices come
    from; ``slices`` and ``tuning_slices`` are indices into every simulated scan, or into every file. Tuning
    slices choose the peers' regularisation and are never scored. ``shown_slices`` are those on the page,
    of every object or of the first file. ``patterns`` are lines or, of simulated scans, trajectories.

    In 3 ``dimensions`` volumes are simulated in place of slices, ``volumes`` are their numbers, and patterns
    those of both phase encodes, without the corners of k-space where they are ``elliptic``.

    ``threads`` and ``backend`` are those of every method. ``levels`` None are the model's. ``metrics_first``
    are the metrics that the page begins with. Of each of ``claims`` the page says whether it appears.
    """

    title: Text
    accelerations: Annotated[tuple[Annotated[float, real(1, MAX_SIZE)], ...], AtLeastOne]
    methods: Annotated[tuple[Method, ...], AtLeastOne]
    baseline: str
    dimensions: Literal[2, 3] = 2
    slices: tuple[Natural, ...] = ()
    tuning_slices: tuple[Natural, ...] = ()
    shown_slices: tuple[Natural, ...] = ()
    volumes: tuple[Natural, ...] = ()
    tuning_volumes: tuple[Natural, ...] = ()
    shown_volumes: tuple[Natural, ...] = ()
    simulate: Simulation | None = None
    kspace: tuple[Path, ...] = ()
    patterns: Annotated[tuple[str, ...], AtLeastOne] = ("equispaced",)
    elliptic: bool = False
    mask_convention: Literal["centred", "published"] = "centred"
    peers: tuple[str, ...] = tuple(PEERS)
    model: Path = Path(DEMO)
    backend: str = "auto"
    levels: Levels | None = None
    maps: Literal["estimated", "true"] = "estimated"
    metrics_first: Literal["plain", "masked"] = "plain"
    claims: tuple[Claim, ...] = ()
    seed: Natural = 0
    threads: Annotated[int, whole(1, 1024)] = 1

    @property
    def unit(self) -> str:
        """What is scored, in words."""
        return "volume" if self.dimensions == 3 else "slice"

    @property
    def scored(self) -> tuple[int, ...]:
        """The numbers of what is scored, of every scan."""
        return self.volumes if self.dimensions == 3 else self.slices

    @property
    def tuned_on(self) -> tuple[int, ...]:
        """The numbers of what the peers are tuned on."""
        return self.tuning_volumes if self.dimensions == 3 else self.tuning_slices

    @property
    def shown(self) -> tuple[int, ...]:
        """The numbers of what the page shows."""
        return self.shown_volumes if self.dimensions == 3 else self.shown_slices

    def volume_settings(self, pattern: str, acceleration: float, index: int) -> SimulateVolumeSettings:
        """Return what a volume is simulated by: its number is added to the seed.

        Raises:
            InputError: the acceleration does not go with the grid.
        """
        assert self.simulate is not None
        size = self.simulate.size
        return SimulateVolumeSettings(
            size,
            self.simulate.partitions or size,
            self.simulate.coils,
            int(acceleration),
            pattern,
            self.elliptic,
            self.simulate.noise,
            self.seed + index,
        )

    def weights_of(self, peer: str, pattern: str) -> tuple[float, ...]:
        """Return what the weight of a peer is chosen from for a pattern, nothing where it has none."""
        given = PEERS[peer]
        if self.dimensions == 3:
            return () if given.volume is None else given.volume.weights
        return given.trajectory_weights or () if pattern in TRAJECTORIES else given.weights

    def is_tuned(self, peer: str) -> bool:
        """Tell whether a peer has a weight to choose for any of the patterns."""
        return any(self.weights_of(peer, pattern) for pattern in self.patterns)

    def __post_init__(self) -> None:
        """Check that nothing is unknown, named twice, or tuned and scored."""
        if (self.simulate is None) == (not self.kspace):
            raise InputError("simulate and kspace are both given or both missing: expected one of them")
        check_backend(self.backend)
        names = [method.name for method in self.methods]
        for name in ("accelerations", "patterns", "peers", *_places("slice"), *_places("volume")):
            check_distinct(name, getattr(self, name))
        check_distinct("methods", names)
        known = PLANE_PATTERNS if self.dimensions == 3 else (*PATTERNS, *TRAJECTORIES)
        _check_known("patterns", self.patterns, known)
        if not set(self.peers) <= PEERS.keys():
            load_plugins()
        _check_known("peers", self.peers, tuple(PEERS))
        if self.dimensions == 3:
            self._check_volumes()
        else:
            self._check_sampling()
        for each in self.simulate.objects if self.simulate is not None else ():
            try:
                each.check(self.dimensions)
            except InputError as error:
                raise InputError(f"simulate.objects has {each.name}: {error}") from None
        _check_known("baseline", (self.baseline,), (*names, *self.peers))
        for claim in self.claims:
            _check_known("claims", (claim.method, claim.against), (*names, *self.peers))
            _check_known_accelerations(claim, self.accelerations)
            if claim.metric == THROUGH_PLANE_NRMSE and self.dimensions == 2:
                raise InputError(f"claims has the metric {claim.metric}, which is of dimensions 3")
        self._check_unit()
        self._check_places()

    def _check_sampling(self) -> None:
        of_volumes = {
            "elliptic": self.elliptic,
            "simulate.partitions": self.simulate is not None and self.simulate.partitions is not None,
            "methods has through_plane, which": any(method.through_plane for method in self.methods),
        }
        for name, is_given in of_volumes.items():
            if is_given:
                raise InputError(f"{name} is of dimensions 3: leave it out, or give dimensions: 3")
        along = [pattern for pattern in self.patterns if pattern in TRAJECTORIES]
        if along and self.simulate is None:
            raise InputError(
                f"patterns has {along[0]!r}, a trajectory, and kspace files have lines to take away: "
                f"expected some of {', '.join(PATTERNS)}"
            )
        for name in self.peers if along else ():
            if PEERS[name].trajectory_weights is None:
                raise InputError(
                    f"peers has {name!r}, which takes no samples along a trajectory: leave it out, or "
                    f"{', '.join(along)} out of patterns"
                )
        if self.simulate is not None and (most := max(self.accelerations)) > self.simulate.size:
            raise InputError(
                f"accelerations has {most:g}: expected 1 to {self.simulate.size}, the size of simulate"
            )

    def _check_volumes(self) -> None:
        """Check what volumes are simulated by, and who reconstructs them."""
        if self.simulate is None:
            raise InputError("kspace is of dimensions 2: volumes are those of simulate")
        if self.mask_convention != CENTRED:
            raise InputError("mask_convention is of lines: leave it out of dimensions 3")
        for name in self.peers:
            if PEERS[name].volume is None:
                known = ", ".join(each for each, peer in PEERS.items() if peer.volume is not None)
                raise InputError(f"peers has {name!r}, which takes no volumes: expected some of {known}")
        given = self._check_grid()
        for method in self.methods:
            if method.through_plane and given.size < MIN_SLICES:
                raise InputError(
                    f"methods has {method.name}, through_plane: simulate's size is {given.size}, expected at "
                    f"least {MIN_SLICES}"
                )

    def _check_grid(self) -> SimulateVolumeSettings:
        """Check that volumes can be undersampled so, and are not too large, and return one of them."""
        for pattern in self.patterns:
            for value in self.accelerations:
                if value != int(value):
                    raise InputError(f"accelerations has {value:g}: expected whole numbers in dimensions 3")
                try:
                    given = self.volume_settings(pattern, value, 0)
                except InputError as error:
                    raise InputError(f"accelerations has {value:g}, simulate: {error}") from None
        n_bytes = math.prod(given.shape) * given.n_coils * 8
        if n_bytes > MAX_KSPACE_BYTES:
            size = " x ".join(map(str, given.shape))
            raise InputError(
                f"simulate is {size} with {given.n_coils} coils, {n_bytes / 1e9:.1f} GB of k-space: expected "
                f"at most {MAX_KSPACE_BYTES / 1e9:.1f} GB; take a smaller size or fewer coils"
            )
        return given

    def _check_unit(self) -> None:
        """Check that what is scored is named, and what is of other dimensions is not."""
        scored, tuned_on, _ = _places(self.unit)
        for name in _places("slice" if self.dimensions == 3 else "volume"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is of dimensions {5 - self.dimensions}: expected {scored} and {tuned_on}"
                )
        if not self.scored:
            raise InputError(f"lacks {scored}")

    def _check_places(self) -> None:
        scored, tuned_on, shown = _places(self.unit)
        if both := sorted(set(self.scored) & set(self.tuned_on)):
            raise InputError(f"{tuned_on} has {both}, which {scored} has too: tuning must not see them")
        if not self.tuned_on and any(self.is_tuned(name) for name in self.peers):
            raise InputError(f"{tuned_on} is empty: expected at least one, to tune the peers")
        if not set(self.shown) <= set(self.scored):
            raise InputError(f"{shown} is {list(self.shown)}: expected some of {scored}")
        # Past the last brain they start again: a slice would count twice, or be tuned on.
        last = math.inf
        if self.simulate is not None and self.dimensions == 2:
            last = self.simulate.n_slices() - 1
        for name in (scored, tuned_on):
            for index in getattr(self, name):
                if index > last:
                    raise InputError(f"{name} has {index}: expected 0 to {last}")


def read_settings(path: Path) -> ExperimentSettings:
    """Read an experiment; paths in it are relative to its own folder.

    Raises:
        BackendMissingError: PyYAML is not installed.
        InputError: the file cannot be read, or a key is unknown, missing or wrong: the message names it.
    """
    document = read_yaml(path, EXTRA)
    # YAML reads a bare true as a boolean.
    if document.get("maps") is True:
        document["maps"] = TRUE
    if isinstance(methods := document.get("methods"), list):
        document["methods"] = [
            asdict(read_method(given, f"{path}: methods[{position}]"))
            for position, given in enumerate(methods)
        ]
    if document.get("dimensions") == 3:
        document.setdefault("patterns", [POISSON])
        document.setdefault("peers", [name for name, peer in PEERS.items() if peer.volume is not None])
    settings = convert(document, ExperimentSettings, str(path), WAY_OUT)
    return replace(
        settings,
        simulate=settings.simulate and _beside(path, settings.simulate),
        kspace=tuple(path.parent / each for each in settings.kspace),
        model=settings.model if str(settings.model) == DEMO else path.parent / settings.model,
        shown_slices=settings.shown_slices if "shown_slices" in document else settings.slices[:2],
        shown_volumes=settings.shown_volumes if "shown_volumes" in document else settings.volumes[:2],
    )


def _beside(path: Path, simulation: Simulation) -> Simulation:
    """Return a simulation whose volumes are found from the folder of the experiment's file."""
    objects = (
        each if each.volume is None else replace(each, volume=path.parent / each.volume)
        for each in simulation.objects
    )
    return replace(simulation, objects=tuple(objects))


def _places(unit: str) -> tuple[str, str, str]:
    """Return the keys that say what is scored, tuned on and shown."""
    return f"{unit}s", f"tuning_{unit}s", f"shown_{unit}s"


def _check_known(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise InputError(f"{name} has {value[:60]!r}: expected one of {', '.join(known)}")


def _check_known_accelerations(claim: Claim, accelerations: tuple[float, ...]) -> None:
    for value in (*claim.ahead, *claim.behind):
        if value not in accelerations:
            known = ", ".join(f"{each:g}" for each in accelerations)
            raise InputError(f"claims has R = {value:g}: expected some of accelerations, {known}")
