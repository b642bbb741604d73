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
        str,
        typer.Option(
            "--format",
            help="fastmri, or mrd: raw data for replay and serve, with noise readouts and oversampling.",
        ),
    ] = "fastmri",
    dimensions: options.Dimensions = 2,
    slices: Annotated[
        int | None,
        typer.Option(
            help="Slices, of 16 different brains; default 4. Of a 3-D scan its partitions; default --size."
        ),
    ] = None,
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 8,
    size: Annotated[int, typer.Option(help="Rows and columns.")] = 128,
    acceleration: Annotated[float, typer.Option(help="Nominal R: every R-th line outside the centre.")] = 4,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="equispaced, the default, or random; of a 3-D scan also poisson, the default, or caipirinha."
        ),
    ] = None,
    elliptic: Annotated[
        bool, typer.Option("--elliptic", help="Leave out the corners of a 3-D scan's k-space.")
    ] = False,
    noise: Annotated[
        float, typer.Option(help="Standard deviation in each part; the image's 99th percentile is 1.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of phase, noise and random lines.")] = 0,
    phantom: Annotated[str, typer.Option(help="brain or shepp-logan.")] = "brain",
    mask_convention: options.MaskConvention = "centred",
    force: options.Force = False,
) -> None:
    """Simulate a scan whose truth is known, from synthetic slices or a synthetic head."""
    if dimensions == 3:
        given = {"--format mrd": output_format != "fastmri", "--phantom": phantom != "brain"}
        for name, is_given in given.items():
            if is_given:
                raise InputError(f"{name} is of slices: leave it out of --dimensions 3")
        if acceleration != int(acceleration):
            raise InputError(f"acceleration is {acceleration:g}: expected a whole number for --dimensions 3")
        _simulate_volume(
            output, slices or size, coils, size, int(acceleration), pattern, elliptic, noise, seed, force
        )
        return
    if dimensions != 2:
        raise InputError(f"--dimensions is {dimensions}: expected 2 or 3")
    if elliptic:
        raise InputError("--elliptic is of a 3-D scan: say --dimensions 3")
    slices, pattern = 4 if slices is None else slices, pattern or "equispaced"
    from sbim_deploy.runs.simulate import SimulateSettings, simulate_file, why_refused
    from sbim_deploy.runs.simulate_mrd import simulate_mrd

    writers = {"fastmri": simulate_file, "mrd": simulate_mrd}
    if output_format not in writers:
        raise InputError(f"unknown format {output_format!r}: expected one of {', '.join(writers)}")
    settings = SimulateSettings(
        slices, coils, size, acceleration, pattern, noise, seed, phantom, mask_convention
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


def _simulate_volume(
    output: Path,
    partitions: int,
    coils: int,
    size: int,
    acceleration: int,
    pattern: str | None,
    elliptic: bool,
    noise: float,
    seed: int,
    force: bool,
) -> None:
    from sbim_deploy.mri.plane_masks import POISSON
    from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, simulate_volume

    settings = SimulateVolumeSettings(
        size, partitions, coils, acceleration, pattern or POISSON, elliptic, noise, seed
    )
    with progress_bar(f"{partitions} partitions", partitions) as move_to:
        effective = simulate_volume(output, settings, move_to, force)
    note(
        f"{output}: a volume of {size} x {partitions} x {size} (readout, partitions, lines), {coils} coils, "
        f"acceleration {acceleration} nominal, {effective:.2f} effective: reconstruct it with --dimensions 3"
    )
