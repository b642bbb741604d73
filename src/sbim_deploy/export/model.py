"""From a checkpoint to a model folder, whole or not at all."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import LoadedNetwork
from sbim_deploy.export.graphs import DEFAULT_OPSET, WEIGHTS_NAME, export_graphs
from sbim_deploy.export.load import load_opened, open_checkpoint
from sbim_deploy.export.precision import DTYPES, RoundedConvolutions, fold_mean_pools, in_precision
from sbim_deploy.export.scores import in_runtime_units
from sbim_deploy.io.atomic import check_folder_place, replacing_folder
from sbim_deploy.io.documents import convert
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.locks import owning_file
from sbim_deploy.models.folder import (
    FORMAT_VERSION,
    FP16_OVERFLOW,
    IMAGE_NRMSE,
    IMAGE_SSIM,
    MANIFEST_NAME,
    FileEntry,
    ModelManifest,
    SamplingDefaults,
    describe_file,
    prior_of,
    read_manifest,
    score_at,
    write_manifest,
)
from sbim_deploy.models.reference import REFERENCE_NAME, ParityReference, write_reference
from sbim_deploy.mri.metrics import ssim
from sbim_deploy.recon.channels import from_channels, to_channels
from sbim_deploy.recon.parity import WHOLE_CHOICE, fitting, noisy_phantom, whole_image
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.denoising import Score, find_better_scale, measure_noise_left
from sbim_deploy.samplers.choice import DDS_N_CG, make_plan
from sbim_deploy.samplers.plan import Plan

REFERENCE_GRID = (64, 48)


def three_levels(sigma_begin: float, sigma_end: float) -> list[float]:
    """Return the largest level, the geometric middle and the smallest."""
    return [sigma_begin, float(np.sqrt(sigma_begin * sigma_end)), sigma_end]


def scores_of(
    network: nn.Module,
    sigmas: list[float],
    channels: int,
    grid: tuple[int, int] = REFERENCE_GRID,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return noisy phantoms x, their sigma, and PyTorch's scores of them, computed in double precision.

    In single where a module of the user's own insists on it.
    """
    images = [to_channels(noisy_phantom(grid, sigma, seed + i)) for i, sigma in enumerate(sigmas)]
    # A network of another number of channels sees the two of them over and over.
    x = np.stack([np.resize(image, (channels, *grid)) for image in images])
    sigma = np.array(sigmas, dtype=np.float32)
    with torch.inference_mode():
        try:
            exact = copy.deepcopy(network).double()
            score = exact(torch.from_numpy(x).double(), torch.from_numpy(sigma).double()).numpy()
        except RuntimeError:
            score = network(torch.from_numpy(x), torch.from_numpy(sigma)).numpy()
    with np.errstate(over="ignore"):  # which check_finite tells
        return x, sigma, score.astype(np.float32)


def image_of(network: nn.Module, plan: Plan, size_multiple: int) -> ComplexArray:
    """Return a whole reconstruction by a plan, with PyTorch's scores in FP32."""

    def score(x: ComplexArray, sigma: float) -> ComplexArray:
        with torch.inference_mode():
            levels = torch.full((len(x),), sigma)
            return from_channels(network(torch.from_numpy(to_channels(x)), levels).numpy())

    return whole_image(plan, score, size_multiple)


def score_cost(network: nn.Module, x: FloatArray, sigma: FloatArray, score: FloatArray) -> dict[str, float]:
    """Return the relative L2 error of a network, in its own precision, from the exact ``score``, by level.

    Computed by PyTorch, since ONNX Runtime computes half precision in FP32 on a CPU.

    Raises:
        InputError: a score is not finite.
    """
    with torch.inference_mode():
        got = network(torch.from_numpy(x), torch.from_numpy(sigma)).numpy()
    for level, each in zip(sigma, got, strict=True):
        check_finite(each, f"the score at sigma {level:g}", network)
    return {
        score_at(level): float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for level, a, b in zip(sigma, got, score, strict=True)
    }


def check_finite(values: FloatArray | ComplexArray, what: str, network: nn.Module) -> None:
    """Check that a network computed numbers.

    Raises:
        InputError: some are NaN or infinite; with the way out where half precision overflowed.
    """
    n_wrong = int(np.count_nonzero(~np.isfinite(values)))
    if not n_wrong:
        return
    told = f"{n_wrong} of the {values.size} values of {what} are NaN or infinite"
    if any(parameter.dtype == torch.float16 for parameter in network.parameters()):
        raise InputError(f"{told}: {FP16_OVERFLOW}")
    raise InputError(f"{told}: check that the checkpoint is a trained one, and its configuration")


