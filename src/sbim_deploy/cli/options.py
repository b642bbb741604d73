"""The options that several commands take, said once, and the packages that only some need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.errors import BackendMissingError, InputError

if TYPE_CHECKING:
    from sbim_deploy.samplers.choice import SamplerChoice


# Equal to samplers.choice.DEFAULT_SAMPLER, which would cost the import of numpy here; a test compares them.
DEFAULT_SAMPLER = "dds"

SERVED = ("triton", "triton-trt")

Backend = Annotated[
    str,
    typer.Option(
        help="auto (the best that is here), onnxruntime, onnxruntime-cuda, openvino, trt, rtx, or, on a "
        "server, triton or triton-trt."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Model = Annotated[Path, typer.Option(help='A model folder; "demo" is the one that ships.')]
Preset = Annotated[
    str | None,
    typer.Option(
        help="fast (8 network calls a slice), balanced (32), thesis (97) or best (96), for a sampler."
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="dds, sbim, sbim-ld, ddim, reverse-diffusion or langevin; default dds, as in balanced."
    ),
]
Steps = Annotated[int | None, typer.Option(help="Predictor steps, or noise levels; default the sampler's.")]
CorrectorSteps = Annotated[
    int | None, typer.Option(help="Langevin steps at each level, for sbim-ld and langevin.")
]
DataWeight = Annotated[
    float | None,
    typer.Option(help="Weight of the data against the score; default the model's, or 1 by likelihood."),
]
Guidance = Annotated[
    str | None, typer.Option(help="How data pull: norm-matched (default) or likelihood. Not for dds.")
]
Schedule = Annotated[
    str | None, typer.Option(help="How noise levels are laid: geometric (default) or karras.")
]
StartSigma = Annotated[
    float | None,
    typer.Option(
        help="Start at this noise level from the image of the measured data; default the sampler's."
    ),
]
PriorWeight = Annotated[
    float | None, typer.Option(help="Weight of the denoised image against the data, for dds.")
]
Url = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The server's gRPC, for triton and triton-trt.")
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]


def parse_size(text: str) -> tuple[int, int]:
    """Return the rows and columns that ``--size HxW`` says."""
    rows, cross, columns = text.partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise InputError(f"--size is {text!r}: expected HxW, two whole numbers, such as 384x320")
    return int(rows), int(columns)


def backend_at(backend: str, url: str | None) -> str:
    """Return the one name of a backend with its address, such as triton://127.0.0.1:8001."""
    if url is None:
        return backend
    if backend not in SERVED:
        raise InputError(
            f"--url is {url[:80]!r} with --backend {backend}: only triton and triton-trt have one"
        )
    return f"{backend}://{url}"


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import into the line that says how to install what is missing.

    Raises:
        BackendMissingError: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f'this command needs {error.name}, which is not installed: pip install "sbim-deploy[{extra}]"'
        ) from error


def chosen_sampler(
    preset: str | None, samples: int | None, sampler: str | None, **numbers: object
) -> tuple[SamplerChoice, int]:
    """Return a preset's sampler and number of samples, or the options'; ``numbers`` are SamplerChoice's.

    Raises:
        InputError: both are given, one is unknown, or a number is out of range.
    """
    from sbim_deploy.samplers.choice import SamplerChoice, find_preset

    if preset is None:
        choice = SamplerChoice(sampler or DEFAULT_SAMPLER, **numbers)  # type: ignore[arg-type]
        return choice, 1 if samples is None else samples
    found = find_preset(preset)
    given = {"sampler": sampler, **numbers}
    for name, value in given.items():
        if value is not None:
            option = name.replace("_", "-")
            raise InputError(f"--preset {preset} and --{option} are both given: a preset is whole, give one")
    return found.choice, found.samples if samples is None else samples
