"""What an experiment is: its YAML, checked key by key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.io.documents import Count, Natural, NonNegative, Positive, convert, read_yaml, real, whole
from sbim_deploy.models.backends import check_backend
from sbim_deploy.models.folder import DEMO
from sbim_deploy.mri.masks import PATTERNS
from sbim_deploy.mri.trajectories import TRAJECTORIES
from sbim_deploy.plugins import load_plugins
from sbim_deploy.runs.simulate import MAX_SIZE, MIN_SIZE, n_brain_slices
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.presets import find_preset

EXTRA = "experiment"
BRAIN = "brain"
ESTIMATED, TRUE = "estimated", "true"
MASKED = "masked"
WAY_OUT = "docs/experiments.md says what an experiment holds"

# Names become parts of file names.
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,39}\Z",
        extra={"expected": "up to 40 letters, digits and . _ + -"},
    ),
]
Text = Annotated[str, Meta(min_length=1)]
AtLeastOne = Meta(min_length=1, extra={"expected": "a list of at least one"})


@dataclass(frozen=True)
class Method:
    """A sampler under the name that it has in the results, and how many of its images are averaged."""

    name: Name
    choice: SamplerChoice
    samples: Annotated[int, whole(1, 1000)] = 1

    def __post_init__(self) -> None:
        """Refuse a name that is a peer's."""
        if self.name in PEERS:
            raise InputError(f"name is {self.name!r}, which is a peer's: choose another")

    def numbers(self) -> dict[str, Any]:
        """Return what decides its images, the sampler's name first, without what is a default."""
        chosen = asdict(self.choice)
        given = {"sampler": chosen.pop("name"), **chosen, "samples": self.samples}
        return {name: value for name, value in given.items() if value not in (None, False)}


@dataclass(frozen=True)
class SimulatedObject:
    """What a simulated scan is of, under the name that it has in the results.

    Either a ``phantom``, or some slices of a NIfTI ``volume`` of magnitudes in a ``plane``, by their numbers
    from left, posterior or inferior: the experiment's own slices are places in ``volume_slices``. The slices
    of shepp-logan differ in phase and noise alone.
    """

    name: Name
    phantom: Literal["brain", "shepp-logan"] | None = None
    volume: Path | None = None
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    volume_slices: tuple[Natural, ...] = ()

    def __post_init__(self) -> None:
        """Check that it is one thing, and that a volume has its slices."""
        if (self.phantom is None) == (self.volume is None):
            raise InputError("phantom and volume are both given or both missing, expected one of them")
        if (self.volume is None) == bool(self.volume_slices):
            raise InputError("volume and volume_slices go together: give both, or neither")
        _check_distinct("volume_slices", self.volume_slices)

    def n_slices(self) -> float:
        """Return how many slices there are to choose from."""
        if self.volume is None:
            return n_brain_slices() if self.phantom == BRAIN else math.inf
        return len(self.volume_slices)