def image_cost(network: nn.Module, image: ComplexArray, plan: Plan, size_multiple: int) -> dict[str, float]:
    """Return the NRMSE and the SSIM of a network's whole reconstruction against the one in FP32.

    Raises:
        InputError: it is not finite.
    """
    got = image_of(network, plan, size_multiple)
    check_finite(got, "a whole image", network)
    return {
        IMAGE_NRMSE: float(np.linalg.norm(got - image) / np.linalg.norm(image)),
        IMAGE_SSIM: ssim(np.abs(got), np.abs(image)),
    }


def _scores_by(network: nn.Module) -> Score:
    def score(x: FloatArray, sigma: FloatArray) -> FloatArray:
        with torch.inference_mode():
            result: FloatArray = network(torch.from_numpy(x), torch.from_numpy(sigma)).numpy()
        return result

    return score


NORMALISATION = "the image divided by the 99th percentile of |MVUE| of the measured k-space"
INTENDED_USE = "Research only. Not for diagnosis, nor for any decision about a patient."
MIN_OPSET, MAX_OPSET = 18, 23
# The first with convolutions of bfloat16.
BF16_OPSET = 22


def export_model(
    checkpoint_path: Path,
    config_path: Path | None,
    folder: Path,
    ema: bool | None = None,
    dtype: str = "fp32",
    opset: int | None = None,
    announce: Callable[[str], None] = lambda _stage: None,
    force: bool = False,
    image_scale: float = 1.0,
) -> ModelManifest:
    """Write a model folder: its graphs, their weights and the manifest.

    ``checkpoint_path`` is a checkpoint with its YAML, or a folder that diffusers wrote, without.
    ``dtype`` is the convolutions' precision: fp32, fp16 or bf16, see :mod:`sbim_deploy.export.precision`.
    ``announce`` is told what begins, once the input is known to be good. ``image_scale`` is the 99th
    percentile of the magnitude of the images that the network was trained on.

    With ``force`` an older model of this name is replaced, once the new one is whole. What else its folder
    holds is kept: ``engines``, and whatever a user put there.

    Raises:
        InputError: bad input, an opset out of range, or a folder that is there and may not be replaced.
    """

    def load() -> tuple[LoadedNetwork, str]:
        opened = open_checkpoint(checkpoint_path, config_path, ema)
        loaded = in_runtime_units(load_opened(opened), image_scale)
        announce(f"{opened.file}: taking its {'EMA' if loaded.ema else 'raw'} weights")
        return loaded, file_sha256(opened.file)

    return export_network(load, folder, dtype, opset, announce, force)


def export_network(
    load: Callable[[], tuple[LoadedNetwork, str]],
    folder: Path,
    dtype: str = "fp32",
    opset: int | None = None,
    announce: Callable[[str], None] = lambda _stage: None,
    force: bool = False,
) -> ModelManifest:
    """Write a model folder of the network that ``load`` returns, with the SHA-256 of its weights.

    ``load`` is called once the folder is known to be good. The others are those of :func:`export_model`.

    Raises:
        InputError: what :func:`export_model` raises.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    lowest = BF16_OPSET if dtype == "bf16" else MIN_OPSET
    opset = opset or max(DEFAULT_OPSET, lowest)
    if not lowest <= opset <= MAX_OPSET:
        raise InputError(f"opset is {opset}: expected {lowest} to {MAX_OPSET} for {dtype}")
    check_folder_place(folder)
    with owning_file(Path(os.path.realpath(folder))):
        replaced = check_model_place(folder, force)
        loaded, weights_sha256 = load()
        with replacing_folder(folder, replaced) as made:
            manifest = _write(loaded, made, weights_sha256, folder.resolve().name, dtype, opset, announce)
    return manifest


def check_model_place(folder: Path, force: bool) -> list[str]:
    """Check that a model may be written into a folder, and return the older one's files, which it replaces.

    Raises:
        InputError: a model is there, without ``force``; or something else is.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return []
    if not (folder / MANIFEST_NAME).is_file():
        raise InputError(f"{folder}: is there already and is no model folder: name another one")
    if not force:
        raise InputError(
            f"{folder}: is a model already; give --force to replace its files, keep what else is there, or "
            "name another folder"
        )
    return [MANIFEST_NAME, *read_manifest(folder).files]


