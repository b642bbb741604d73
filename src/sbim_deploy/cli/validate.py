"""``sbim-deploy validate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.options import needs
from sbim_deploy.cli.output import describe_engine, print_json, print_table, warn
from sbim_deploy.errors import InputError, ParityError

if TYPE_CHECKING:
    from sbim_deploy.engines.comparison import Parity


def validate(
    model: Annotated[Path, typer.Argument(help='A model folder, or "demo".')],
    checkpoint: Annotated[
        Path | None, typer.Option(help="What it was exported from, to run PyTorch beside it.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The checkpoint's YAML.")] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    server: options.Server = None,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Check a model's checksums, and its graphs against PyTorch.

    Without the checkpoint the graphs are compared with the outputs that export stored.
    """
    from dataclasses import asdict

    from sbim_deploy.models.backends import backend_of, open_engine
    from sbim_deploy.models.folder import FP16_OVERFLOW, load_model
    from sbim_deploy.recon.parity import check_image, check_model
    from sbim_deploy.recon.self_check import levels_without_gain, wrong_scale
    from sbim_deploy.runs.denoising import find_better_scale, measure_noise_left

    diffusers_folder = checkpoint is not None and checkpoint.is_dir()
    if not diffusers_folder and (checkpoint is None) != (config is None):
        raise InputError(
            "--checkpoint and --config go together, but for a diffusers folder: give both or none"
        )
    backend = options.backend_at(backend, server, device)
    loaded = load_model(model)
    engine = open_engine(loaded, "score", backend, precision=precision).description
    backend = backend_of(engine)
    against_checkpoint: list[Parity] = []
    # First: the wrong checkpoint is said at once.
    if checkpoint is not None:
        with needs("export"):
            from sbim_deploy.export.parity import check_against_checkpoint
        against_checkpoint = check_against_checkpoint(loaded, checkpoint, config, backend)
    results = check_model(loaded, backend)
    image_ssim = None
    # A whole image by a network that overflows would be an error of its own.
    if loaded.manifest.channels == 2 and not any(result.n_nonfinite for result in results):
        image, image_ssim = check_image(loaded, backend)
        results.append(image)
    results += against_checkpoint
    manifest = loaded.manifest
    network = open_engine(loaded, "score", backend)
    asked = (
        lambda x, sigma: network.run({"x": x, "sigma": sigma})["score"],
        manifest.channels,
        manifest.size_multiple,
        manifest.noise_levels,
    )
    noise_left, factor = measure_noise_left(*asked), find_better_scale(*asked)
    better_scale = None if factor is None else factor * manifest.image_scale
    if json:
        print_json(
            {
                "digest": loaded.digest,
                "checksums": "match",
                "engine": dict(engine),
                "dtype": loaded.manifest.dtype,
                "precision_cost": loaded.manifest.precision_cost,
                "bfloat16_cost": loaded.manifest.bfloat16_cost,
                "parity": [asdict(r) for r in results],
                "image_ssim": image_ssim,
                "noise_left": noise_left,
                "image_scale": manifest.image_scale,
                "better_image_scale": better_scale,
            }
        )
    else:
        typer.echo(describe_engine(engine, whole=True))
        typer.echo(f"checksums match: {', '.join(loaded.manifest.files)}")
        _print_results(results)
        if image_ssim is not None:
            typer.echo(f"image here against PyTorch in FP32, same seed: SSIM {image_ssim:.6f}")
        _print_costs(manifest.dtype, manifest.precision_cost)
        if manifest.bfloat16_cost:
            _print_costs("convolutions in bf16", manifest.bfloat16_cost)
        shares = ", ".join(f"{share:.0%} at {level}" for level, share in noise_left.items())
        typer.echo(f"noise that the network leaves in brain slices: {shares}")
        typer.echo(f"image scale: {manifest.image_scale:g}")
    failed = [result for result in results if not result.passed]
    if failed:
        names = ", ".join(result.name for result in failed)
        overflows = manifest.dtype == "float16" and any(result.n_nonfinite for result in failed)
        raise ParityError(
            f"{model}: {len(failed)} of {len(results)} comparisons failed: {names}"
            f"{'; ' + FP16_OVERFLOW if overflows else ''}"
        )
    if better_scale is not None:
        warn(f"the model {wrong_scale(better_scale)}")
    if found := levels_without_gain(noise_left):
        raise ParityError(
            f"{model}: the network leaves the noise in brain slices ({'; '.join(found)}), so that it is no "
            "prior for images; check that the checkpoint is a trained one, and its YAML"
        )


def _print_costs(precision: str, costs: Mapping[str, float]) -> None:
    told = (
        f"{name} {value:.6f}" if name.endswith("SSIM") else f"{name} {value:.1e}"
        for name, value in costs.items()
    )
    typer.echo(f"{precision} costs, in PyTorch at export: {', '.join(told)}")


def _print_results(results: list[Parity]) -> None:
    columns = ("comparison", "rel. L2", "max", "mean", "p99", "non-finite", "worst at", "")
    rows = [
        (
            result.name,
            f"{result.relative_l2:.1e}",
            f"{result.max_abs:.1e}",
            f"{result.mean_abs:.1e}",
            f"{result.p99_abs:.1e}",
            str(result.n_nonfinite),
            ",".join(map(str, result.worst_index)),
            "ok" if result.passed else f"FAILED (limit {result.tolerance:.0e})",
        )
        for result in results
    ]
    print_table(columns, rows)
