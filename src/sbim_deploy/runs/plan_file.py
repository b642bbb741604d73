"""Plans in files, as ``sbim-deploy plan --json`` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from sbim_deploy.errors import InputError
from sbim_deploy.io.documents import Line, Number, convert, read_object, whole
from sbim_deploy.samplers.plan import GuidedStep, Plan, ProximalStep, Step

WAY_OUT = "sbim-deploy plan --json prints one to begin with"
MAX_STEPS = 100_000


@dataclass(frozen=True)
class _Start:
    image: Number
    noise: Number
    of: Literal["zero-filled", "l1-wavelet"] = "zero-filled"


@dataclass(frozen=True)
class _StoredPlan:
    sampler: Line
    start: _Start
    rows: tuple[Mapping[Line, Number], ...]
    samples: Annotated[int, whole(1, 1000)] = 1


def read_plan(path: Path) -> tuple[Plan, int]:
    """Read a plan, and the number of samples of each slice.

    Raises:
        InputError: the file cannot be read, or is no plan: the message names what is wrong.
    """
    stored = convert(read_object(path, WAY_OUT), _StoredPlan, str(path), WAY_OUT)
    if not 1 <= len(stored.rows) <= MAX_STEPS:
        raise InputError(f"{path}: rows has {len(stored.rows)} steps, expected 1 to {MAX_STEPS}")
    kind = _kind(stored.rows[0], path)
    steps = tuple(_step(row, kind, f"{path}: rows[{place}]") for place, row in enumerate(stored.rows))
    start = stored.start
    return Plan(stored.sampler, start.image, start.noise, steps, start.of), stored.samples


def _kind(row: Mapping[str, float], path: Path) -> type[Step]:
    for kind in (GuidedStep, ProximalStep):
        if _required(kind) <= row.keys() <= {each.name for each in fields(kind)}:
            return kind
    known = " or ".join(", ".join(each.name for each in fields(kind)) for kind in (GuidedStep, ProximalStep))
    raise InputError(f"{path}: rows[0] has {', '.join(row)}: expected {known}")


def _step(row: Mapping[str, float], kind: type[Step], where: str) -> Step:
    names = {each.name for each in fields(kind)}
    if not _required(kind) <= row.keys() <= names:
        raise InputError(f"{where} has {', '.join(row)}: expected {', '.join(names)}, as the first has")
    if row["sigma"] <= 0:
        raise InputError(f"{where}.sigma is {row['sigma']:g}: expected a number above 0")
    if kind is GuidedStep:
        return GuidedStep(**row)
    n_cg = row["n_cg"]
    if n_cg != int(n_cg) or n_cg < 1:
        raise InputError(f"{where}.n_cg is {n_cg:g}: expected a whole number of at least 1")
    others = {name: value for name, value in row.items() if name != "n_cg"}
    return ProximalStep(n_cg=int(n_cg), **others)


def _required(kind: type[Step]) -> set[str]:
    return {each.name for each in fields(kind) if each.default is MISSING}