def _normalisation(image_scale: float) -> str:
    """Say which images the network sees."""
    return NORMALISATION if image_scale == 1 else f"{NORMALISATION}, times {image_scale:g} in the graphs"


def _write(
    loaded: LoadedNetwork,
    folder: Path,
    weights_sha256: str,
    name: str,
    dtype: str,
    opset: int,
    announce: Callable[[str], None],
) -> ModelManifest:
    config, levels, multiple = loaded.config, loaded.levels, loaded.size_multiple
    network = in_precision(fold_mean_pools(loaded.network), DTYPES[dtype])
    manifest = _describe(loaded, weights_sha256, name, dtype, opset)
    plan = make_plan(WHOLE_CHOICE, prior_of(levels, manifest.sampling))
    announce("computing scores and an image with PyTorch, for validate to compare with")
    # Before the network is traced, which takes longest: what is wrong with it shows here.
    sigmas = three_levels(levels.sigma_begin, levels.sigma_end)
    scores = scores_of(loaded.network, sigmas, config.channels, fitting(REFERENCE_GRID, multiple))
    check_finite(scores[2], "its scores", loaded.network)
    cost = score_cost(network, *scores)
    image = np.empty((0, 0), np.complex64)
    if config.channels == 2:
        image = image_of(loaded.network, plan, multiple)
        if dtype != "fp32":
            cost |= image_cost(network, image, plan, multiple)
    write_reference(folder, ParityReference(*scores, image))
    bfloat16_cost: dict[str, float] = {}
    if dtype == "fp32":
        announce("measuring what convolutions in bfloat16 cost, for --precision auto")
        rounded = RoundedConvolutions(network)
        bfloat16_cost = score_cost(rounded, *scores)
        if config.channels == 2:
            bfloat16_cost |= image_cost(rounded, image, plan, multiple)
    announce("tracing the network and joining it with the updates")
    graphs = export_graphs(network, folder, config.channels, multiple, opset)
    announce("measuring how much noise the network leaves in slices of brains, at several scales")
    noise_left = measure_noise_left(_scores_by(loaded.network), config.channels, multiple, levels)
    factor = find_better_scale(_scores_by(loaded.network), config.channels, multiple, levels)
    files = [WEIGHTS_NAME, REFERENCE_NAME, *(f"{graph}.onnx" for graph in graphs)]
    manifest = replace(
        manifest,
        precision_cost=cost,
        files={file: describe_file(folder / file) for file in sorted(files)},
        graphs=graphs,
        noise_left=noise_left,
        better_image_scale=None if factor is None else factor * loaded.image_scale,
        bfloat16_cost=bfloat16_cost,
    )
    write_manifest(folder, manifest)
    return manifest


def _describe(loaded: LoadedNetwork, weights_sha256: str, name: str, dtype: str, opset: int) -> ModelManifest:
    """Return the manifest of a model as far as it is known before the graphs are made.

    Raises:
        InputError: it is none that could be read again.
    """
    config = loaded.config
    manifest = ModelManifest(
        format_version=FORMAT_VERSION,
        name=name,
        architecture=loaded.architecture,
        ngf=config.ngf,
        channels=config.channels,
        size_multiple=loaded.size_multiple,
        noise_levels=loaded.levels,
        sampling=SamplingDefaults(
            config.step_lr, config.n_steps_each, config.data_weight, config.start_level
        ),
        normalisation=_normalisation(loaded.image_scale),
        ema=loaded.ema,
        dtype=str(DTYPES[dtype]).removeprefix("torch."),
        opset=opset,
        n_cg=DDS_N_CG,
        precision_cost={},
        checkpoint_sha256=weights_sha256,
        training_data=config.dataset,
        intended_use=INTENDED_USE,
        anatomy=config.anatomy,
        exported_with={
            "sbim-deploy": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "numpy": np.__version__,
        },
        files={WEIGHTS_NAME: FileEntry(weights_sha256, 0)},
        graphs={},
        image_scale=loaded.image_scale,
        options=loaded.options,
    )
    way_out = "change the configuration, or the name of the model's folder"
    return convert(asdict(manifest), ModelManifest, "the model cannot be described", way_out)
