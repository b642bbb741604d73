"""``sbim-deploy demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.evaluate import print_evaluation
from sbim_deploy.cli.output import note
from sbim_deploy.cli.recon import Pictures, run_recon
from sbim_deploy.errors import InputError
from sbim_deploy.words import plural


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for the files.")] = Path("demo"),
    force: options.Force = False,
) -> None:
    """Simulate, reconstruct, score and draw, in one go: a first look."""
    from sbim_deploy.io.overwriting import check_new
    from sbim_deploy.runs.evaluate import evaluate_file
    from sbim_deploy.runs.outputs import Output
    from sbim_deploy.runs.settings import ReconSettings
    from sbim_deploy.runs.simulate import SimulateSettings, simulate_file

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot make the folder ({error.strerror}): name another one") from error
    kspace, result, picture = (output / name for name in ("kspace.h5", "reconstruction.h5", "montage.png"))
    for path in (result, picture):
        check_new(path, force)
    settings = SimulateSettings()
    simulate_file(kspace, settings, force=force)
    note(
        f"{kspace}: {plural(settings.n_slices, 'synthetic brain slice')}, {plural(settings.n_coils, 'coil')}"
        f", {settings.size} x {settings.size}, acceleration {settings.acceleration:g}"
    )
    run_recon(kspace, Output(result), ReconSettings(force=force), Pictures(png=picture))
    print_evaluation(evaluate_file(result, kspace))
    note(f"look at {picture}")
