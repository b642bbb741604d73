"""The training loop, with the average of the weights, the held-out loss and the checkpoints."""

from __future__ import annotations

import copy
import csv
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sbim_deploy.errors import BackendMissingError, InputError, SbimDeployError
from sbim_deploy.export.checkpoint import Checkpoint, NetworkConfig
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.locks import owning_folder
from sbim_deploy.training.brains import Anatomies, held_out_pool, training_pool
from sbim_deploy.training.dsm import (
    LevelDraw,
    Score,
    detail_draw,
    draw_noise,
    dsm_loss,
    held_out_loss,
    to_channels,
    training_batch,
    uniform_draw,
)
from sbim_deploy.training.label_maps import read_head, read_lesion, volume_files
from sbim_deploy.training.networks import CHECKPOINT_NAME, PIPELINE_NAME, START, Kind, kind_of
from sbim_deploy.training.settings import TrainSettings
from sbim_deploy.training.ssm import ssm_loss

LOG_NAME = "held_out.csv"
PLOT_NAME = "held_out.png"
SCALER_KEY = "scaler"
N_HELD_OUT = 32
N_HELD_OUT_SIGMAS = 8
HELD_OUT_SEED = 0
LABEL_MAPS = "label maps of heads"

Progress = Callable[[int, float, float | None], None]


def train(
    config: NetworkConfig,
    settings: TrainSettings,
    output_dir: Path,
    start: Checkpoint | None = None,
    on_progress: Progress = lambda step, loss, held_out: None,
    force: bool = False,
) -> Path:
    """Train a network on synthetic slices of heads and return the path of its checkpoint.

    ``output_dir`` receives ``checkpoint.pth`` in the published layout, with the schedule vp the averaged
    weights as ``pipeline`` too, and ``held_out.csv``, the loss of the averaged weights on held-out slices of
    the first size, at levels over the whole range, with its plot. All
    randomness follows from (seed, step), so that on one machine a resumed run ends with the uninterrupted
    one's weights.

    Args:
        config: the network and its noise levels; of the latter vp has its own.
        settings: how to train.
        output_dir: the folder to write to; it is made if it is missing.
        start: the weights to begin with. With its optimiser's state the run that it was taken from goes on,
            without it a new run begins. None makes a new network.
        on_progress: a function of the step, the mean loss since the last call (NaN before the first step),
            and the mean held-out loss where it was measured.
        force: whether a new run replaces one that is in the folder.

    Raises:
        InputError: the size, the channels or the checkpoint do not fit, a label map or a mask cannot be used,
            or the folder cannot be written or holds another run.
        BackendMissingError: the device is not there, or nilearn or diffusers is not installed.
        SbimDeployError: the loss or its gradient is not finite.
    """
    if config.channels != 2:
        raise InputError(f"the config has {config.channels} channels: training needs 2, real and imaginary")
    kind = kind_of(config, settings.schedule, start)
    run = _begin(kind, settings, start)
    draw_sigmas = _level_draw(kind, settings)
    anatomies, held_out_anatomies = _anatomies(settings)
    goes_on = start is not None and bool(start.optimizer)
    with owning_folder(output_dir):
        if not goes_on:
            check_run_place(output_dir, force)
        return _train(
            settings, output_dir, kind, run, draw_sigmas, anatomies, held_out_anatomies, on_progress
        )


def _train(
    settings: TrainSettings,
    output_dir: Path,
    kind: Kind,
    run: _Run,
    draw_sigmas: LevelDraw,
    anatomies: Anatomies,
    held_out_anatomies: Anatomies,
    on_progress: Progress,
) -> Path:
    sigmas = np.geomspace(kind.sigmas[-1], kind.sigmas[0], N_HELD_OUT_SIGMAS).tolist()
    log = output_dir / LOG_NAME
    begin_log(log, sigmas, run.step)
    if run.step == settings.iterations:  # a kill came after the last checkpoint
        return _write(output_dir, kind, run, settings)
    device = torch.device(settings.device)
    held_out = to_channels(
        torch.from_numpy(held_out_pool(N_HELD_OUT, settings.sizes[0], held_out_anatomies))
    ).to(device)
    first = settings.sizes[0]
    pools = [
        torch.from_numpy(training_pool(math.ceil(settings.pool_size * (first / size) ** 2), size, anatomies))
        for size in settings.sizes
    ]
    pools = [pool.to(device) for pool in pools]
    eager, averaged = (kind.score(network).to(device) for network in (run.network, run.shadow))
    compiles = settings.objective == "dsm" if settings.compile is None else settings.compile
    score = _compiled(eager, held_out[: settings.batch]) if compiles else eager

    def measure() -> float:
        by_sigma = held_out_loss(averaged, held_out, sigmas, HELD_OUT_SEED)
        append_row(log, run.step, by_sigma)
        return float(np.mean(by_sigma))

    if run.step == 0:
        on_progress(0, math.nan, measure())
    run.started = time.monotonic()
    losses: list[float] = []
    done = _progress(run, settings)
    while done < 1:
        losses.append(_train_step(run, score, pools, draw_sigmas, settings, done))
        run.step += 1
        done = _progress(run, settings)
        held_out_mean = None
        if run.step % settings.held_out_interval == 0 or done >= 1:
            held_out_mean = measure()
        if run.step % settings.log_interval == 0 or held_out_mean is not None:
            on_progress(run.step, float(np.mean(losses)), held_out_mean)
            losses.clear()
        if run.step % settings.checkpoint_interval == 0 or done >= 1:
            _write(output_dir, kind, run, settings)
    return output_dir / CHECKPOINT_NAME


