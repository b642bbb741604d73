"""``sbim-deploy train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.options import needs
from sbim_deploy.cli.output import note, progress_bar
from sbim_deploy.cli.sizes import parse_side
from sbim_deploy.errors import InputError
from sbim_deploy.words import plural


def train(
    config: Annotated[Path, typer.Option(help="The YAML of the network and its noise levels.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for the checkpoint and the log.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint whose weights a new run starts from.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run whose checkpoint lies in the folder.")
    ] = False,
    iterations: Annotated[int | None, typer.Option(help="How long: optimiser steps from the start.")] = None,
    minutes: Annotated[float | None, typer.Option(help="How long: minutes from now.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="ve: an NCSNv2; vp: a UNet on DDPM's variance-preserving schedule.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="dsm: denoising score matching; ssm: sliced, slower.")
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="Draw of noise levels: uniform over the schedule's, or detail.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(metavar="N", help="Rows and columns; give several to mix.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, at the first size.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam at the start; falls to zero.")] = None,
    ema_rate: Annotated[float | None, typer.Option(help="Memory of the averaged weights.")] = None,
    anatomy: Annotated[
        Path | None, typer.Option(help="A folder of label maps (NIfTI, FreeSurfer's values) to train on.")
    ] = None,
    lesions: Annotated[
        Path | None, typer.Option(help="A folder of lesions' masks (NIfTI) to lay over some of their slices.")
    ] = None,
    held_out_anatomy: Annotated[
        Path | None, typer.Option(help="A folder of other label maps, for the held-out loss.")
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(help="Synthetic slices of the first size to make first; others: as many pixels."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, or convolutions in fp16 or bf16.")] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile: minutes first, then faster.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Train a score network on synthetic brains.

    The YAML may hold a section "training" with these settings (docs/formats.md); options come before it.
    """
    with needs("train"):
        from sbim_deploy.export.checkpoint import read_checkpoint
        from sbim_deploy.export.ncsnv2 import read_config
        from sbim_deploy.training.networks import CHECKPOINT_NAME, PIPELINE_NAME
        from sbim_deploy.training.settings import read_settings
        from sbim_deploy.training.trainer import train as train_network

    overrides = {
        "iterations": iterations,
        "minutes": minutes,
        "schedule": schedule,
        "objective": objective,
        "levels": levels,
        "sizes": [parse_side(each) for each in size or ()] or None,
        "batch": batch,
        "learning_rate": learning_rate,
        "ema_rate": ema_rate,
        "anatomy": anatomy and str(anatomy),
        "lesions": lesions and str(lesions),
        "held_out_anatomy": held_out_anatomy and str(held_out_anatomy),
        "pool_size": pool,
        "seed": seed,
        "device": device,
        "precision": precision,
        "compile": compile_,
    }
    settings = read_settings(config, overrides)
    preserving = settings.schedule == "vp"
    if preserving:
        with needs("train,vp"):
            from sbim_deploy.training.preserving import read_unet_config
    network_config = read_unet_config(config) if preserving else read_config(config)
    if resume and checkpoint is not None:
        raise InputError("--resume continues a run and --checkpoint begins one: give one of them")
    started_from = None
    first_step = 0
    if resume:
        started_from = read_checkpoint(output / CHECKPOINT_NAME)
        first_step = started_from.step
    elif checkpoint is not None:
        started_from = replace(read_checkpoint(checkpoint), optimizer={})

    sizes = ", ".join(f"{n} x {n}" for n in settings.sizes)
    drawn = plural(settings.pool_size, "slice")
    note(f"{settings.device}, {settings.precision}; drawing {drawn} of {sizes} first")
    with progress_bar("training", settings.iterations, first_step) as move_to:

        def report(step: int, loss: float, held_out: float | None) -> None:
            move_to(step)
            suffix = "" if held_out is None else f"  held-out {held_out:.5f}"
            note(f"step {step}  loss {loss:.5f}{suffix}" if step else f"before  {suffix.strip()}")

        path = train_network(network_config, settings, output, started_from, report, force)
    source = output / PIPELINE_NAME if preserving else f"{path} --config {config}"
    note(f"{path}: export it with: sbim-deploy export {source} -o MODEL_DIR")
