"""``sbim-deploy bench``."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.options import needs
from sbim_deploy.cli.output import note, print_json, print_table
from sbim_deploy.cli.sizes import SIZE, parse_size
from sbim_deploy.errors import (
    BackendMissingError,
    EngineIncompatibleError,
    InputError,
    SbimDeployError,
    install_command,
)
from sbim_deploy.words import plural

if TYPE_CHECKING:
    from sbim_deploy.models.folder import Model
    from sbim_deploy.runs.bench import Case, Measurement

EAGER = "pytorch-eager"
# By the names that engines give themselves.
ON_GPU = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cuda-tf32")


def bench(
    *,
    model: Annotated[Path, typer.Argument(help='A model folder, or "demo".')],
    backend: Annotated[
        list[str] | None, typer.Option(help="A backend, repeatable; default: every one that is here.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|bf16|auto",
            help="Of the network's convolutions, as in recon; without --backend what recon takes with it. "
            "Default: the backends' own, and openvino in bf16 too.",
        ),
    ] = None,
    server: options.Server = None,
    device: options.Device = None,
    size: Annotated[str, typer.Option(metavar=SIZE, help="Rows and columns of the image.")] = "128x128",
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 8,
    sampling: options.ShortSampling,
    json: options.Json = False,
) -> None:
    """Measure the backends, and PyTorch where it is installed, each in a process of its own."""
    from sbim_deploy.models.folder import load_model
    from sbim_deploy.runs.bench import Case, check_case, machine
    from sbim_deploy.samplers.plan import Plan

    loaded = load_model(model)
    choice, _ = sampling.choose()
    sampler = choice.sampler if isinstance(choice, Plan) else choice.name
    case = Case(parse_size(size), coils, choice)
    check_case(loaded, case)
    asked = _at_server(backend, server) or (None if precision is None else ["auto"])
    measured, missing = _measure_all(loaded, case, asked, device, precision)
    flops = _count_flops(loaded, case)
    rows = [_with_ratios(each, measured, flops) for each in measured]
    if json:
        print_json({"machine": machine(), "case": asdict(case), "score_flops": flops, "backends": rows})
        _raise_first(missing)
        return
    _print(rows)
    arithmetic = f"GFLOP/s: {install_command('export')}" if flops is None else f"{flops / 1e9:.1f} GFLOP"
    typer.echo(
        f"{loaded.manifest.name}, ngf {loaded.manifest.ngf}, {case.size[0]}x{case.size[1]}, "
        f"{plural(coils, 'coil')}; a score call is {arithmetic}; "
        f"a reconstruction is {sampler} with {plural(measured[0].network_calls, 'call')}"
    )
    typer.echo(", ".join(f"{name} {value}" for name, value in machine().items()))
    _raise_first(missing)


def _at_server(asked: list[str] | None, server: str | None) -> list[str] | None:
    """Return the backends asked for, those of a server with its address."""
    if server is None:
        return asked
    if not set(asked or ()) & {*options.SERVED}:
        raise InputError(f"--server is {server[:80]!r}: give it with --backend triton or triton-trt")
    return [options.backend_at(name, server) if name in options.SERVED else name for name in asked or ()]


def _raise_first(missing: list[SbimDeployError]) -> None:
    if missing:
        raise missing[0]


def _measure_all(
    model: Model, case: Case, asked: list[str] | None, device: int | None, precision: str | None
) -> tuple[list[Measurement], list[SbimDeployError]]:
    """Measure what was asked for, or what is here; return it, and why others that were asked for are missing.

    One that is missing does not stop the others.
    """
    from sbim_deploy.models.backends import MEASURED, check_backend, missing_reason
    from sbim_deploy.models.precision import backend_in
    from sbim_deploy.runs.bench import alone, measure_backend

    for name in asked or ():
        check_backend(name)
        backend_in(model.manifest, name, precision)
    measured: list[Measurement] = []
    missing: list[SbimDeployError] = []
    for name in asked or [name for name in MEASURED if missing_reason(model, "score", name) is None]:
        note(f"measuring {name}")
        if name in options.ON_GPUS:
            name = options.backend_at(name, None, device)
        try:
            measured.append(alone(measure_backend, model.folder, name, case, precision))
            if precision is not None:
                note(f"{name}: {measured[-1].backend} ({measured[-1].chosen})")
        except (BackendMissingError, EngineIncompatibleError) as error:
            note(f"left out: {error}", even_quiet=True)
            if asked:
                missing.append(error)
        except SbimDeployError as error:
            note(f"left out: {error}", even_quiet=True)
            missing.append(error)
    if not measured:
        _raise_first(missing)
    measured += _measure_pytorch(model, case, device, any(each.backend in ON_GPU for each in measured))
    if not measured:
        raise BackendMissingError(f"no backend is here: {install_command('cpu')}")
    return measured, missing


def _measure_pytorch(model: Model, case: Case, device: int | None, on_gpu: bool) -> list[Measurement]:
    """Measure PyTorch where it is installed, on the GPU if backends were on one: the baseline."""
    from sbim_deploy.runs.bench import alone

    if importlib.util.find_spec("torch") is None:
        note(f"no PyTorch beside them, it is not installed: {install_command('export')}")
        return []
    from sbim_deploy.export.eager import GPU_BASELINE, has_cuda, measure_eager, measure_fastest_on_gpu

    if on_gpu and not has_cuda():
        note("the baseline is PyTorch on the CPU: the one that is installed has no CUDA", even_quiet=True)
        on_gpu = False
    note(f"measuring {GPU_BASELINE if on_gpu else EAGER}")
    try:
        if on_gpu:
            return [alone(measure_fastest_on_gpu, model.folder, case, device or 0)]
        return [alone(measure_eager, model.folder, case)]
    except BackendMissingError as error:
        note(f"left out: {error}", even_quiet=True)
        return []


def _count_flops(model: Model, case: Case) -> int | None:
    """Return the arithmetic of a score call, or None where onnx is not installed."""
    try:
        with needs("export"):
            from sbim_deploy.export.eager import count_flops
    except BackendMissingError:
        return None
    shape = (1, model.manifest.channels, *case.size)
    return count_flops(model.folder / "score.onnx", {"x": shape, "sigma": (1,)})


def _with_ratios(each: Measurement, measured: list[Measurement], flops: int | None) -> dict[str, Any]:
    eager = next((other.score_ms for other in measured if other.backend.startswith("pytorch-")), None)
    return {
        **asdict(each),
        "gflops": None if flops is None else flops / each.score_ms / 1e6,
        "ratio_to_eager": None if eager is None else eager / each.score_ms,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    columns = {
        "load s": ("load_s", ".2f"),
        "first ms": ("first_call_ms", ".1f"),
        "score ms": ("score_ms", ".1f"),
        "step ms": ("step_ms", ".1f"),
        "slice s": ("recon_s", ".2f"),
        "outside ms": ("outside_ms", ".1f"),
        "outside %": ("outside_percent", ".1f"),
        "peak MB": ("peak_mb", ".0f"),
        "growth MB": ("growth_mb", ".0f"),
        "GPU MB": ("gpu_mb", ".0f"),
        "GFLOP/s": ("gflops", ".0f"),
        "x PyTorch": ("ratio_to_eager", ".2f"),
    }
    print_table(
        ["backend", *columns],
        [
            [f"{row['backend']} {row['version']}", *(_cell(row[key], form) for key, form in columns.values())]
            for row in rows
        ],
    )


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
