"""What a client may set in a session: one typed schema, which OpenRecon's label is made of too."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sbim_deploy.errors import InputError
from sbim_deploy.io.json_object import parse_object
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.serving.presets import PRESETS, Linear, preset_name

WHERE = "parameters"
AS_CONFIGURED = "default"
MAX_STEPS, MAX_SAMPLES, MAX_SEED = 256, 16, 2**31 - 1


class Parameters(BaseModel):
    """A session's parameters; a field that is left out is the configuration's own."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    config: str = Field(
        AS_CONFIGURED,
        title="Configuration",
        description="How to reconstruct; default is the configuration that the session named.",
    )
    steps: int = Field(
        0, ge=0, le=MAX_STEPS, title="Steps", description="Predictor steps; 0 is the configuration's own."
    )
    samples: int = Field(
        1, ge=1, le=MAX_SAMPLES, title="Samples", description="Samples of which the image is the mean."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, title="Seed", description="Seed of the noise.")


class _Message(BaseModel):
    """The JSON of a TEXT message, as OpenRecon sends it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: str = Field("", max_length=32)
    parameters: Parameters = Field(default_factory=lambda: Parameters.model_construct())


@dataclass(frozen=True)
class Request:
    """How a session's slices are reconstructed; ``preset`` is the name it goes by."""

    preset: str
    method: SamplerChoice | Linear
    samples: int = 1
    seed: int = 0


def parse_parameters(text: str) -> Parameters:
    """Read the JSON of a TEXT message: {"version": ..., "parameters": {...}}.

    Raises:
        InputError: it is no such JSON, has a field that is unknown, or a value out of range.
    """
    values = parse_object(text, WHERE)
    try:
        return _Message.model_validate(values).parameters
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        known = ", ".join(Parameters.model_fields)
        raise InputError(f"{WHERE}: {place}: {first['msg']}; expected some of {known}") from None


def make_request(configuration: str, parameters: Parameters | None = None) -> Request:
    """Return what a configuration's name and the parameters mean together.

    Raises:
        InputError: an unknown name, or a number that the configuration would ignore.
    """
    parameters = parameters or Parameters.model_construct()
    name = preset_name(configuration)
    if parameters.config != AS_CONFIGURED:
        name = preset_name(parameters.config)
    method = PRESETS[name].method
    if isinstance(method, Linear):
        if parameters.steps or parameters.samples > 1:
            raise InputError(f"{WHERE}: {name} has no steps and no samples: leave them out")
    elif parameters.steps:
        method = replace(method, steps=parameters.steps)
    return Request(name, method, parameters.samples, parameters.seed)
