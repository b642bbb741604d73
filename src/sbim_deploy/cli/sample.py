"""``sbim-deploy sample``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import describe_engine, note, print_json, progress_bar
from sbim_deploy.cli.sizes import parse_side
from sbim_deploy.errors import InputError
from sbim_deploy.words import plural


def sample(
    *,
    model: Annotated[Path, typer.Argument(help='A model folder; "demo" is the one that ships.')],
    n_samples: Annotated[int, typer.Option("-n", "--samples", help="Images to draw.")] = 16,
    size: Annotated[
        str, typer.Option(metavar="N", help="Rows and columns; the size of the training works best.")
    ] = "128",
    output: Annotated[Path, typer.Option("-o", "--output", help="The HDF5 file to write.")],
    png: Annotated[Path | None, typer.Option(help="A picture of the images to write too.")] = None,
    sampler: Annotated[
        str, typer.Option(help="reverse-diffusion, langevin, sbim-ld, sbim or ddim.")
    ] = "reverse-diffusion",
    steps: Annotated[
        int | None, typer.Option(help="Predictor steps, or noise levels; default 256, of sbim-ld 64.")
    ] = None,
    corrector_steps: Annotated[
        int | None, typer.Option(help="Langevin steps at each level; default 3 for sbim-ld, 1 for langevin.")
    ] = None,
    langevin_step: Annotated[
        float | None,
        typer.Option(
            help="Size of Langevin steps in units of sigma^2; default the model's step_lr / sigma_min^2."
        ),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="How fresh the noise of ddim is, 0 (not at all, default) to 1.")
    ] = None,
    seed: options.Seed = 0,
    batch: Annotated[int, typer.Option(help="Images computed together.")] = 4,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    server: options.Server = None,
    device: options.Device = None,
    threads: Annotated[int | None, typer.Option(help="Engine threads; default one for each core.")] = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Draw a model's own images, without data: what a prior knows."""
    from sbim_deploy.io.overwriting import PICTURE, check_name, check_new
    from sbim_deploy.pages.montage import write_sample_grid
    from sbim_deploy.records import NOTICE
    from sbim_deploy.runs.sample import SampleSettings, sample_file
    from sbim_deploy.samplers.choice import SamplerChoice

    side = parse_side(size)
    settings = SampleSettings(
        model=model,
        n_samples=n_samples,
        size=side,
        choice=SamplerChoice(sampler, steps, corrector_steps, langevin_step=langevin_step, eta=eta),
        seed=seed,
        batch=batch,
        backend=options.backend_at(backend, server, device),
        threads=threads,
        precision=precision,
    )
    if png is not None:
        if png.resolve() == output.resolve():
            raise InputError(f"{png}: is named twice among the outputs: name another file")
        check_name(png, PICTURE)
        check_new(png, force)
    with ExitStack() as stack:
        moves = []

        def started(n_calls: int, engine: Mapping[str, str]) -> None:
            note(describe_engine(engine))
            moves.append(stack.enter_context(progress_bar(plural(n_samples, "sample"), n_samples * n_calls)))

        provenance = sample_file(output, settings, started, lambda done: moves[0](done), force)
    if png is not None:
        write_sample_grid(png, output, force)
    plan = provenance.plan
    note(
        f"{output}: {plural(n_samples, 'sample')}, {side} x {side}, {plan.sampler} with "
        f"{plural(len(plan.rows), 'network call')}, {provenance.seconds:.1f} s. {NOTICE}"
    )
    if json:
        print_json(provenance.as_dict())
