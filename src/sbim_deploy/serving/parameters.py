"""What a client may ask for: a list of configurations, a schema of parameters, OpenRecon's label of both."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.io.documents import convert, format_object, parse_object
from sbim_deploy.mrd.identity import IdentityMode
from sbim_deploy.recon.classical import Classical
from sbim_deploy.records import NOTICE
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.presets import DEFAULT_PRESET, PRESETS


@dataclass(frozen=True)
class Configuration:
    """What it is, for people, how it reconstructs, and of how many samples the image is the mean."""

    description: str
    method: SamplerChoice | Classical
    samples: int = 1


CONFIGURATIONS = {
    **{
        name: Configuration(preset.description, preset.choice, preset.samples)
        for name, preset in PRESETS.items()
    },
    "l1-wavelet": Configuration("L1-wavelet, without the network", Classical.L1_WAVELET),
    "cg-sense": Configuration("CG-SENSE, without the network", Classical.CG_SENSE),
    "zero-filled": Configuration("the measured data alone, without the network", Classical.ZERO_FILLED),
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
        way_out = "; XML is taken by a server with --gadgetron" if asked.startswith("<") else ""
        raise InputError(
            f"unknown configuration {asked[:_SHOWN_CHARACTERS]!r}: expected one of {known}{way_out}"
        )
    return asked


WHERE, WAY_OUT = "parameters", "send what the server's label says"
AS_CONFIGURED = "default"
MAX_STEPS, MAX_SAMPLES, MAX_SEED = 256, 16, 2**31 - 1
MAX_DIGITS = 20


@dataclass(frozen=True)
class Parameters:
    """A session's parameters; a field that is left out is the configuration's own."""

    config: Annotated[
        str,
        Meta(
            title="Configuration",
            description="How to reconstruct; default is the configuration that the session named.",
        ),
    ] = AS_CONFIGURED
    steps: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_STEPS,
            title="Steps",
            description="Predictor steps; 0 is the configuration's own.",
        ),
    ] = 0
    samples: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_SAMPLES,
            title="Samples",
            description="Samples of which the image is the mean; 0 is the configuration's own.",
        ),
    ] = 0
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED, title="Seed", description="Seed of the noise.")] = 0
    identity: Annotated[
        str,
        Meta(
            title="Identity",
            description="Whether images name the patient; default is as the server was started.",
        ),
    ] = AS_CONFIGURED


IDENTITIES = {
    AS_CONFIGURED: "as the server was started",
    IdentityMode.ANONYMOUS.value: "images name neither patient nor study",
}


@dataclass(frozen=True)
class _Message:
    """The JSON of a TEXT message, as OpenRecon sends it."""

    version: Annotated[str, Meta(max_length=32)] = ""
    parameters: Parameters = Parameters()


@dataclass(frozen=True)
class Request:
    """How a session's slices are reconstructed; ``configuration`` is the name it goes by."""

    configuration: str
    method: SamplerChoice | Classical
    samples: int = 1
    seed: int = 0


def parse_parameters(text: str) -> Parameters:
    """Read the JSON of a TEXT message: {"version": ..., "parameters": {...}}.

    A number may be sent as text, "8" for 8.

    Raises:
        InputError: it is no such JSON, has a field that is unknown, or a value out of range.
    """
    document = parse_object(text, WHERE)
    given = document.get("parameters")
    if isinstance(given, dict):
        document = {**document, "parameters": {name: _plain(name, value) for name, value in given.items()}}
    return convert(document, _Message, WHERE, WAY_OUT).parameters


def _plain(name: str, value: object) -> object:
    """Return a number that was sent as text, as scanners do; what is none stays as it is."""
    if get_type_hints(Parameters).get(name) is not int or not isinstance(value, str):
        return value
    number, _, rest = value.strip().partition(".")
    return int(number) if number.isdecimal() and len(number) < MAX_DIGITS and not rest.strip("0") else value


