"""Narrow networks of the kinds that MRI priors are published in, with drawn weights, and their outputs.

``public_networks.npz`` holds what the networks of ``export/edm.py`` and ``export/guided_diffusion.py`` gave
in double precision when just compared with the public classes themselves: EDMPrecond around DhariwalUNet and
SongUNet to 4e-8, and guided-diffusion's UNetModel, whose norms are in single precision, to 1.5e-6.

    python tests/export/public_networks.py tests/export/public_networks.npz   # after such a comparison alone
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from sbim_deploy.export.blueprint import fill
from sbim_deploy.export.edm import describe_edm
from sbim_deploy.export.guided_diffusion import describe_guided_diffusion

OUTPUTS = Path(__file__).with_name("public_networks.npz")
EDM = {"img_resolution": 32, "img_channels": 2, "label_dim": 0, "attn_resolutions": [16], "num_blocks": 1}
CONFIGS = {
    # At 128 channels there are two heads.
    "DhariwalUNet": {**EDM, "model_type": "DhariwalUNet", "model_channels": 32, "channel_mult": [1, 4]},
    "SongUNet": {**EDM, "model_type": "SongUNet", "model_channels": 16, "channel_mult": [1, 2]},
    "UNetModel": {
        "model": {
            "image_size": 32,
            "in_channels": 2,
            "out_channels": 4,
            "num_channels": 32,
            "num_res_blocks": 1,
            "attention_resolutions": "16",
            "channel_mult": "1,2",
            "learn_sigma": True,
            "num_heads": 4,
            "num_head_channels": 16,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
            "class_cond": False,
        },
        "diffusion": {
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "num_diffusion_timesteps": 1000,
        },
    },
}
SIGMAS = (0.02, 0.7, 40.0)
GRIDS = ((16, 24), (32, 16))


def draw(name: str, *shape: int) -> torch.Tensor:
    """A tensor that depends on its name alone: norms near 1, and what sums over inputs keeps their scale.

    Half of it in convolutions: a network that is all noise would multiply rounding errors.
    """
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        gain = 1.0 if "qkv" in name else 0.5
        return gain * torch.from_numpy(values) / float(np.sqrt(np.prod(shape[1:])))
    return 0.1 * torch.from_numpy(values) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)


def loaded(kind: str, weights: dict[str, torch.Tensor] | None = None):
    """The network, with drawn weights."""
    describe = describe_guided_diffusion if kind == "UNetModel" else describe_edm
    named = drawn_weights(kind) if weights is None else weights
    own = {name.removeprefix("model."): each for name, each in named.items()}
    return fill(describe(CONFIGS[kind], Path("c")), own, False, Path("w"))


def drawn_weights(kind: str) -> dict[str, torch.Tensor]:
    """Weights by the names of the public classes, with the filters that those of EDM keep beside them."""
    shapes = json.loads(OUTPUTS.with_suffix(".json").read_text())[kind]
    box = torch.full((1, 1, 2, 2), 0.25)
    return {name: box if name.endswith("filter") else draw(name, *shape) for name, shape in shapes.items()}


def inputs(sigma: float, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A noisy image of unit scale and its level, in double precision."""
    drawn = np.random.default_rng([int(100 * sigma), *grid]).standard_normal((2, 1, 2, *grid))
    x = drawn[0].astype(np.float32) * 0.5 + np.float32(sigma) * drawn[1].astype(np.float32)
    return torch.from_numpy(x).double(), torch.tensor([sigma], dtype=torch.float64)


def write_checkpoint(path: Path, kind: str) -> Path:
    """A checkpoint as its public code saves it, and its configuration as JSON beside it."""
    weights = drawn_weights(kind)
    raw = {name: each if name.endswith("filter") else 0.5 * each for name, each in weights.items()}
    saved = {"net": raw, "ema": weights, "optimizer": {}, "step": 50_000}
    torch.save(weights if kind == "UNetModel" else saved, path)
    path.with_suffix(".json").write_text(json.dumps(CONFIGS[kind]))
    return path


def score_name(kind: str, sigma: float, grid: tuple[int, int]) -> str:
    """The name of an output in the file."""
    return f"{kind}_sigma{sigma:g}_{grid[0]}x{grid[1]}"


def main() -> None:
    """Write what the networks give now."""
    outputs = {}
    for kind in CONFIGS:
        network = loaded(kind).network.double()
        for sigma in SIGMAS:
            for grid in GRIDS:
                with torch.inference_mode():
                    score = network(*inputs(sigma, grid))
                outputs[score_name(kind, sigma, grid)] = score.numpy().astype(np.float32)
    np.savez_compressed(sys.argv[1], **outputs)


if __name__ == "__main__":
    main()
