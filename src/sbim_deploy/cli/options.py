"""The options that several commands take, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.errors import InputError

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