def _write(output_dir: Path, kind: Kind, run: _Run, settings: TrainSettings) -> Path:
    """Write where a run is, and the plot of its log; return the path of the checkpoint."""
    kind.write(output_dir, _checkpoint(run, settings))
    plot_log(output_dir / LOG_NAME, output_dir / PLOT_NAME)
    return output_dir / CHECKPOINT_NAME


def check_run_place(folder: Path, force: bool) -> None:
    """Check that a new run may be written into a folder.

    Raises:
        InputError: the folder holds one, without ``force``.
    """
    found = [
        name for name in (CHECKPOINT_NAME, PIPELINE_NAME, LOG_NAME, PLOT_NAME) if (folder / name).exists()
    ]
    if found and not force:
        raise InputError(
            f"{folder / found[0]}: is there already; --resume goes on with that run, --force replaces it, or "
            "name another folder"
        )


def begin_log(path: Path, sigmas: Sequence[float], step: int) -> None:
    """Write the header of the log, and keep the lines up to ``step`` of a run with the same header."""
    header = ["step", *(f"sigma_{sigma:.4g}" for sigma in sigmas)]
    rows: list[list[str]] = []
    if step and path.exists():
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            old = list(csv.reader(file))
        if old[:1] == [header]:
            rows = [row for row in old[1:] if _is_line(row, len(header)) and int(row[0]) <= step]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _is_line(row: Sequence[str], length: int) -> bool:
    """Tell whether a line of the log is whole: a kill may have cut the last one."""
    try:
        return int(row[0]) >= 0 and len([float(each) for each in row]) == length
    except (ValueError, IndexError):
        return False


def append_row(path: Path, step: int, losses: Sequence[float]) -> None:
    """Append the losses at ``step``."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([step, *(f"{loss:.6g}" for loss in losses)])


def plot_log(path: Path, picture: Path) -> None:
    """Draw the log at ``path``: the loss at each noise level over the steps."""
    # A figure of its own, not pyplot's: no display is asked for and no state is left behind.
    from matplotlib.figure import Figure

    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    steps = [int(row[0]) for row in rows]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="held-out loss", yscale="log")
    for column, name in enumerate(header[1:], start=1):
        axes.plot(steps, [float(row[column]) for row in rows], marker=".", label=name.replace("_", " "))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png")


@dataclass
class _Run:
    """The state of a run, which changes with every step."""

    network: nn.Module
    shadow: nn.Module
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    step: int
    started: float = field(default_factory=time.monotonic)


def _begin(kind: Kind, settings: TrainSettings, start: Checkpoint | None) -> _Run:
    for size in settings.sizes:
        if size % kind.size_multiple:
            raise InputError(f"size is {size}: {kind.name} needs a multiple of {kind.size_multiple}")
    if start is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = kind.new()
        shadow = copy.deepcopy(network)
    else:
        network = kind.load(start.raw)
        shadow = kind.load(start.raw if start.ema is None else start.ema)
    half = settings.precision != "fp32"
    for each in (network, shadow):
        _move(each, settings.device, channels_last=half or settings.device.startswith("cuda"))
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    scaler = torch.amp.GradScaler(settings.device, enabled=settings.precision == "fp16")
    run = _Run(network, shadow, optimizer, scaler, step=0)
    if start is not None and start.optimizer:
        _go_on(run, start, settings)
    return run


def _move(network: nn.Module, device: str, channels_last: bool) -> None:
    """Move a network to a device. Half-precision convolutions are fastest with the channels last."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    try:
        network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BackendMissingError(
            f"device {device!r} is not there for PyTorch ({reason}); expected cpu or cuda"
        ) from error


