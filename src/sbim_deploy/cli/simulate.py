"""``sbim-deploy simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import note, progress_bar
from sbim_deploy.errors import InputError


def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="The HDF5 file to write.")],
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="fastmri (default), or mrd: raw data for replay and serve, with noise readouts and "
            "oversampling; a trajectory's is mrd.",
        ),
    ] = None,
    slices: Annotated[int, typer.Option(help="Slices; there are 16 different brains.")] = 4,
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 8,
    size: Annotated[int, typer.Option(help="Rows and columns.")] = 128,
    acceleration: Annotated[float, typer.Option(help="Nominal R: every R-th line outside the centre.")] = 4,
    pattern: Annotated[str, typer.Option(help="equispaced or random.")] = "equispaced",
    noise: Annotated[
        float, typer.Option(help="Standard deviation in each part; the image's 99th percentile is 1.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of phase, noise and random lines.")] = 0,
    phantom: Annotated[str, typer.Option(help="brain or shepp-logan.")] = "brain",
    trajectory: Annotated[
        str | None,
        typer.Option(help="radial, golden (angle) or spiral, in place of lines; R is that of readouts."),
    ] = None,
    mask_convention: options.MaskConvention = "centred",
    force: options.Force = False,
) -> None:
    """Simulate a scan whose truth is known, from synthetic slices."""
    from sbim_deploy.runs.simulate import SimulateSettings, simulate_file, why_refused
    from sbim_deploy.runs.simulate_mrd import simulate_mrd

    writers = {"fastmri": simulate_file, "mrd": simulate_mrd}
    output_format = output_format or ("fastmri" if trajectory is None else "mrd")
    if trajectory is not None and (output_format, pattern) != ("mrd", "equispaced"):
        raise InputError(
            "a trajectory is written as mrd and has no pattern of lines: leave --format and --pattern out"
        )
    if output_format not in writers:
        raise InputError(f"unknown format {output_format!r}: expected one of {', '.join(writers)}")
    settings = SimulateSettings(
        slices, coils, size, acceleration, pattern, noise, seed, phantom, mask_convention, trajectory
    )
    with progress_bar(f"{slices} slices", slices) as move_to:
        effective = writers[output_format](output, settings, move_to, force)
    note(
        f"{output}: {slices} slices, {coils} coils, {size} x {size}, acceleration {acceleration:g} nominal, "
        f"{effective:.2f} effective"
    )
    reason = why_refused(settings)
    if reason is not None:
        note(
            f"warning: recon will refuse {output}: {reason}; a larger --size or a smaller --acceleration "
            f"leaves more lines, and where only maps are wanting --maps {output} takes the simulated ones"
        )
