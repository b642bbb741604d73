"""What an experiment is: its YAML, checked key by key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.io.yaml_file import read_yaml_mapping
from sbim_deploy.models.folder import DEMO
from sbim_deploy.mri.masks import PATTERNS
from sbim_deploy.runs.simulate import MAX_SIZE, MIN_SIZE, n_brain_slices
from sbim_deploy.samplers.choice import SamplerChoice, find_preset

EXTRA = "experiment"
ESTIMATED, TRUE = "estimated", "true"
MAX_SEED = 2**63
# Names become parts of file names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")


@dataclass(frozen=True)
class Method:
    """A sampler under the name that it has in the results, and how many of its images are averaged."""

    name: str
    choice: SamplerChoice
    samples: int = 1

    def __post_init__(self) -> None:
        """Refuse a name that cannot be part of a file's, and a peer's, and no samples."""
        _check_range("samples", self.samples, 1, 1000)
        if not NAME.fullmatch(self.name):
            raise InputError(f"name is {self.name[:60]!r}: expected up to 40 letters, digits and . _ + -")
        if self.name in PEERS:
            raise InputError(f"name is {self.name!r}, which is a peer's: choose another")

    def numbers(self) -> dict[str, Any]:
        """Return what decides its images: the sampler's name first, and None where it is a default."""
        chosen = asdict(self.choice)
        return {"sampler": chosen.pop("name"), **chosen, "samples": self.samples}


@dataclass(frozen=True)
class Simulation:
    """A scan as ``sbim-deploy simulate`` makes it; slices are the synthetic brains held out from training."""

    size: int = 128
    coils: int = 8
    noise: float = 0.01

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_range("size", self.size, MIN_SIZE, MAX_SIZE)
        _check_range("coils", self.coils, 1, 256)
        _check_range("noise", self.noise, 0, 1e6)


@dataclass(frozen=True)
class ExperimentSettings:
    """An experiment.

    Either ``simulate`` or ``kspace``, fully sampled fastMRI files with a reference, says where slices come
    from; ``slices`` and ``tuning_slices`` are indices into the simulated scan, or into every file. Tuning
    slices choose the peers' regularisation and are never scored. ``shown_slices`` are those on the page,
    of the first file. ``threads`` are those of every method.
    """

    title: str
    accelerations: tuple[float, ...]
    slices: tuple[int, ...]
    tuning_slices: tuple[int, ...]
    methods: tuple[Method, ...]
    baseline: str
    simulate: Simulation | None = None
    kspace: tuple[Path, ...] = ()
    shown_slices: tuple[int, ...] = ()
    patterns: tuple[str, ...] = ("equispaced",)
    peers: tuple[str, ...] = tuple(PEERS)
    model: str | Path = DEMO
    maps: str = ESTIMATED
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the ranges, and that nothing is named twice or tuned and scored."""
        if (self.simulate is None) == (not self.kspace):
            raise InputError("simulate and kspace are both given or both missing: expected one of them")
        for name in ("accelerations", "slices", "methods", "patterns"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: expected at least one")
        names = [method.name for method in self.methods]
        for name in ("accelerations", "slices", "tuning_slices", "shown_slices", "patterns", "peers"):
            _check_distinct(name, getattr(self, name))
        _check_distinct("methods", names)
        _check_known("patterns", self.patterns, PATTERNS)
        _check_known("peers", self.peers, tuple(PEERS))
        _check_known("maps", (self.maps,), (ESTIMATED, TRUE))
        _check_known("baseline", (self.baseline,), (*names, *self.peers))
        for acceleration in self.accelerations:
            _check_range("accelerations", acceleration, 1, MAX_SIZE)
        _check_range("seed", self.seed, 0, MAX_SEED)
        _check_range("threads", self.threads, 1, 1024)
        self._check_slices()

    def _check_slices(self) -> None:
        if both := sorted(set(self.slices) & set(self.tuning_slices)):
            raise InputError(f"tuning_slices has {both}, which slices has too: tuning must not see them")
        if not self.tuning_slices and any(PEERS[name].weights for name in self.peers):
            raise InputError("tuning_slices is empty: expected at least one, to tune the peers")
        if not set(self.shown_slices) <= set(self.slices):
            raise InputError(f"shown_slices is {list(self.shown_slices)}: expected some of slices")
        # Past the last brain they start again: a slice would count twice, or be tuned on.
        last = math.inf if self.simulate is None else n_brain_slices() - 1
        for name in ("slices", "tuning_slices"):
            for index in getattr(self, name):
                _check_range(name, index, 0, last)


def read_settings(path: Path) -> ExperimentSettings:
    """Read an experiment; paths in it are relative to its own folder.

    Raises:
        BackendMissingError: PyYAML is not installed.
        InputError: the file cannot be read, or a key is unknown, missing or wrong: the message names it.
    """
    document = read_yaml_mapping(path, EXTRA)
    try:
        values = _parse(document, "", _EXPERIMENT, _REQUIRED)
        values["kspace"] = tuple(path.parent / name for name in values.get("kspace", ()))
        if values.get("model", DEMO) != DEMO:
            values["model"] = path.parent / values["model"]
        values.setdefault("shown_slices", values["slices"][:2])
        return ExperimentSettings(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


# Takes a YAML value and its place in the file, for the message.
Parser = Callable[[object, str], Any]


def _parse(
    given: object, place: str, parsers: Mapping[str, Parser], required: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the values of a YAML mapping whose keys are those of ``parsers``."""
    if not isinstance(given, dict):
        raise _wrong(given, place, f"a mapping of {', '.join(parsers)}")
    prefix = f"{place}: " if place else ""
    unknown = [str(key) for key in given if key not in parsers]
    if unknown:
        raise InputError(f"{prefix}unknown key {unknown[0][:60]!r}, expected some of {', '.join(parsers)}")
    missing = [name for name in required if name not in given]
    if missing:
        raise InputError(f"{prefix}lacks {', '.join(missing)}")
    inner = f"{place}." if place else ""
    return {key: parsers[key](value, f"{inner}{key}") for key, value in given.items()}


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(value, place, "a text")
    return value


