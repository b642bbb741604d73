"""Samplers by what they cost: the best that was found for a budget of network calls."""

from __future__ import annotations

from dataclasses import dataclass

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import SamplerChoice


@dataclass(frozen=True)
class Preset:
    """A sampler, and how many of its images are averaged for each slice."""

    choice: SamplerChoice
    samples: int = 1


# Searched with the demo model on tuning slices by benchmarks/search_presets.py: docs/results.md. `thesis` is
# its sampler with the corrector, as published (p. 75).
PRESETS = {
    "fast": Preset(SamplerChoice("dds", steps=8)),
    "balanced": Preset(SamplerChoice("dds", steps=32)),
    "thesis": Preset(SamplerChoice("sbim-ld", steps=32, corrector_steps=2)),
    "best": Preset(SamplerChoice("dds", steps=96)),
}


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