def _go_on(run: _Run, start: Checkpoint, settings: TrainSettings) -> None:
    """Take up the run that a checkpoint was taken from, at its step."""
    if settings.iterations is not None and start.step > settings.iterations:
        raise InputError(
            f"{START} is at step {start.step} of its run, iterations is {settings.iterations}: expected at "
            "least as many; to begin a new run from its weights, leave out its optimiser's state"
        )
    try:
        run.optimizer.load_state_dict({name: start.optimizer[name] for name in ("state", "param_groups")})
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{START}: its optimiser's state is not this network's Adam's: {error}") from error
    if run.scaler.is_enabled() and SCALER_KEY in start.optimizer:
        run.scaler.load_state_dict(start.optimizer[SCALER_KEY])
    run.step = start.step


def _anatomies(settings: TrainSettings) -> tuple[Anatomies, Anatomies]:
    """Return what training slices are drawn from, and what held-out slices are."""
    training = held_out = Anatomies()
    if settings.anatomy is not None:
        lesions = (
            volume_files(Path(settings.lesions), "masks of lesions") if settings.lesions is not None else ()
        )
        training = Anatomies(volume_files(Path(settings.anatomy), LABEL_MAPS), lesions)
    if settings.held_out_anatomy is not None:
        held_out = Anatomies(volume_files(Path(settings.held_out_anatomy), LABEL_MAPS), template_share=0)
    both = {path.resolve() for path in training.heads} & {path.resolve() for path in held_out.heads}
    if both:
        raise InputError(f"{min(both)} is among the heads to train on and among the held-out ones")
    for path in (*training.heads, *held_out.heads):
        read_head(path)
    for path in training.lesions:
        read_lesion(path)
    return training, held_out


def _level_draw(kind: Kind, settings: TrainSettings) -> LevelDraw:
    levels = settings.levels or ("uniform" if settings.schedule == "vp" else "detail")
    if levels == "uniform":
        return uniform_draw(kind.sigmas)
    return detail_draw(float(kind.sigmas[0]), float(kind.sigmas[-1]))


def _compiled(network: nn.Module, images: Tensor) -> Score:
    compiled: Score = torch.compile(network)
    try:
        compiled(images, images.new_ones(len(images))).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        sys.stderr.write(f"torch.compile does not work here ({reason}): training without it\n")
        compiled = network
    network.zero_grad()
    return compiled


def _progress(run: _Run, settings: TrainSettings) -> float:
    """Return how much of the run is done, 1 or more at its end."""
    if settings.minutes is not None:
        return (time.monotonic() - run.started) / (60 * settings.minutes)
    assert settings.iterations is not None
    return run.step / settings.iterations


def _train_step(
    run: _Run,
    score: Score,
    pools: Sequence[Tensor],
    draw_sigmas: LevelDraw,
    settings: TrainSettings,
    done: float,
) -> float:
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    images, sigmas, noise = training_batch(pools, settings.batch, draw_sigmas, settings.seed, run.step)
    run.optimizer.zero_grad()
    scaled = run.scaler.is_enabled()
    dtype = torch.float16 if settings.precision == "fp16" else torch.bfloat16
    with torch.autocast(images.device.type, dtype, enabled=settings.precision != "fp32"):
        if settings.objective == "ssm":
            directions = draw_noise(noise.shape, noise.device, settings.seed, run.step, 1).sign()
            loss = ssm_loss(score, images, sigmas, noise, directions).mean()
        else:
            loss = dsm_loss(score, images, sigmas, noise).mean()
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.unscale_(run.optimizer)
    norm = clip_grad_norm_(run.network.parameters(), settings.gradient_clip)
    # A scaled gradient may overflow. The scaler then leaves the step out and scales less.
    if not torch.isfinite(loss) or not (scaled or torch.isfinite(norm)):
        raise SbimDeployError(
            f"training diverged at step {run.step}: the loss is {loss.item():g}, its gradient's norm "
            f"{norm.item():g}; go on from the last checkpoint with a learning rate below "
            f"{settings.learning_rate:g}"
        )
    run.scaler.step(run.optimizer)
    run.scaler.update()
    average = get_ema_multi_avg_fn(settings.ema_rate)  # type: ignore[no-untyped-call]
    average(list(run.shadow.parameters()), list(run.network.parameters()), 0)
    return loss.item()


def _checkpoint(run: _Run, settings: TrainSettings) -> Checkpoint:
    epoch = run.step * settings.batch // settings.pool_size
    optimizer = run.optimizer.state_dict()
    if run.scaler.is_enabled():
        optimizer[SCALER_KEY] = run.scaler.state_dict()
    return Checkpoint(run.network.state_dict(), run.shadow.state_dict(), optimizer, epoch, run.step)
