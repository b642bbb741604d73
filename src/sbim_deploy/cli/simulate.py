"""``sbim-deploy simulate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import note, progress_bar, warn
from sbim_deploy.cli.sizes import parse_side
from sbim_deploy.errors import InputError
from sbim_deploy.words import plural

if TYPE_CHECKING:
    from sbim_deploy.runs.simulate_stack import SimulateStackSettings
    from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings


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
    dimensions: options.Dimensions = 2,
    slices: Annotated[
        int | None,
        typer.Option(
            help="Slices, of 16 different brains; default 4. Of a 3-D scan its partitions; default --size."
        ),
    ] = None,
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 8,
    size: Annotated[str, typer.Option(metavar="N", help="Rows and columns.")] = "128",
    undersample: Annotated[
        str | None,
        typer.Option(
            metavar=options.UNDERSAMPLE,
            help="Which lines: equispaced:R (or R), every R-th outside the centre, or random:R; 1 is all; "
            "default equispaced:4. Of a 3-D scan also poisson:R (or R), the default, and caipirinha:R.",
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
    trajectory: Annotated[
        str | None,
        typer.Option(
            help="radial, golden (angle) or spiral, in place of lines; R is that of readouts. Of a 3-D scan "
            "that of each partition: a stack of stars or of spirals."
        ),
    ] = None,
    mask_convention: options.MaskConvention = "centred",
    force: options.Force = False,
) -> None:
    """Simulate a scan whose truth is known, from synthetic slices or a synthetic head."""
    side = parse_side(size)
    if dimensions == 3:
        _refuse_those_of_slices(
            {
                "--format": output_format is not None and trajectory is None,
                "--phantom": phantom != "brain",
                "--mask-convention": mask_convention != "centred",
            }
        )
        pattern, acceleration = options.parse_pattern(undersample or "4")
        partitions = side if slices is None else slices
        if trajectory is not None:
            _check_stack(output_format, pattern, elliptic)
            from sbim_deploy.runs.simulate_stack import SimulateStackSettings

            stack = SimulateStackSettings(side, partitions, coils, acceleration, trajectory, noise, seed)
            _simulate_stack(output, stack, force)
            return
        if acceleration != int(acceleration):
            raise InputError(f"acceleration is {acceleration:g}: expected a whole number for --dimensions 3")
        from sbim_deploy.mri.plane_masks import POISSON
        from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings

        volume = SimulateVolumeSettings(
            side, partitions, coils, int(acceleration), pattern or POISSON, elliptic, noise, seed
        )
        _simulate_volume(output, volume, force)
        return
    if dimensions != 2:
        raise InputError(f"--dimensions is {dimensions}: expected 2 or 3")
    if elliptic:
        raise InputError("--elliptic is of a 3-D scan: say --dimensions 3")
    slices = 4 if slices is None else slices
    from sbim_deploy.runs.simulate import SimulateSettings, simulate_file, why_refused
    from sbim_deploy.runs.simulate_mrd import simulate_mrd

    lines = options.parse_undersampling(undersample or "4", mask_convention)
    assert lines is not None
    writers = {"fastmri": simulate_file, "mrd": simulate_mrd}
    output_format = output_format or ("fastmri" if trajectory is None else "mrd")
    if trajectory is not None and (output_format, lines.pattern) != ("mrd", "equispaced"):
        raise InputError(
            "a trajectory is written as mrd and has no pattern of lines: leave --format out, and give "
            "--undersample R alone"
        )
    if output_format not in writers:
        raise InputError(f"unknown format {output_format!r}: expected one of {', '.join(writers)}")
    settings = SimulateSettings(
        slices,
        coils,
        side,
        lines.acceleration,
        lines.pattern,
        noise,
        seed,
        phantom,
        lines.convention,
        trajectory,
    )
    with progress_bar(plural(slices, "slice"), slices) as move_to:
        effective = writers[output_format](output, settings, move_to, force)
    note(
        f"{output}: {plural(slices, 'slice')}, {plural(coils, 'coil')}, {side} x {side}, "
        f"acceleration {lines.acceleration:g} nominal, {effective:.2f} effective"
    )
    reason = why_refused(settings)
    if reason is not None:
        warn(
            f"recon will refuse {output}: {reason}; a larger --size or a smaller R of --undersample "
            f"leaves more lines, and where only maps are wanting --maps {output} takes the simulated ones"
        )


def _refuse_those_of_slices(given: Mapping[str, bool]) -> None:
    for name, is_given in given.items():
        if is_given:
            raise InputError(f"{name} is of slices: leave it out of --dimensions 3")


def _simulate_volume(output: Path, settings: SimulateVolumeSettings, force: bool) -> None:
    from sbim_deploy.runs.simulate_volume import simulate_volume

    n, size = settings.n_partitions, settings.size
    with progress_bar(plural(n, "partition"), n) as move_to:
        effective = simulate_volume(output, settings, move_to, force)
    note(
        f"{output}: a volume of {size} x {n} x {size} (readout, partitions, lines), "
        f"{plural(settings.n_coils, 'coil')}, acceleration {settings.acceleration} nominal, "
        f"{effective:.2f} effective: reconstruct it with --dimensions 3"
    )


def _check_stack(output_format: str | None, pattern: str, elliptic: bool) -> None:
    if output_format not in (None, "mrd"):
        raise InputError(f"--format is {output_format!r}: a stack is written as mrd, leave --format out")
    if pattern:
        raise InputError(
            f"--undersample has the pattern {pattern!r}: a trajectory has no pattern of lines, give R alone"
        )
    if elliptic:
        raise InputError("--elliptic is of Cartesian k-space: leave it out of --trajectory")


def _simulate_stack(output: Path, settings: SimulateStackSettings, force: bool) -> None:
    from sbim_deploy.runs.simulate_stack import simulate_stack

    n, size = settings.n_partitions, settings.size
    with progress_bar(plural(n, "partition"), n) as move_to:
        effective = simulate_stack(output, settings, move_to, force)
    note(
        f"{output}: a stack of {plural(n, 'partition')} of {size} x {size} ({settings.trajectory}), "
        f"{plural(settings.n_coils, 'coil')}, acceleration {settings.acceleration:g} nominal, "
        f"{effective:.2f} effective: reconstruct it with --dimensions 3"
    )
