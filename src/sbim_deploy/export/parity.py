"""A model folder against the checkpoint that it came from, PyTorch beside the engine."""

from __future__ import annotations

from pathlib import Path

import torch

from sbim_deploy.engines.comparison import Parity, compare
from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import differences
from sbim_deploy.export.load import load_opened, open_checkpoint, weights_file
from sbim_deploy.export.model import scores_of, three_levels
from sbim_deploy.export.scores import in_runtime_units
from sbim_deploy.export.updates import make_updates
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.models.backends import open_engine, precision_of
from sbim_deploy.models.folder import Model
from sbim_deploy.recon.parity import (
    fitting,
    fused_kinds,
    step_of,
    step_problem,
    step_tensors,
    tolerance,
)

OTHER_GRID = (80, 96)


def check_against_checkpoint(
    model: Model, checkpoint_path: Path, config_path: Path | None = None, backend: str = "auto"
) -> list[Parity]:
    """Run PyTorch and the engines on the same inputs at sigma_max, the middle and sigma_min.

    Raises:
        InputError: the checkpoint cannot be read, or it or its configuration is another one than the model
            was exported from.
    """
    manifest = model.manifest
    if file_sha256(weights_file(checkpoint_path, manifest.ema)) != manifest.checkpoint_sha256:
        raise InputError(f"{checkpoint_path}: {model.folder} was exported from another checkpoint")
    opened = open_checkpoint(checkpoint_path, config_path, manifest.ema)
    if found := differences(opened.blueprint, manifest):
        raise InputError(
            f"{opened.config_path}: {model.folder} was exported with another configuration: "
            f"{'; '.join(found)}; name the one that it was exported with, or export it again with this one"
        )
    network = in_runtime_units(load_opened(opened), manifest.image_scale).network
    levels = manifest.noise_levels
    sigmas = three_levels(levels.sigma_begin, levels.sigma_end)
    multiple = manifest.size_multiple
    grid = fitting(OTHER_GRID, multiple)
    x, sigma_of, expected = scores_of(network, sigmas, manifest.channels, grid, seed=100)
    network = network.double()
    score = open_engine(model, "score", backend)
    precision = precision_of(score.description, manifest)
    got = score.run({"x": x, "sigma": sigma_of})["score"]
    results = [
        compare(f"score, sigma {sigma:g}, PyTorch", got[i], expected[i], tolerance(sigma, precision))
        for i, sigma in enumerate(sigmas)
    ]
    for kind in fused_kinds(manifest):
        engine = open_engine(model, f"step-{kind}", backend)
        update = make_updates(manifest.n_cg)[kind].double()
        for sigma in sigmas:
            problem = step_problem(kind, sigma, seed=100, size_multiple=multiple)
            inputs = step_tensors(step_of(kind, sigma, manifest.n_cg), problem)
            tensors = {name: torch.from_numpy(array).double() for name, array in inputs.items()}
            with torch.inference_mode():
                scored = network(tensors["x"], tensors["sigma"])
                wanted = update(
                    scored,
                    *(tensors[name] for name in update.inputs),
                    tuple(tensors[name] for name in update.operator.inputs),
                )
            limit = tolerance(sigma, precision)
            name = f"step-{kind}, sigma {sigma:g}, PyTorch"
            results.append(compare(name, engine.run(inputs)["x_next"], wanted.numpy(), limit))
    return results
