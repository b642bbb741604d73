"""``sbim-deploy build``."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli.output import note, progress_bar
from sbim_deploy.cli.sizes import RANGE, SIZE, parse_range, parse_size
from sbim_deploy.errors import InputError

if TYPE_CHECKING:
    from sbim_deploy.models.engine_build import BuiltEngine

MIB = 1024**2


def build(
    model: Annotated[str, typer.Argument(help='The model folder; "demo" is the one that ships.')],
    backend: Annotated[str, typer.Option(help="trt, TensorRT, or rtx, TensorRT-RTX.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the engines; default MODEL/engines.")
    ] = None,
    sm: Annotated[
        list[int] | None, typer.Option(help="Compute capability, 89 for 8.9, an engine for each; only rtx.")
    ] = None,
    current: Annotated[bool, typer.Option("--current", help="For the GPU here; the default.")] = False,
    graph: Annotated[
        str, typer.Option(help="A graph, or a kind of them: score, step or reconstruct.")
    ] = "step",
    batch: Annotated[str, typer.Option(metavar=RANGE, help="Images computed together.")] = "1:1:8",
    coils: Annotated[str, typer.Option(metavar=RANGE, help="Receive coils.")] = "1:8:32",
    size: Annotated[
        str | None,
        typer.Option(metavar=SIZE, help="Rows and columns, such as 320x320; default any from 64 to 512."),
    ] = None,
    lines: Annotated[
        str | None, typer.Option(metavar=RANGE, help="Sampled lines of k-space; default any.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of measured kernels, read and written; only trt.")
    ] = None,
    workspace: Annotated[float | None, typer.Option(help="Memory for the builder's choices, in GiB.")] = None,
    opt_level: Annotated[int | None, typer.Option(help="The builder's effort, 0 to 5.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build, and replace an engine that is there.")
    ] = False,
) -> None:
    """Build TensorRT engines from a model's graphs; TensorRT-RTX builds for a GPU that is elsewhere."""
    from sbim_deploy.engines.tensorrt_builder import BuildSettings
    from sbim_deploy.models.engine_build import (
        BuildRequest,
        build_engine_file,
        select_graphs,
        shape_ranges,
        target_capability,
    )
    from sbim_deploy.models.engine_folder import ENGINES
    from sbim_deploy.models.folder import load_model

    if sm and current:
        raise InputError("--sm and --current exclude each other: give one of them")
    batch_range, coil_range = parse_range("--batch", batch), parse_range("--coils", coils)
    line_range = None if lines is None else parse_range("--lines", lines)
    loaded = load_model(model)
    manifest, folder = loaded.manifest, loaded.folder
    graphs = select_graphs(manifest, graph)
    ranges = shape_ranges(
        manifest, batch_range, coil_range, None if size is None else parse_size(size), line_range
    )
    targets: list[int | None] = [*dict.fromkeys(sm)] if sm else [None]
    requests = [
        BuildRequest(
            backend,
            ranges,
            BuildSettings(target, workspace, opt_level),
            output or folder / ENGINES,
            timing_cache,
            force,
        )
        for target in targets
    ]
    for request in requests:
        target_capability(backend, request.settings.compute_capability, graphs)
    note(f"building {', '.join(graphs)}: seconds a graph with rtx, perhaps minutes with trt")
    for request in requests:
        for name in graphs:
            started = time.monotonic()
            with progress_bar(f"building {name}", 100) as move:
                built = build_engine_file(folder, manifest, name, request, partial(_show, move))
            note(_said(built, time.monotonic() - started))
            if built.timing_cache:
                note(built.timing_cache)


def _show(move: Callable[[int], None], fraction: float) -> None:
    move(int(100 * fraction))


def _said(built: BuiltEngine, seconds: float) -> str:
    record = built.record
    what = f"{record.precision}, compute capability {record.compute_capability / 10:.1f}"
    if built.was_there:
        return f"{built.path}: kept, an equal engine is there ({what}); --force builds it again"
    return f"{built.path}: {what}, {record.engine_bytes / MIB:.1f} MiB in {seconds:.1f} s"
