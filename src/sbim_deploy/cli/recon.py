"""``sbim-deploy recon``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import detail, note, print_json, progress_bar, warn
from sbim_deploy.cli.pipes import STANDARD, input_file, output_file
from sbim_deploy.cli.progress import shown_progress
from sbim_deploy.cli.study import Cluster, is_study, run_recon_study
from sbim_deploy.cli.trajectories import TrajectoryOptions
from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.words import plural

if TYPE_CHECKING:
    from sbim_deploy.kspace.sources import KspaceSource
    from sbim_deploy.recon.classical import Classical
    from sbim_deploy.results.provenance import Provenance
    from sbim_deploy.runs.outputs import ImageSettings, Output
    from sbim_deploy.runs.settings import ReconSettings


ONE_FILE = "--{} is of one file: leave it out of a study"


@dataclass(frozen=True)
class Pictures:
    """The options that ask for more of one file's result."""

    png: Annotated[Path | None, typer.Option(help="A picture to write too.")] = None
    nifti: Annotated[Path | None, typer.Option(help="A NIfTI volume to write too (.nii, .nii.gz).")] = None
    report: Annotated[
        Path | None, typer.Option(help="A page to write too (.html): images, residuals, provenance.")
    ] = None

    def check_absent(self) -> None:
        """Raise InputError where one of them is given for a study."""
        for name, value in asdict(self).items():
            if value is not None:
                raise InputError(ONE_FILE.format(name))


def recon(
    *,
    kspace: Annotated[
        list[Path],
        typer.Argument(
            help="fastMRI or MRD (ISMRMRD), an MRD version 2 stream (- is stdin), Siemens' .dat, BART's "
            ".cfl, or an array in .npy, .npz or .mat; or a study: several files, a folder (its files of "
            "k-space), or a list (.txt)."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The file to write; a folder for DICOM, and for a study; - is stdout, as an MRD version 2 "
            "stream.",
        ),
    ],
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="h5, mrd, mrd2, dicom, nifti or cfl; default by the output's name, else h5."
        ),
    ] = None,
    orientation: Annotated[
        str,
        typer.Option(
            help="Of k-space: auto (MRD by systemVendor; .dat is turned), plain, or turned (conjugated, as "
            "Siemens' raw data are: the image turns by 180 degrees)."
        ),
    ] = "auto",
    arrays: options.ArrayOptions,
    trajectories: TrajectoryOptions,
    dimensions: options.Dimensions = 2,
    volume: Annotated[
        int | None, typer.Option(help="Which of several volumes in a 3-D file, counted from 0.")
    ] = None,
    model: options.Model = Path("demo"),
    maps: Annotated[
        Path | None,
        typer.Option(
            help="An HDF5 file with s_maps, BART's .cfl, .npy, .mat; default: estimated (--map-method)."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="sampler; or, without a network and without a model, l1-wavelet, cg-sense or zero-filled."
        ),
    ] = "sampler",
    sampling: options.Sampling,
    through_plane: Annotated[
        bool,
        typer.Option(
            "--through-plane",
            help="Reconstruct the slices of a 3-D scan together: the network sees planes of all three "
            "directions in turn.",
        ),
    ] = False,
    seed: options.Seed = 0,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Images drawn for each slice: their mean and standard deviation are kept, which takes the "
            "calls of one more; default 1."
        ),
    ] = None,
    map_method: Annotated[
        str,
        typer.Option(
            help="How coil maps are estimated: espirit, nlinv (nonlinear inversion, for few calibration "
            "lines), or auto."
        ),
    ] = "auto",
    map_sets: Annotated[
        int,
        typer.Option(help="Sets of coil maps to estimate: 2 for an object larger than the field of view."),
    ] = 1,
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="SD",
            help="Standard deviation of the real and the imaginary parts of k-space; measured without it.",
        ),
    ] = None,
    slices: Annotated[
        str | None, typer.Option(metavar="A:B", help="Slices from A up to, not including, B.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images computed together: slices, or samples of one.")] = 1,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    server: options.Server = None,
    device: options.Device = None,
    graph: Annotated[
        str, typer.Option(help="What runs in a call: step (a row of the plan), reconstruct (all), score.")
    ] = "step",
    threads: Annotated[
        int | None,
        typer.Option(help="Engine threads; default one for each core, in a study one for each worker."),
    ] = None,
    undersample: Annotated[
        str | None,
        typer.Option(
            metavar=options.UNDERSAMPLE, help="Take lines away first: equispaced:R (or R) or random:R."
        ),
    ] = None,
    mask_convention: options.MaskConvention = "centred",
    pictures: Pictures,
    images: options.ImageOptions,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    force: options.Force = False,
    cluster: Cluster,
    json: options.Json = False,
) -> None:
    """Reconstruct undersampled multi-coil k-space: a file, or a study of many.

    Several files, a folder or a .txt list of paths are a study: it runs on several processes, a file that
    cannot be read does not stop the others, and study.json in the output folder tells what became of each.
    """
    from sbim_deploy.io.documents import find_named
    from sbim_deploy.mrd.orientation import Orientation
    from sbim_deploy.runs.settings import ReconSettings

    classical = _parse_method(method, sampling)
    choice, n_samples = sampling.choose(samples)
    settings = ReconSettings(
        model=model,
        maps=maps,
        method=classical,
        choice=choice,
        seed=seed,
        samples=n_samples,
        map_method=map_method,
        map_sets=map_sets,
        noise=noise,
        orientation=find_named(Orientation, orientation, "orientation"),
        slices=options.parse_slices(slices),
        batch=batch,
        backend=options.backend_at(backend, server, device),
        threads=threads,
        precision=precision,
        graph=graph,
        undersampling=options.parse_undersampling(undersample, mask_convention),
        reading=trajectories.reading(arrays.reading),
        dimensions=dimensions,
        through_plane=through_plane,
        volume=volume,
        resume=resume,
        force=force,
    )
    if is_study(kspace):
        pictures.check_absent()
        for name, value in (("format", output_format), ("method", classical)):
            if value is not None:
                raise InputError(ONE_FILE.format(name))
        for name, value in asdict(images).items():
            if value != getattr(options.ImageOptions, name):
                raise InputError(ONE_FILE.format(name.replace("_", "-")))
        if STANDARD in (*kspace, output):
            raise InputError("- is stdin or stdout, of one file: leave it out of a study")
        run_recon_study(kspace, output, settings, cluster, json)
        return
    cluster.check_absent()
    if output == STANDARD:
        _check_stdout(output_format, resume, json)
    with input_file(kspace[0]) as source, output_file(output) as target:
        made = _parse_output(output, target, output_format, images.settings)
        provenance = run_recon(source, made, settings, pictures)
    if json:
        from sbim_deploy.runs.findings import warnings

        print_json({**provenance.as_dict(), "warnings": warnings(provenance)})


