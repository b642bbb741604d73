"""``sbim-deploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.options import needs
from sbim_deploy.cli.output import note
from sbim_deploy.errors import InputError


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint (.pth, .pt), or a folder of diffusers with a UNet2DModel."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The YAML or JSON beside a checkpoint.")] = None,
    ema: Annotated[
        bool | None,
        typer.Option("--ema/--raw", help="Which weights; default: EMA where there are any, which is said."),
    ] = None,
    image_scale: Annotated[
        float | None,
        typer.Option(help="The 99th percentile of the magnitude of the training images; default 1."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.FILE:FUNCTION",
            help="In place of a checkpoint: a function of yours on the Python path, whose code is run, that "
            "returns the arguments of sbim_deploy.export.export_module.",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the convolutions: fp32, fp16 or bf16; norms and sums stay wider.")
    ] = "fp32",
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; default 20, or 22 for bf16.")] = None,
    force: options.Force = False,
) -> None:
    """Export a pretrained network to a model folder of ONNX graphs.

    NCSNv2, EDM's networks, guided-diffusion's and diffusers' UNets, or any module of yours.
    """
    if checkpoint is None and module is None:
        raise InputError(
            "no network is named: name a checkpoint (.pth, .pt) or a folder of diffusers, or give --module "
            "PACKAGE.FILE:FUNCTION for a network of yours"
        )
    if checkpoint is not None and module is not None:
        raise InputError(f"{checkpoint} and --module {module} are two networks: give one of them")
    if module is not None and (config, ema, dtype, opset) != (None, None, "fp32", None):
        raise InputError(
            "--module makes a whole network in fp32: leave --config, --ema, --dtype, --opset out"
        )
    with needs("export"):
        from sbim_deploy.export.model import export_model
        from sbim_deploy.export.module import export_from_factory

    if checkpoint is None:
        note(f"running {module}, from the Python path")
        manifest = export_from_factory(str(module), output, image_scale, note, force)
    else:
        scale = 1.0 if image_scale is None else image_scale
        manifest = export_model(checkpoint, config, output, ema, dtype, opset, note, force, scale)
    note(
        f"{output}: {manifest.architecture}, ngf {manifest.ngf}, {'EMA' if manifest.ema else 'raw'} weights, "
        f"image scale {manifest.image_scale:g}, {dtype}, opset {manifest.opset}; check it with: "
        f"sbim-deploy validate {output}"
    )
