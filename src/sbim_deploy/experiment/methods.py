"""The methods of an experiment's YAML: samplers with their numbers, or presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from msgspec import Meta

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.io.documents import Count, NonNegative, Positive, convert, whole
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.presets import find_preset

WAY_OUT = "docs/experiments.md says what an experiment holds"
THROUGH_PLANE = "through-plane"

# Names become parts of file names.
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,39}\Z",
        extra={"expected": "up to 40 letters, digits and . _ + -"},
    ),
]
Text = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True)
class Method:
    """A sampler under the name that it has in the results, and how many of its images are averaged.

    ``through_plane`` reconstructs the slices of a volume together.
    """

    name: Name
    choice: SamplerChoice
    samples: Annotated[int, whole(1, 1000)] = 1
    through_plane: bool = False

    def __post_init__(self) -> None:
        """Refuse a name that is a peer's, and samples of slices that are reconstructed together."""
        if self.name in PEERS:
            raise InputError(f"name is {self.name!r}, which is a peer's: choose another")
        if self.through_plane and self.samples > 1:
            raise InputError(
                f"through_plane draws one image, and samples is {self.samples}: leave one of them out, or "
                "take the preset balanced or fast"
            )

    def numbers(self) -> dict[str, Any]:
        """Return what decides its images, the sampler's name first, without what is a default."""
        chosen = asdict(self.choice)
        given = {"sampler": chosen.pop("name"), **chosen, "samples": self.samples}
        given["through_plane"] = self.through_plane
        return {name: value for name, value in given.items() if value not in (None, False)}


def read_method(stored: object, where: str) -> Method:
    """Return the method that an entry of the YAML stands for.

    Raises:
        InputError: a key is unknown or wrong, or the entry is neither a sampler nor a preset.
    """
    entry = convert(stored, _MethodEntry, where, WAY_OUT)
    given: dict[str, Any] = {name: value for name, value in vars(entry).items() if value is not None}
    try:
        if ("preset" in given) == ("sampler" in given):
            raise InputError("expected a sampler or a preset, and one of them")
        kind = given.pop("preset", None) or given["sampler"]
        together = given.pop("through_plane", False)
        name = given.pop("name", f"{kind}-{THROUGH_PLANE}" if together else kind)
        if "sampler" in given:
            samples = given.pop("samples", 1)
            return Method(name, SamplerChoice(given.pop("sampler"), **given), samples, together)
        preset = find_preset(kind)
        samples = given.pop("samples", preset.samples)
        if given:
            raise InputError(f"preset {kind} and {', '.join(given)}: a preset is whole, give a sampler")
        return Method(name, preset.choice, samples, together)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@dataclass(frozen=True)
class _MethodEntry:
    """A method as a YAML has it: a sampler with its numbers, or a preset."""

    sampler: Text | None = None
    steps: Count | None = None
    corrector_steps: Count | None = None
    data_weight: NonNegative | None = None
    guidance: Text | None = None
    schedule: Text | None = None
    start_sigma: Positive | None = None
    start: Text | None = None
    prior_weight: NonNegative | None = None
    langevin_step: Positive | None = None
    corrector_step_from: Text | None = None
    denoising: Text | None = None
    published: bool | None = None
    eta: NonNegative | None = None
    preset: Text | None = None
    samples: Annotated[int, whole(1, 1000)] | None = None
    through_plane: bool | None = None
    name: Name | None = None