def run_recon(
    kspace: Path,
    output: Output,
    settings: ReconSettings,
    pictures: Pictures,
) -> Provenance:
    """Reconstruct with a bar and a closing line on stderr, and write the pictures and the page asked for."""
    from sbim_deploy.io.locks import owning_file
    from sbim_deploy.io.overwriting import PAGE, PICTURE, check_name, check_new
    from sbim_deploy.records import NOTICE
    from sbim_deploy.results.partial import count_finished
    from sbim_deploy.runs.findings import shown, warnings
    from sbim_deploy.runs.outputs import NIFTI, Output, check_output, result_path
    from sbim_deploy.runs.reconstruct_file import reconstruct
    from sbim_deploy.runs.trajectories import settings_for
    from sbim_deploy.runs.whole_volume import open_input

    _check_distinct([kspace, output.path, pictures.png, pictures.nifti, pictures.report])
    outputs = [output] if pictures.nifti is None else [output, Output(pictures.nifti, NIFTI)]
    result = result_path(output)
    with (
        open_input(kspace, result, settings) as source,
        owning_file(result),
    ):
        for assumption in source.describe()["assumed"] or ():
            note(f"{kspace}: {assumption}", even_quiet=True)
        if settings_for(source, settings) != settings:
            what = "slices together" if settings.through_plane else "samples along a trajectory"
            note(f"{kspace}: {what} run step by step (--graph score)")
        for each in outputs:
            for remark in check_output(each, source, settings):
                note(remark, even_quiet=True)
        for path, kind in ((pictures.png, PICTURE), (pictures.report, PAGE)):
            if path is not None:
                check_name(path, kind)
                check_new(path, settings.force)
        if settings.force and not settings.resume and (n_finished := count_finished(result)):
            note(
                f"starting over without {plural(n_finished, 'finished slice')} of a stopped run "
                "(--resume keeps them)"
            )
        _transform_volume(source)
        residuals: list[tuple[int, int, float]] = []
        on_residual = None if pictures.report is None else lambda *told: residuals.append(told)
        with _saying_what_is_kept(output), shown_progress() as progress:
            provenance = reconstruct(source, result, settings, progress, on_residual)
        _write_outputs(outputs, result, source, pictures, residuals, settings.force)
    timings, plan = provenance.timings_s, provenance.plan
    without = f", without {', '.join(provenance.left_out)}" if provenance.left_out else ""
    samples = f"{plural(settings.samples, 'sample')} of " if settings.samples > 1 else ""
    for warning in warnings(provenance):
        warn(warning)
    made_by = f"{samples}{plan.sampler} with {plural(len(plan.rows), 'network call')}"
    if provenance.without_network:
        made_by = f"{provenance.maker} without a network"
    made = f"{plural(timings.slices or 0, 'slice')}{without}, {made_by}"
    note(f"{output.path}: {made}, {timings.total:.1f} s. {NOTICE}")
    detail(f"preparation {shown(timings.preparation, '.1f')} s, sampling {shown(timings.sampling, '.1f')} s")
    return provenance