def _whole(value: object, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(value, place, "a whole number")
    return value


def _number(value: object, place: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_SEED:
        raise _wrong(value, place, "a finite number")
    return float(value)


def _maps(value: object, place: str) -> str:
    # YAML reads a bare true as a boolean.
    return TRUE if value is True else _text(value, place)


def _list_of(parser: Parser) -> Parser:
    def parse(value: object, place: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(value, place, "a list")
        return tuple(parser(item, f"{place}[{position}]") for position, item in enumerate(value))

    return parse


def _simulation(value: object, place: str) -> Simulation:
    given = _parse(value, place, {"size": _whole, "coils": _whole, "noise": _number})
    with _within(place):
        return Simulation(**given)


def _method(value: object, place: str) -> Method:
    given = _parse(value, place, _METHOD)
    with _within(place):
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


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Put the place before the message of a check that does not know it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


_METHOD: dict[str, Parser] = {
    "sampler": _text,
    "steps": _whole,
    "corrector_steps": _whole,
    "data_weight": _number,
    "guidance": _text,
    "schedule": _text,
    "start_sigma": _number,
    "prior_weight": _number,
    "preset": _text,
    "samples": _whole,
    "name": _text,
}
_EXPERIMENT: dict[str, Parser] = {
    "title": _text,
    "accelerations": _list_of(_number),
    "patterns": _list_of(_text),
    "simulate": _simulation,
    "kspace": _list_of(_text),
    "slices": _list_of(_whole),
    "tuning_slices": _list_of(_whole),
    "shown_slices": _list_of(_whole),
    "methods": _list_of(_method),
    "peers": _list_of(_text),
    "baseline": _text,
    "model": _text,
    "maps": _maps,
    "seed": _whole,
    "threads": _whole,
}
_REQUIRED = tuple(field.name for field in fields(ExperimentSettings) if field.default is MISSING)


def _wrong(value: object, place: str, expected: str) -> InputError:
    return InputError(f"{place} is {_shown(value)}, expected {expected}")


def _shown(value: object) -> str:
    # A short YAML can hold a list that is endless when it is written out.
    return repr(value)[:60] if isinstance(value, str | int | float | bool | None) else type(value).__name__


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} has {value:g}: expected {low:g} to {high:g}")


def _check_distinct(name: str, values: tuple[Any, ...] | list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            way_out = "; give each method a name of its own" if name == "methods" else ""
            raise InputError(f"{name} has {value} twice{way_out}")


def _check_known(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise InputError(f"{name} has {value[:60]!r}: expected one of {', '.join(known)}")
