"""``sbim-deploy triton``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli.output import note, print_table
from sbim_deploy.cli.sizes import SIZE, parse_size
from sbim_deploy.words import plural


def triton(
    model: Annotated[Path, typer.Argument(help='A model folder, or "demo".')],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model repository to write, a folder.")],
    device: Annotated[str, typer.Option(help="Where the server computes: gpu or cpu.")] = "gpu",
    instances: Annotated[int, typer.Option(help="Of each model, side by side on a device.")] = 1,
    max_batch: Annotated[
        int, typer.Option(help="Slices of several requests that run together, in ONNX Runtime.")
    ] = 8,
    queue_delay: Annotated[
        int, typer.Option(metavar="MICROSECONDS", help="A request waits so long for others.")
    ] = 1000,
    size: Annotated[
        str, typer.Option(metavar=SIZE, help="Rows and columns that models are warmed up with.")
    ] = "320x320",
    coils: Annotated[int, typer.Option(help="Coils that models are warmed up with.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Replace a repository that is there.")] = False,
) -> None:
    """Write a model repository for a Triton Inference Server.

    It holds the graphs for ONNX Runtime, and the TensorRT engines of the model folder; those of TensorRT-RTX
    cannot be loaded by Triton. Its README.md says how to start a server on it.
    """
    from sbim_deploy.models.folder import load_model
    from sbim_deploy.models.triton_config import ServingSettings
    from sbim_deploy.models.triton_repository import write_repository

    settings = ServingSettings(device, instances, max_batch, queue_delay, parse_size(size), coils)
    written = write_repository(load_model(model), output, settings, force)
    for line in written.left_out:
        note(f"left out: {line}")
    if not written.weights_shared:
        note("no hard links here: each model has a copy of the weights")
    print_table(
        ["model", "runs in", "slices at once"],
        [[each.name, each.runs_in, str(each.max_batch or "free")] for each in written.models],
    )
    note(
        f"{output}: {plural(len(written.models), 'model')}; {output / 'README.md'} says how to "
        "start a server on them"
    )
