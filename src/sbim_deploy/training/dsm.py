"""Denoising score matching: teaching a network the score of noisy images.

Vincent 2011, "A Connection Between Score Matching and Denoising Autoencoders"; Song and Ermon 2019,
"Generative Modeling by Estimating Gradients of the Data Distribution", with lambda(sigma) = sigma^2
(Dimos 2022, p. 16-20).
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sbim_deploy.errors import BackendMissingError, InputError, SbimDeployError
from sbim_deploy.export.checkpoint import (
    Checkpoint,
    NetworkConfig,
    architecture_of,
    build_network,
    write_checkpoint,
)
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.training.batches import draw_noise, to_channels, training_batch
from sbim_deploy.training.held_out_log import append_row, begin_log
from sbim_deploy.training.pool import held_out_pool, training_pool

NEW_ARCHITECTURE = "NCSNv2Deepest"
CHECKPOINT_NAME = "checkpoint.pth"
LOG_NAME = "held_out.csv"
N_HELD_OUT = 32
N_HELD_OUT_SIGMAS = 8
HELD_OUT_SEED = 0

Score = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, float, float | None], None]


@dataclass(frozen=True)
class TrainSettings:
    """How to train: exactly one of ``iterations`` and ``minutes`` says for how long.

    ``iterations`` counts from the start of the run that a checkpoint continues, ``minutes`` from now; only
    the first can be resumed to the bit. The intervals are in steps.
    """

    iterations: int | None = None
    minutes: float | None = None
    size: int = 128
    batch: int = 16
    learning_rate: float = 3e-4
    ema_rate: float = 0.999
    gradient_clip: float = 1.0
    pool_size: int = 4000
    seed: int = 0
    device: str = "cpu"
    compile: bool = True
    log_interval: int = 50
    held_out_interval: int = 1000
    checkpoint_interval: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        if (self.iterations is None) == (self.minutes is None):
            raise InputError(
                f"iterations is {self.iterations} and minutes {self.minutes}: expected one of them"
            )
        positive = (
            "iterations",
            "minutes",
            "size",
            "batch",
            "learning_rate",
            "gradient_clip",
            "pool_size",
            "log_interval",
            "held_out_interval",
            "checkpoint_interval",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}: expected more than 0")
        if not 0 <= self.ema_rate < 1:
            raise InputError(f"ema_rate is {self.ema_rate}: expected 0 or more, and less than 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: expected 0 or more")


@dataclass
class _Run:
    """What changes while training."""

    network: ScoreNetwork
    shadow: ScoreNetwork
    optimizer: torch.optim.Adam
    step: int
    started: float = field(default_factory=time.monotonic)


def dsm_loss(score: Score, images: Tensor, sigmas: Tensor, noise: Tensor) -> Tensor:
    """Return each image's 0.5 |sigma s(x + sigma z, sigma) + z|^2, divided by its number of elements.

    Args:
        score: a network, (n, channels, H, W) and (n,) to (n, channels, H, W).
        images: x, (n, channels, H, W).
        sigmas: (n,).
        noise: z, standard Gaussian, like ``images``.

    Returns:
        The losses (n,); a score of 0 has 0.5 on average.
    """
    scale = sigmas[:, None, None, None]
    residual = scale * score(images + scale * noise, sigmas) + noise
    return 0.5 * residual.square().mean(dim=(1, 2, 3))


@torch.no_grad()
def held_out_loss(
    score: Score, images: Tensor, sigmas: Sequence[float], seed: int, batch: int = 16
) -> list[float]:
    """Return the mean loss over ``images`` (n, channels, H, W) at each of ``sigmas``.

    All of the levels see the same noise, a function of ``seed``, drawn on the CPU for every device.
    """
    noise = draw_noise(images.shape, torch.device("cpu"), seed, 0).to(images.device)
    means = []
    for sigma in sigmas:
        total = 0.0
        for x, z in zip(torch.split(images, batch), torch.split(noise, batch), strict=True):
            total += dsm_loss(score, x, torch.full((len(x),), sigma, device=x.device), z).sum().item()
        means.append(total / len(images))
    return means


def train(
    config: NetworkConfig,
    settings: TrainSettings,
    output_dir: Path,
    start: Checkpoint | None = None,
    on_progress: Progress = lambda step, loss, held_out: None,
) -> Path:
    """Train a network on synthetic brains and return the path of its checkpoint.

    ``output_dir`` receives ``checkpoint.pth`` in the published layout and ``held_out.csv``, the loss of the
    averaged weights on held-out slices at levels over the whole range. All randomness follows from
    (seed, step), so that on one machine a resumed run ends with the uninterrupted one's weights.

    Args:
        config: the network and its noise levels.
        settings: how to train.
        output_dir: made if it is missing.
        start: weights to begin with; with its optimiser's state, the run that it was taken from goes on,
            without it a new run begins. None makes a new NCSNv2Deepest.
        on_progress: called with the step, the mean loss since the last call (NaN before the first step),
            and the mean held-out loss where it was measured.

    Raises:
        InputError: the size, the channels or the checkpoint do not fit, or the folder cannot be written.
        BackendMissingError: the device is not there, or nilearn is not installed.
        SbimDeployError: the loss or its gradient is not finite.
    """
    run = _begin(config, settings, start)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output_dir}: cannot make the folder ({error.strerror}); name another") from error
    sigmas = np.geomspace(config.sigma_end, config.sigma_begin, N_HELD_OUT_SIGMAS).tolist()
    log = output_dir / LOG_NAME
    begin_log(log, sigmas, run.step)
    device = torch.device(settings.device)
    held_out = to_channels(torch.from_numpy(held_out_pool(N_HELD_OUT, settings.size))).to(device)
    pool = torch.from_numpy(training_pool(settings.pool_size, settings.size)).to(device)
    score = _compiled(run.network, held_out[: settings.batch]) if settings.compile else run.network

    def measure() -> float:
        by_sigma = held_out_loss(run.shadow, held_out, sigmas, HELD_OUT_SEED)
        append_row(log, run.step, by_sigma)
        return float(np.mean(by_sigma))

    if run.step == 0:
        on_progress(0, math.nan, measure())
    run.started = time.monotonic()
    losses: list[float] = []
    done = _progress(run, settings)
    while done < 1:
        losses.append(_train_step(run, score, pool, config, settings, done))
        run.step += 1
        done = _progress(run, settings)
        held_out_mean = None
        if run.step % settings.held_out_interval == 0 or done >= 1:
            held_out_mean = measure()
        if run.step % settings.log_interval == 0 or held_out_mean is not None:
            on_progress(run.step, float(np.mean(losses)), held_out_mean)
            losses.clear()
        if run.step % settings.checkpoint_interval == 0 or done >= 1:
            _save(run, settings, output_dir / CHECKPOINT_NAME)
    return output_dir / CHECKPOINT_NAME


def _begin(config: NetworkConfig, settings: TrainSettings, start: Checkpoint | None) -> _Run:
    source = Path("the start checkpoint")
    name = NEW_ARCHITECTURE if start is None else architecture_of(start.raw, source)
    if config.channels != 2:
        raise InputError(f"the config has {config.channels} channels: training needs 2, real and imaginary")
    multiple = ARCHITECTURES[name].size_multiple
    if settings.size % multiple:
        raise InputError(f"size is {settings.size}: {name} needs a multiple of {multiple}")
    if start is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = ScoreNetwork(ARCHITECTURES[name], config.ngf, config.channels, config.centred_input)
        shadow = copy.deepcopy(network)
    else:
        network = build_network(config, start.raw, source)
        shadow = build_network(config, start.raw if start.ema is None else start.ema, source)
    try:
        network.to(settings.device)
        shadow.to(settings.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BackendMissingError(
            f"device {settings.device!r} is not there for PyTorch ({reason}); expected cpu or cuda"
        ) from error
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    if start is None or not start.optimizer:
        return _Run(network, shadow, optimizer, 0)
    if settings.iterations is not None and start.step >= settings.iterations:
        raise InputError(
            f"{source} is at step {start.step} of its run, iterations is {settings.iterations}: expected "
            "more; to begin a new run from its weights, leave out its optimiser's state"
        )
    try:
        optimizer.load_state_dict(dict(start.optimizer))
    except (ValueError, KeyError) as error:
        raise InputError(f"{source}: its optimiser's state is not this network's Adam's: {error}") from error
    return _Run(network, shadow, optimizer, start.step)


def _compiled(network: ScoreNetwork, images: Tensor) -> Score:
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
    run: _Run, score: Score, pool: Tensor, config: NetworkConfig, settings: TrainSettings, done: float
) -> float:
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    sigma_range = (config.sigma_begin, config.sigma_end)
    images, sigmas, noise = training_batch(pool, settings.batch, sigma_range, settings.seed, run.step)
    run.optimizer.zero_grad()
    loss = dsm_loss(score, images, sigmas, noise).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = clip_grad_norm_(run.network.parameters(), settings.gradient_clip)
    if not torch.isfinite(loss) or not torch.isfinite(norm):
        raise SbimDeployError(
            f"training diverged at step {run.step}: the loss is {loss.item():g}, its gradient's norm "
            f"{norm.item():g}; go on from the last checkpoint with a learning rate below "
            f"{settings.learning_rate:g}"
        )
    run.optimizer.step()
    average = get_ema_multi_avg_fn(settings.ema_rate)  # type: ignore[no-untyped-call]
    average(list(run.shadow.parameters()), list(run.network.parameters()), 0)
    return loss.item()


def _save(run: _Run, settings: TrainSettings, path: Path) -> None:
    epoch = run.step * settings.batch // settings.pool_size
    raw, ema = run.network.state_dict(), run.shadow.state_dict()
    write_checkpoint(path, Checkpoint(raw, ema, run.optimizer.state_dict(), epoch, run.step))
