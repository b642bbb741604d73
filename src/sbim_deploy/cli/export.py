"""``sbim-deploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.options import needs
from sbim_deploy.cli.output import note


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint (.pth), or a folder of diffusers with a UNet2DModel.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    config: Annotated[Path | None, typer.Option(help="The YAML beside a checkpoint.")] = None,
    ema: Annotated[
        bool | None, typer.Option("--ema/--raw", help="Which weights; default: EMA where there are any.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the convolutions: fp32, fp16 or bf16; norms and sums stay wider.")
    ] = "fp32",
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; default 20, or 22 for bf16.")] = None,
    force: options.Force = False,
) -> None:
    """Export a pretrained NCSNv2, or a diffusion model (VP), to a model folder of ONNX graphs."""
    with needs("export"):
        from sbim_deploy.export.model import export_model

    manifest = export_model(checkpoint, config, output, ema, dtype, opset, note, force)
    note(
        f"{output}: {manifest.architecture}, ngf {manifest.ngf}, {'EMA' if manifest.ema else 'raw'} weights, "
        f"{dtype}, opset {manifest.opset}; check it with: sbim-deploy validate {output}"
    )
