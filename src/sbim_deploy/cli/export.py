"""``sbim-deploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli.extras import needs
from sbim_deploy.cli.output import note


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint in the published layout (.pth).")],
    config: Annotated[Path, typer.Option(help="The YAML beside it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    ema: Annotated[
        bool | None, typer.Option("--ema/--raw", help="Which weights; default: EMA where there are any.")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 20,
) -> None:
    """Export a pretrained NCSNv2 to a model folder of ONNX graphs."""
    with needs("export"):
        from sbim_deploy.export.model import export_model

    note(f"exporting {checkpoint}: tracing two graphs, about a minute")
    manifest = export_model(checkpoint, config, output, ema, opset)
    note(
        f"{output}: {manifest.architecture}, ngf {manifest.ngf}, {'EMA' if manifest.ema else 'raw'} weights, "
        f"opset {manifest.opset}; check it with: sbim-deploy validate {output}"
    )
