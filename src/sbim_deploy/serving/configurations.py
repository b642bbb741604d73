"""The configurations that a client may name: a fixed list, and nothing else runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.presets import DEFAULT_PRESET, PRESETS


class Linear(StrEnum):
    """A reconstruction without the network."""

    ZERO_FILLED = "zero-filled"
    CG_SENSE = "cg-sense"


@dataclass(frozen=True)
class Configuration:
    """What it is, for people, how it reconstructs, and of how many samples the image is the mean."""

    description: str
    method: SamplerChoice | Linear
    samples: int = 1


CONFIGURATIONS = {
    **{
        name: Configuration(preset.description, preset.choice, preset.samples)
        for name, preset in PRESETS.items()
    },
    "cg-sense": Configuration("CG-SENSE, without the network", Linear.CG_SENSE),
    "zero-filled": Configuration("the measured data alone, without the network", Linear.ZERO_FILLED),
}
# What clients send that have nothing to choose; OpenRecon sends its own name.
DEFAULT_NAMES = ("default", "openrecon")

_SHOWN_CHARACTERS = 40


def configuration_name(asked: str) -> str:
    """Return the name in :data:`CONFIGURATIONS` that a client's name means.

    Raises:
        InputError: the name is not on the list.
    """
    if asked in DEFAULT_NAMES:
        return DEFAULT_PRESET
    if asked not in CONFIGURATIONS:
        known = ", ".join([*CONFIGURATIONS, *DEFAULT_NAMES])
        raise InputError(f"unknown configuration {asked[:_SHOWN_CHARACTERS]!r}: expected one of {known}")
    return asked