def make_request(configuration: str, parameters: Parameters | None = None) -> Request:
    """Return what a configuration's name and the parameters mean together.

    Raises:
        InputError: an unknown name, or a number that the configuration would ignore.
    """
    parameters = parameters or Parameters()
    name = configuration_name(configuration)
    if parameters.config != AS_CONFIGURED:
        name = configuration_name(parameters.config)
    chosen = CONFIGURATIONS[name]
    method, samples = chosen.method, parameters.samples or chosen.samples
    if isinstance(method, Classical):
        if parameters.steps or samples > 1:
            raise InputError(f"{WHERE}: {name} has no steps and no samples: leave them out")
    elif parameters.steps:
        method = replace(method, steps=parameters.steps)
    return Request(name, method, samples, parameters.seed)


def session_identity(served: IdentityMode, parameters: Parameters) -> IdentityMode:
    """Return whether the images of a session name the patient: a client may ask for less than is served.

    Raises:
        InputError: it asks for more, or for another thing.
    """
    if parameters.identity == AS_CONFIGURED:
        return served
    if parameters.identity not in (IdentityMode.ANONYMOUS, served):
        raise InputError(
            f"{WHERE}: identity is {parameters.identity[:_SHOWN_CHARACTERS]!r}, expected "
            f"{' or '.join(IDENTITIES)}: only who starts the server can keep identities (--identity keep)"
        )
    return IdentityMode(parameters.identity)


_CHOICES = {
    "config": {
        AS_CONFIGURED: AS_CONFIGURED,
        **{name: each.description for name, each in CONFIGURATIONS.items()},
    },
    "identity": IDENTITIES,
}

LABEL_KEY = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
PROTOCOL = {"protocol": "ISMRMRD", "version": "1.4.1"}
MEMORY_MB = 4096
NAME = "sbim-deploy"


def openrecon_label(port: int) -> dict[str, Any]:
    """Return the label of a container whose server listens on ``port``."""
    (version,) = re.findall(r"^\d+\.\d+\.\d+", __version__)
    return {
        "general": {
            "name": {"en": NAME},
            "version": version,
            "vendor": NAME,
            "information": {"en": "Score-based reconstruction. Research use only."},
            "id": NAME,
            "regulatory_information": {
                "device_trade_name": NAME,
                "production_identifier": version,
                "manufacturer_address": "",
                "made_in": "",
                "manufacture_date": "",
                "material_number": f"{NAME}_{version}",
                "gtin": "",
                "udi": "",
                "safety_advices": NOTICE,
                "special_operating_instructions": "",
                "additional_relevant_information": "",
            },
        },
        "reconstruction": {
            "transfer_protocol": PROTOCOL,
            "port": port,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": False,
            "can_use_gpu": True,
            "min_count_required_gpus": 0,
            "min_required_gpu_memory": 0,
            "min_required_memory": MEMORY_MB,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": _parameters(),
    }


def encode_label(label: dict[str, Any]) -> str:
    """Return the base64 of a label's JSON, as it stands in a container's metadata."""
    return base64.b64encode(format_object(label).encode()).decode("ascii")


def _parameters() -> list[dict[str, Any]]:
    """Return the label's parameters, which say what the schema of :class:`Parameters` does."""
    _, schemas = msgspec.json.schema_components([Parameters])
    return [_parameter(name, field) for name, field in schemas["Parameters"]["properties"].items()]


def _parameter(name: str, field: dict[str, Any]) -> dict[str, Any]:
    said = {"id": name, "label": {"en": field["title"]}, "information": {"en": field["description"]}}
    if name in _CHOICES:
        values = [{"id": choice, "name": {"en": words}} for choice, words in _CHOICES[name].items()]
        return {"type": "choice", **said, "values": values, "default": field["default"]}
    bounds = {bound: field[bound] for bound in ("minimum", "maximum", "default")}
    return {"type": "int", **said, **bounds}
