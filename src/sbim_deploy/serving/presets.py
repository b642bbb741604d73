"""The configurations that a client may name: a fixed list, and nothing else runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import SamplerChoice


class Linear(StrEnum):
    """A reconstruction without the network."""

    ZERO_FILLED = "zero-filled"
    CG_SENSE = "cg-sense"


@dataclass(frozen=True)
class Preset:
    """A configuration: what it is, for people, and how it reconstructs."""

    description: str
    method: SamplerChoice | Linear


PRESETS = {
    "dds": Preset("decomposed diffusion sampling, 32 network calls", SamplerChoice("dds")),
    "dds-fast": Preset("decomposed diffusion sampling, 8 network calls", SamplerChoice("dds", steps=8)),
    "sbim": Preset("SBIM, 33 network calls", SamplerChoice("sbim")),
    "sbim-ld": Preset("SBIM with a Langevin corrector, 97 network calls", SamplerChoice("sbim-ld")),
    "cg-sense": Preset("CG-SENSE, without the network", Linear.CG_SENSE),
    "zero-filled": Preset("the measured data alone, without the network", Linear.ZERO_FILLED),
}
DEFAULT_PRESET = "dds"
# What clients send that have nothing to choose; OpenRecon sends its own name.
DEFAULT_NAMES = ("default", "openrecon")

_SHOWN_CHARACTERS = 40


def preset_name(asked: str) -> str:
    """Return the name in :data:`PRESETS` that a client's name means.

    Raises:
        InputError: the name is not on the list.
    """
    if asked in DEFAULT_NAMES:
        return DEFAULT_PRESET
    if asked not in PRESETS:
        known = ", ".join([*PRESETS, *DEFAULT_NAMES])
        raise InputError(f"unknown configuration {asked[:_SHOWN_CHARACTERS]!r}: expected one of {known}")
    return asked
