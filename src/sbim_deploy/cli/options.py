"""The options that several commands take, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Equal to samplers.choice.DEFAULT_SAMPLER, which would cost the import of numpy here; a test compares them.
DEFAULT_SAMPLER = "dds"

Backend = Annotated[
    str,
    typer.Option(help="auto (the best that is here), onnxruntime, onnxruntime-cuda, openvino, trt or rtx."),
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
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