@dataclass(frozen=True)
class Simulation:
    """Scans as ``sbim-deploy simulate`` makes them.

    Without ``objects`` it is one, of the synthetic brains held out from training.
    """

    size: Annotated[int, whole(MIN_SIZE, MAX_SIZE)] = 128
    coils: Annotated[int, whole(1, 256)] = 8
    noise: Annotated[float, real(0, 1e6)] = 0.01
    objects: tuple[SimulatedObject, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two objects of one name."""
        _check_distinct("objects", [each.name for each in self.objects])

    def n_slices(self) -> float:
        """Return how many slices there are to choose from in every scan."""
        return min([each.n_slices() for each in self.objects] or [n_brain_slices()])


@dataclass(frozen=True)
class Levels:
    """Geometric noise levels that the samplers take in place of the model's, and where Langevin begins.

    A network that divides its output by sigma takes any level; how well it knows it is another matter.
    """

    sigma_begin: Positive
    sigma_end: Positive
    n_levels: Annotated[int, whole(2, 100_000)]
    start_level: Natural = 0


Metric = Literal["psnr", "ssim", "nrmse", "masked_psnr", "masked_ssim"]


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
    ``threads`` and ``backend`` are those of every method. ``levels`` None are the model's. ``metrics_first``
    are the metrics that the page begins with. Of each of ``claims`` the page says whether it appears.
    """

    title: Text
    accelerations: Annotated[tuple[Annotated[float, real(1, MAX_SIZE)], ...], AtLeastOne]
    slices: Annotated[tuple[Natural, ...], AtLeastOne]
    tuning_slices: tuple[Natural, ...]
    methods: Annotated[tuple[Method, ...], AtLeastOne]
    baseline: str
    simulate: Simulation | None = None
    kspace: tuple[Path, ...] = ()
    shown_slices: tuple[Natural, ...] = ()
    patterns: Annotated[tuple[str, ...], AtLeastOne] = ("equispaced",)
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

    def weights_of(self, peer: str, pattern: str) -> tuple[float, ...]:
        """Return what the weight of a peer is chosen from for a pattern, nothing where it has none."""
        given = PEERS[peer]
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
        for name in ("accelerations", "slices", "tuning_slices", "shown_slices", "patterns", "peers"):
            _check_distinct(name, getattr(self, name))
        _check_distinct("methods", names)
        _check_known("patterns", self.patterns, (*PATTERNS, *TRAJECTORIES))
        if not set(self.peers) <= PEERS.keys():
            load_plugins()
        _check_known("peers", self.peers, tuple(PEERS))
        self._check_sampling()
        _check_known("baseline", (self.baseline,), (*names, *self.peers))
        for claim in self.claims:
            _check_known("claims", (claim.method, claim.against), (*names, *self.peers))
            _check_known_accelerations(claim, self.accelerations)
        self._check_slices()

    def _check_sampling(self) -> None:
        along = [pattern for pattern in self.patterns if pattern in TRAJECTORIES]
        if along and self.simulate is None:
            raise InputError(
                f"patterns has {along[0]!r}, a trajectory, and kspace files have lines to take away: expected "
                f"some of {', '.join(PATTERNS)}"
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

    def _check_slices(self) -> None:
        if both := sorted(set(self.slices) & set(self.tuning_slices)):
            raise InputError(f"tuning_slices has {both}, which slices has too: tuning must not see them")
        if not self.tuning_slices and any(self.is_tuned(name) for name in self.peers):
            raise InputError("tuning_slices is empty: expected at least one, to tune the peers")
        if not set(self.shown_slices) <= set(self.slices):
            raise InputError(f"shown_slices is {list(self.shown_slices)}: expected some of slices")
        # Past the last brain they start again: a slice would count twice, or be tuned on.
        last = math.inf if self.simulate is None else self.simulate.n_slices() - 1
        for name in ("slices", "tuning_slices"):
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
            asdict(_method(given, f"{path}: methods[{position}]")) for position, given in enumerate(methods)
        ]
    settings = convert(document, ExperimentSettings, str(path), WAY_OUT)
    return replace(
        settings,
        simulate=settings.simulate and _beside(path, settings.simulate),
        kspace=tuple(path.parent / each for each in settings.kspace),
        model=settings.model if str(settings.model) == DEMO else path.parent / settings.model,
        shown_slices=settings.shown_slices if "shown_slices" in document else settings.slices[:2],
    )


def _beside(path: Path, simulation: Simulation) -> Simulation:
    """Return a simulation whose volumes are found from the folder of the experiment's file."""
    objects = (
        each if each.volume is None else replace(each, volume=path.parent / each.volume)
        for each in simulation.objects
    )
    return replace(simulation, objects=tuple(objects))


@dataclass(frozen=True)
class _MethodEntry:
    """A method as a YAML has it: a sampler with its numbers, or a preset."""

    sampler: Text | None = None
    steps: Count | None = None
    corrector_steps: Count | None = None
    data_weight: NonNegative | None = None
    guidance: Text | None = None
    schedule: Text | None = None
    start_sigma: Positive | None = None
    start: Text | None = None
    prior_weight: NonNegative | None = None
    langevin_step: Positive | None = None
    corrector_step_from: Text | None = None
    denoising: Text | None = None
    published: bool | None = None
    eta: NonNegative | None = None
    preset: Text | None = None
    samples: Annotated[int, whole(1, 1000)] | None = None
    name: Name | None = None


def _method(stored: object, where: str) -> Method:
    entry = convert(stored, _MethodEntry, where, WAY_OUT)
    given: dict[str, Any] = {name: value for name, value in vars(entry).items() if value is not None}
    try:
        if ("preset" in given) == ("sampler" in given):
            raise InputError("expected a sampler or a preset, and one of them")
        kind = given.pop("preset", None) or given["sampler"]
        name = given.pop("name", kind)
        if "sampler" in given:
            samples = given.pop("samples", 1)
            return Method(name, SamplerChoice(given.pop("sampler"), **given), samples)
        preset = find_preset(kind)
        samples = given.pop("samples", preset.samples)
        if given:
            raise InputError(f"preset {kind} and {', '.join(given)}: a preset is whole, give a sampler")
        return Method(name, preset.choice, samples)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            way_out = "; give each a name of its own" if name in ("methods", "objects") else ""
            raise InputError(f"{name} has {value} twice{way_out}")


def _check_known(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise InputError(f"{name} has {value[:60]!r}: expected one of {', '.join(known)}")


def _check_known_accelerations(claim: Claim, accelerations: tuple[float, ...]) -> None:
    for value in (*claim.ahead, *claim.behind):
        if value not in accelerations:
            known = ", ".join(f"{each:g}" for each in accelerations)
            raise InputError(f"claims has R = {value:g}: expected some of accelerations, {known}")