@contextmanager
def _saying_what_is_kept(output: Output) -> Iterator[None]:
    from sbim_deploy.results.partial import count_finished
    from sbim_deploy.runs.outputs import result_path

    try:
        yield
    except KeyboardInterrupt:
        if output.is_kept:
            n_finished = count_finished(result_path(output))
            note(
                f"stopped: kept {plural(n_finished, 'finished slice')}, go on with --resume", even_quiet=True
            )
        raise


def _transform_volume(source: KspaceSource) -> None:
    """Transform a 3-D scan into its temporary store, with a bar; leave slices as they are."""
    from sbim_deploy.kspace.transformed import TransformedKspace

    if not isinstance(source, TransformedKspace):
        return
    note(
        f"a temporary store of {source.store_bytes / 1e9:.2f} GB in {source.folder} holds the volume "
        f"transformed along its {source.direction}"
    )
    with progress_bar(plural(source.n_partitions, "partition"), source.n_partitions) as move_to:
        source.transform(move_to)


def _write_outputs(
    outputs: Sequence[Output],
    result: Path,
    source: KspaceSource,
    pictures: Pictures,
    residuals: Sequence[tuple[int, int, float]],
    force: bool,
) -> None:
    """Write the pictures and the formats asked for, and remove the result where it is none of them."""
    from sbim_deploy.pages.montage import write_result_montage
    from sbim_deploy.pages.report import write_report
    from sbim_deploy.runs.outputs import H5, NIFTI, slice_views, write_output

    views = slice_views(source, outputs[0].images.keep_grid)
    if pictures.png is not None:
        write_result_montage(pictures.png, result, source, views, force)
    try:
        for output in outputs:
            remark = None if output.format == H5 else write_output(output, result, source, force)
            if remark is not None:
                warn(remark)
        if pictures.report is not None:
            volume = next((each.path for each in outputs if each.format == NIFTI), None)
            write_report(pictures.report, result, residuals, views, force, source, volume)
    except (SbimDeployError, KeyboardInterrupt):
        if outputs[0].is_kept:
            note(
                "the images are reconstructed and kept: --resume writes them without reconstructing again",
                even_quiet=True,
            )
        raise
    if all(output.path != result for output in outputs):
        result.unlink(missing_ok=True)


def _check_distinct(paths: Sequence[Path | None]) -> None:
    """Refuse a file that is named twice: the second writing would take the place of the first."""
    named = [path for path in paths if path is not None]
    for place, path in enumerate(named):
        if path.resolve() in [other.resolve() for other in named[:place]]:
            raise InputError(f"{path}: is named twice among input and outputs: name another file")


def _parse_method(method: str, sampling: options.Sampling) -> Classical | None:
    """Return the method without the network that a name means, or None for a sampler."""
    from sbim_deploy.recon.classical import Classical
    from sbim_deploy.results.provenance import SAMPLER

    if method == SAMPLER:
        return None
    if method not in tuple(Classical):
        known = ", ".join([SAMPLER, *Classical])
        raise InputError(f"--method is {method!r}: expected one of {known}")
    for name, value in asdict(sampling).items():
        if value not in (None, False):
            option = name.replace("_", "-")
            raise InputError(f"--method {method} takes no sampler: leave --{option} out")
    return Classical(method)


def _parse_output(named: Path, path: Path, wanted: str | None, images: ImageSettings) -> Output:
    """Return what is written to ``path``, which stands for what the user named."""
    from sbim_deploy.runs.outputs import MRD2, Output, format_by_name

    if named == STANDARD:
        return Output(path, MRD2, images, is_kept=False)
    return Output(path, wanted or format_by_name(path), images)


def _check_stdout(wanted: str | None, resume: bool, json: bool) -> None:
    """Refuse what does not go with images on stdout."""
    from sbim_deploy.runs.outputs import MRD2

    if wanted not in (None, MRD2):
        raise InputError(f"-o - writes an MRD version 2 stream, not {wanted}: name a file for that")
    for given, option in ((resume, "--resume"), (json, "--json")):
        if given:
            raise InputError(f"{option} and -o - are both given: name a file with -o, or leave {option} out")
