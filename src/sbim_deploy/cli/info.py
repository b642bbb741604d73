"""``sbim-deploy info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import print_json
from sbim_deploy.cli.pipes import input_file


def info(
    *,
    path: Annotated[
        Path,
        typer.Argument(
            help="k-space (- is stdin), a result, images (DICOM, NIfTI, MRD, .cfl, arrays), a model folder, "
            'or "demo".'
        ),
    ],
    arrays: options.ArrayOptions,
    json: options.Json = False,
) -> None:
    """Say what a k-space file, a result, a file or folder of images, or a model folder is."""
    from sbim_deploy.runs.info import describe

    with input_file(path) as file:
        description = describe(file, arrays.reading)
    if json:
        print_json(description)
    else:
        _print_mapping(description, "")


def _print_mapping(mapping: dict[str, Any], indent: str) -> None:
    for key, value in mapping.items():
        if value is None:
            continue
        if isinstance(value, dict):
            typer.echo(f"{indent}{key}:")
            _print_mapping(value, indent + "  ")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            shown = (f"{each:.6g}" if isinstance(each, float) else str(each) for each in values)
            typer.echo(f"{indent}{key}: {', '.join(shown)}")
