"""How to train, from a recipe and from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from sbim_deploy.errors import InputError
from sbim_deploy.io.documents import Count, Natural, Positive, convert, read_yaml

Sizes = Annotated[
    tuple[Count, ...], Meta(min_length=1, extra={"expected": "a list of whole numbers of at least 1"})
]
Rate = Annotated[float, Meta(ge=0, lt=1, extra={"expected": "a number of 0 or more, and less than 1"})]
Schedule = Literal["ve", "vp"]


@dataclass(frozen=True)
class TrainSettings:
    """How to train: exactly one of ``iterations`` and ``minutes`` says for how long.

    ``iterations`` counts from the start of the run that a checkpoint continues, ``minutes`` from now; only
    the first can be resumed to the bit. The intervals are in steps. Each step takes one of ``sizes``:
    ``batch`` images of the first, as many pixels of the others. ``precision`` fp16 runs the convolutions
    in half precision with a scaled loss, bf16 in bfloat16, which needs no scale and which processors with
    AMX or AVX512_BF16 are fast at; the weights and the norms stay in FP32.

    ``schedule`` ve (variance exploding) trains an NCSNv2 on the config's levels, vp (variance preserving) a
    UNet on DDPM's. ``levels`` says how noise levels are drawn: ``uniform`` over those of the schedule, or
    ``detail``, which is log-uniform between its largest and its smallest, with most of them below 3; None is
    detail for ve and uniform for vp.

    ``anatomy`` is a folder of label maps with FreeSurfer's values, to draw slices of beside the template,
    and ``lesions`` one of masks in standard space to lay over them. ``held_out_anatomy`` is a folder of label
    maps of other people: the held-out loss is of slices of theirs, without it of the template's.
    ``pool_size`` is the number of slices of the first size; others come with as many pixels.

    ``objective`` is denoising score matching (dsm) or sliced score matching (ssm), whose second derivatives
    neither half precision nor PyTorch's compiler takes: ``compile`` None compiles for dsm alone.
    """

    iterations: Count | None = None
    minutes: Positive | None = None
    schedule: Schedule = "ve"
    objective: Literal["dsm", "ssm"] = "dsm"
    levels: Literal["detail", "uniform"] | None = None
    sizes: Sizes = (128,)
    batch: Count = 16
    learning_rate: Positive = 3e-4
    ema_rate: Rate = 0.999
    gradient_clip: Positive = 1.0
    pool_size: Count = 4000
    anatomy: str | None = None
    lesions: str | None = None
    held_out_anatomy: str | None = None
    seed: Natural = 0
    device: str = "cpu"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    compile: bool | None = None
    log_interval: Count = 50
    held_out_interval: Count = 1000
    checkpoint_interval: Count = 1000

    def __post_init__(self) -> None:
        """Refuse two answers, or none, to the question of how long, and what has no second derivatives."""
        if (self.iterations is None) == (self.minutes is None):
            raise InputError(
                f"iterations is {self.iterations} and minutes {self.minutes}: expected one of them"
            )
        if self.objective == "ssm" and self.precision != "fp32":
            raise InputError(f"objective is ssm and precision {self.precision}: expected fp32, or dsm")
        if self.objective == "ssm" and self.compile:
            raise InputError("objective is ssm and compile is true: expected false, or dsm")
        if self.lesions is not None and self.anatomy is None:
            raise InputError(f"lesions is {self.lesions} and anatomy is not given: lesions lie in its heads")


def read_settings(path: Path, overrides: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of a recipe's ``training`` section, with what is not None in ``overrides`` instead.

    How long is one choice: iterations among the overrides replace the recipe's minutes, and the reverse.

    Raises:
        InputError: the recipe cannot be read, has a key that is no setting, or a value that cannot be one.
    """
    section = read_yaml(path, "train").get("training", {})
    given = {name: value for name, value in overrides.items() if value is not None}
    if isinstance(section, dict):
        if given.keys() & {"iterations", "minutes"}:
            section = {**section, "iterations": None, "minutes": None}
        section = {**section, **given}
    where = f"{path}: training" + (" with the options given" if given else "")
    return convert(section, TrainSettings, where, "change the recipe or the options")
