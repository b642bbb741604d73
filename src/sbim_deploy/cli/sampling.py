"""From the sampler's options, or a preset, to what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sbim_deploy.cli.options import DEFAULT_SAMPLER
from sbim_deploy.errors import InputError

if TYPE_CHECKING:
    from sbim_deploy.samplers.presets import Preset


def chosen_sampler(preset: str | None, samples: int | None, sampler: str | None, **numbers: object) -> Preset:
    """Return the preset of a name, or the sampler of the options; ``numbers`` are SamplerChoice's.

    Raises:
        InputError: both are given, one is unknown, or a number is out of range.
    """
    from sbim_deploy.samplers.choice import SamplerChoice
    from sbim_deploy.samplers.presets import Preset, find_preset

    if preset is None:
        return Preset(SamplerChoice(sampler or DEFAULT_SAMPLER, **numbers), 1 if samples is None else samples)  # type: ignore[arg-type]
    found = find_preset(preset)
    given = {"sampler": sampler, **numbers}
    for name, value in given.items():
        if value is not None:
            option = name.replace("_", "-")
            raise InputError(f"--preset {preset} and --{option} are both given: a preset is whole, give one")
    return Preset(found.choice, found.samples if samples is None else samples)
