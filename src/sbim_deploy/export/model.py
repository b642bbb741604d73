"""From a checkpoint to a model folder, whole or not at all."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import numpy as np
import onnx
import torch

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.export.fold import fold_mean_pools
from sbim_deploy.export.graphs import DEFAULT_OPSET, export_graphs
from sbim_deploy.export.load import LoadedNetwork, load_network, weights_file
from sbim_deploy.export.precision import DTYPES, in_precision
from sbim_deploy.export.reference import image_cost, image_of, score_cost, scores_of, three_levels
from sbim_deploy.io.atomic import check_writable, replacing_folder
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.model_folder import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    ModelManifest,
    SamplingDefaults,
    describe_file,
    write_manifest,
)
from sbim_deploy.io.parity_reference import REFERENCE_NAME, ParityReference, write_reference
from sbim_deploy.recon.model import prior_of
from sbim_deploy.samplers.choice import DDS_N_CG

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
) -> ModelManifest:
    """Write a model folder: its graphs, their weights and the manifest.

    ``checkpoint_path`` is a checkpoint with its YAML, or a folder that diffusers wrote, without.
    ``dtype`` is the convolutions' precision: fp32, fp16 or bf16, see :mod:`sbim_deploy.export.precision`.

    An older model folder of this name is replaced, once the new one is whole.

    Raises:
        InputError: bad input, an opset out of range, or a folder that is there and is no model's.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    lowest = BF16_OPSET if dtype == "bf16" else MIN_OPSET
    opset = opset or max(DEFAULT_OPSET, lowest)
    if not lowest <= opset <= MAX_OPSET:
        raise InputError(f"opset is {opset}: expected {lowest} to {MAX_OPSET} for {dtype}")
    if (
        folder.exists()
        and not (folder / MANIFEST_NAME).is_file()
        and (folder.is_file() or any(folder.iterdir()))
    ):
        raise InputError(f"{folder}: is there already and is no model folder: name another one")
    check_writable(folder.parent / f"{folder.name}.manifest")
    loaded = load_network(checkpoint_path, config_path, ema)
    # Warnings about operators of torchvision, which no network here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with replacing_folder(folder) as made:
        manifest = _write(loaded, made, checkpoint_path, folder.name, dtype, opset)
    return manifest


def _write(
    loaded: LoadedNetwork, folder: Path, checkpoint_path: Path, name: str, dtype: str, opset: int
) -> ModelManifest:
    config, levels, multiple = loaded.config, loaded.levels, loaded.size_multiple
    network = in_precision(fold_mean_pools(loaded.network), DTYPES[dtype])
    files = export_graphs(network, folder, config.channels, multiple, DDS_N_CG, opset)
    sampling = SamplingDefaults(config.step_lr, config.n_steps_each, config.data_weight, config.start_level)
    sigmas = three_levels(levels.sigma_begin, levels.sigma_end)
    scores = scores_of(loaded.network, sigmas, config.channels)
    cost = score_cost(network, *scores)
    image = np.empty((0, 0), np.complex64)
    if config.channels == 2:
        prior = prior_of(levels, sampling)
        image = image_of(loaded.network, prior, multiple)
        if dtype != "fp32":
            cost |= image_cost(network, image, prior, multiple)
    write_reference(folder, ParityReference(*scores, image))
    files.append(REFERENCE_NAME)
    manifest = ModelManifest(
        format_version=FORMAT_VERSION,
        name=name,
        architecture=loaded.architecture,
        ngf=config.ngf,
        channels=config.channels,
        size_multiple=multiple,
        noise_levels=levels,
        sampling=sampling,
        normalisation=NORMALISATION,
        ema=loaded.ema,
        dtype=str(DTYPES[dtype]).removeprefix("torch."),
        opset=opset,
        n_cg=DDS_N_CG,
        precision_cost=cost,
        checkpoint_sha256=file_sha256(weights_file(checkpoint_path)),
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
        files={file: describe_file(folder / file) for file in sorted(files)},
    )
    write_manifest(folder, manifest)
    return manifest
