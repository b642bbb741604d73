"""Samplers by what they cost: the best that was found for a budget of network calls."""

from __future__ import annotations

from dataclasses import dataclass

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import SamplerChoice


@dataclass(frozen=True)
class Preset:
    """A sampler, how many of its images are averaged for each slice, and what it is, for people."""

    description: str
    choice: SamplerChoice
    samples: int = 1


# By benchmarks/search_presets.py with the demo model: docs/results.md. `thesis` is its sampler with the
# corrector, as published (p. 75).
PRESETS = {
    "fast": Preset(
        "decomposed diffusion sampling, 8 network calls", SamplerChoice("dds", steps=8, prior_weight=1.0)
    ),
    "balanced": Preset("decomposed diffusion sampling, 32 network calls", SamplerChoice("dds", steps=32)),
    "thesis": Preset(
        "SBIM with a Langevin corrector, 97 network calls",
        SamplerChoice("sbim-ld", steps=32, corrector_steps=2),
    ),
    "best": Preset(
        "decomposed diffusion sampling, the mean of two samples of 48 network calls",
        SamplerChoice("dds", steps=48, start_sigma=0.2, prior_weight=0.7),
        samples=2,
    ),
}
DEFAULT_PRESET = "balanced"


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
