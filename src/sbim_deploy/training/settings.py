"""How to train, from a recipe and from the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.io.yaml_file import read_yaml_mapping

PRECISIONS = ("fp32", "fp16")
POSITIVE = (
    "iterations",
    "minutes",
    "batch",
    "learning_rate",
    "gradient_clip",
    "pool_size",
    "log_interval",
    "held_out_interval",
    "checkpoint_interval",
)


@dataclass(frozen=True)
class TrainSettings:
    """How to train: exactly one of ``iterations`` and ``minutes`` says for how long.

    ``iterations`` counts from the start of the run that a checkpoint continues, ``minutes`` from now; only
    the first can be resumed to the bit. The intervals are in steps. Each step takes one of ``sizes``:
    ``batch`` images of the first, as many pixels of the others. ``precision`` fp16 runs the convolutions
    in half precision with a scaled loss; the weights and the norms stay in FP32.
    """

    iterations: int | None = None
    minutes: float | None = None
    sizes: tuple[int, ...] = (128,)
    batch: int = 16
    learning_rate: float = 3e-4
    ema_rate: float = 0.999
    gradient_clip: float = 1.0
    pool_size: int = 4000
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = True
    log_interval: int = 50
    held_out_interval: int = 1000
    checkpoint_interval: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        if (self.iterations is None) == (self.minutes is None):
            raise InputError(
                f"iterations is {self.iterations} and minutes {self.minutes}: expected one of them"
            )
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}: expected more than 0")
        if not self.sizes or min(self.sizes) < 1:
            raise InputError(f"sizes is {self.sizes}: expected at least one, all positive")
        if not 0 <= self.ema_rate < 1:
            raise InputError(f"ema_rate is {self.ema_rate}: expected 0 or more, and less than 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: expected 0 or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}: expected one of {', '.join(PRECISIONS)}")


def read_settings(path: Path, overrides: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of a recipe's ``training`` section, with what is not None in ``overrides`` instead.

    How long is one choice: iterations among the overrides replace the recipe's minutes, and the reverse.

    Raises:
        InputError: the recipe cannot be read, has a key that is no setting, or a value that cannot be one.
    """
    section = read_yaml_mapping(path, "train").get("training", {})
    if not isinstance(section, dict):
        raise InputError(f"{path}: training is {section!r}, expected a mapping")
    types = {field.name: str(field.type) for field in fields(TrainSettings)}
    unknown = sorted(section.keys() - types.keys())
    if unknown:
        raise InputError(f"{path}: training has unknown keys {unknown}, expected some of {sorted(types)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    if given.keys() & {"iterations", "minutes"}:
        section = {name: value for name, value in section.items() if name not in ("iterations", "minutes")}
    values = {**section, **given}
    try:
        return TrainSettings(**{name: _as_type(types[name], value) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: training has a value of the wrong type: {error}") from error


def _as_type(annotation: str, value: Any) -> Any:
    if annotation.startswith("tuple"):
        return tuple(int(item) for item in value)
    convert = {"int": int, "float": float, "str": str, "bool": bool}[annotation.split(" | ")[0]]
    return convert(value)
