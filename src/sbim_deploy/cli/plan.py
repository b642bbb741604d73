"""``sbim-deploy plan``."""

from __future__ import annotations

from pathlib import Path

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import print_json, print_table
from sbim_deploy.words import plural


def plan(
    *,
    sampling: options.Sampling,
    model: options.Model = Path("demo"),
    json: options.Json = False,
) -> None:
    """Print a sampler as the table of numbers that it applies."""
    from sbim_deploy.models.folder import model_folder, read_manifest, sampling_prior
    from sbim_deploy.samplers.choice import make_plan
    from sbim_deploy.samplers.plan import plan_as_dict

    choice, samples = sampling.choose()
    made = plan_as_dict(make_plan(choice, sampling_prior(read_manifest(model_folder(model)))))
    if json:
        print_json({**made, "samples": samples})
        return
    start = made["start"]
    columns = list(made["rows"][0])
    rows = [
        [str(i + 1), *(f"{row.get(name, 0):.6g}" for name in columns)] for i, row in enumerate(made["rows"])
    ]
    print_table(["step", *columns], rows)
    typer.echo(f"start: {start['image']:g} x the {start['of']} image + {start['noise']:g} x noise")
    if samples > 1:
        typer.echo(f"the image is the mean of {plural(samples, 'sample')}")
