"""Samplers by the names under which people ask for them."""

from __future__ import annotations

from dataclasses import dataclass

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.plan import L1_WAVELET


@dataclass(frozen=True)
class Preset:
    """A sampler, how many of its images are averaged for each slice, and what it is, for people."""

    description: str
    choice: SamplerChoice
    samples: int = 1


# By benchmarks/search_presets.py: docs/results.md. `thesis` is the 64 x 3 of the table of its results.
PRESETS = {
    "fast": Preset(
        "decomposed diffusion sampling from an L1-wavelet image, 8 network calls",
        SamplerChoice(
            "dds",
            steps=8,
            start=L1_WAVELET,
            start_sigma=0.2,
            schedule="karras",
            prior_weight=0.7,
            eta=0.1,
        ),
    ),
    "balanced": Preset("decomposed diffusion sampling, 32 network calls", SamplerChoice("dds", steps=32)),
    "thesis": Preset(
        "SBIM with a Langevin corrector, 257 network calls",
        SamplerChoice("sbim-ld", steps=64, corrector_steps=3),
    ),
    "best": Preset(
        "decomposed diffusion sampling, the mean of two samples of 48 network calls",
        SamplerChoice("dds", steps=48),
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
