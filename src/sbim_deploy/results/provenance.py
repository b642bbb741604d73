"""How images came about: the record that a result carries as JSON, and the part that decides the images.

A run of the present version fills every field. A file of another version, or of a stranger, may lack any or
hold something else in its place: that field has its default then, mostly None, which is shown as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

R = TypeVar("R")

SAMPLER = "sampler"
GRID = "of k-space: rows along the readout, columns along the phase encode, not turned for viewing"


@dataclass(frozen=True)
class NamedFile:
    """A file by its name without folders, and the SHA-256 of its content."""

    name: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ModelIdentity:
    """A model by its name and the digest of its folder, and whether its weights are averaged ones (EMA)."""

    name: str | None = None
    digest: str | None = None
    ema: bool | None = None


@dataclass(frozen=True)
class ModelRecord(ModelIdentity):
    """A model with what its manifest says of it."""

    training_data: str | None = None
    intended_use: str | None = None
    noise_left: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RemovedLines:
    """The lines that were taken away before the reconstruction."""

    pattern: str | None = None
    acceleration: float | None = None
    convention: str | None = None


@dataclass(frozen=True)
class PlanRecord:
    """A plan: the sampler's name, its start, and the numbers of each step.

    The steps are ``rows`` in the file, as in ``plan --json``.
    """

    sampler: str | None = None
    start: dict[str, float | str] = field(default_factory=dict)
    rows: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class SliceNotes:
    """What was found out of a slice.

    ``noise`` is the standard deviation of each of the real and imaginary parts of its k-space, and
    ``noise_source`` where that is from. ``maps`` is ``ESPIRiT``, ``nonlinear inversion``,
    ``2 sets by ESPIRiT`` or ``given``.
    ``doubts`` are the reasons why the image may be wrong, sentences by a short name for programs.
    """

    noise: float | None = None
    noise_source: str | None = None
    maps: str | None = None
    doubts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """How the first slice was sampled, and what the k-space file says of its scan."""

    acceleration: float | None = None
    calibration_lines: int | None = None
    scan: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timings:
    """Seconds of the run that wrote the file, and the number of slices that it made itself."""

    total: float | None = None
    preparation: float | None = None
    sampling: float | None = None
    slices: int | None = None


@dataclass(frozen=True)
class RunIdentity:
    """What decides the images: a run resumes only one with the same.

    ``software`` holds versions by name. ``slices`` is a half-open range, None for all of them. ``maps`` is
    None where the maps were estimated, and ``undersampling`` where no lines were taken away. ``noise`` is
    None where it was measured. ``method`` is ``sampler``, or the name of one without the network, whose
    ``model``, ``graph`` and ``plan`` are empty. ``layout`` and ``variable`` say which array was read, and
    how, None where that was not given; ``dimensions`` is 3 for a volume, ``volume`` its number where the file
    holds several, and ``through_plane`` says that its slices were reconstructed together. ``trajectory`` is
    the file that tells where samples lie, and ``matrix`` (rows, columns) what was asked for of their image.
    ``orientation`` is that of k-space, as it was asked for. ``prior_orientations`` says in how many
    orientations the network saw an image, in turn: along a trajectory, or in slices that were reconstructed
    together; else None.
    """

    software: dict[str, str] = field(default_factory=dict)
    input: NamedFile = field(default_factory=NamedFile)
    dimensions: int | None = None
    through_plane: bool | None = None
    volume: int | None = None
    layout: str | None = None
    variable: str | None = None
    trajectory: NamedFile | None = None
    matrix: tuple[int, int] | None = None
    maps: NamedFile | None = None
    method: str | None = None
    model: ModelIdentity = field(default_factory=ModelIdentity)
    backend: str | None = None
    graph: str | None = None
    prior_orientations: int | None = None
    seed: int | None = None
    samples: int | None = None
    slices: tuple[int, int] | None = None
    noise: float | None = None
    map_method: str | None = None
    map_sets: int | None = None
    orientation: str | None = None
    undersampling: RemovedLines | None = None
    plan: PlanRecord = field(default_factory=PlanRecord)

    def as_dict(self) -> dict[str, Any]:
        """Return the record in JSON's types, in the layout of docs/formats.md."""
        return asdict(self)


@dataclass(frozen=True)
class Provenance(RunIdentity):
    """How the images of a result came about.

    ``grid`` says how the images lie. ``created`` is in ISO 8601, ``engine`` the description of what ran the
    network, and ``batch`` the number of images in one call. ``slice_notes`` has by a slice's number what was
    found out of it, ``left_out`` why a slice is not in the result. ``workers`` are those of a study.
    """

    model: ModelRecord = field(default_factory=ModelRecord)
    grid: str | None = None
    created: str | None = None
    engine: dict[str, str] = field(default_factory=dict)
    batch: int | None = None
    measured: Measured = field(default_factory=Measured)
    timings_s: Timings = field(default_factory=Timings)
    notice: str | None = None
    slice_notes: dict[str, SliceNotes] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    workers: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the record in JSON's types: left-out slices and workers only where there are any."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value or name not in ("left_out", "workers")
        }

    @property
    def without_network(self) -> bool:
        """Whether no network had a part in the images."""
        return self.method not in (None, SAMPLER)

    @property
    def maker(self) -> str | None:
        """The name of the sampler, or of the method without the network."""
        return self.method if self.without_network else self.plan.sampler

    @property
    def doubts(self) -> dict[int, dict[str, str]]:
        """The doubts of each slice by its number; only of those that have any."""
        return {
            int(index): notes.doubts
            for index, notes in self.slice_notes.items()
            if notes.doubts and index.isdecimal()
        }

    def sources(self, name: str) -> str | None:
        """Return where the ``maps`` or the noise (``noise_source``) of all slices come from, in words."""
        found = {getattr(notes, name) for notes in self.slice_notes.values()} - {None}
        return ", ".join(sorted(found)) or None


@dataclass(frozen=True)
class SamplesProvenance:
    """How a model's own samples came about, without data: ``seed`` and the samples' numbers decide the noise.

    The other fields are those of :class:`Provenance`.
    """

    software: dict[str, str] = field(default_factory=dict)
    model: ModelRecord = field(default_factory=ModelRecord)
    backend: str | None = None
    graph: str | None = None
    seed: int | None = None
    plan: PlanRecord = field(default_factory=PlanRecord)
    created: str | None = None
    engine: dict[str, str] = field(default_factory=dict)
    batch: int | None = None
    seconds: float | None = None
    notice: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the record in JSON's types, in the layout of docs/formats.md."""
        return asdict(self)


def read_record(stored: Mapping[str, Any], kind: type[R]) -> R:
    """Return one of the records above from JSON; a field that is no such value keeps its default."""
    types = get_type_hints(kind)
    values = {}
    for each in fields(kind):  # type: ignore[arg-type]
        value = stored.get(each.name)
        parts = (types[each.name], *get_args(types[each.name]))
        nested: Any = next((part for part in parts if is_dataclass(part)), None)
        if nested is not None:
            if not isinstance(value, Mapping):
                continue
            if get_origin(types[each.name]) is dict:
                records = {key: part for key, part in value.items() if isinstance(part, Mapping)}
                values[each.name] = {key: read_record(part, nested) for key, part in records.items()}
            else:
                values[each.name] = read_record(value, nested)
            continue
        try:
            values[each.name] = msgspec.convert(value, types[each.name])
        except msgspec.ValidationError:
            continue
    return kind(**values)
