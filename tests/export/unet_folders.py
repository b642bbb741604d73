"""Folders as diffusers writes them, of small UNets with random weights."""

from pathlib import Path

import torch

SCHEDULES = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {},
}


def write_unet_folder(
    folder: Path, attention: bool = True, schedule: str = "linear", **scheduler: object
) -> Path:
    """A pipeline's folder: unet/ and scheduler/."""
    from diffusers import DDPMScheduler, UNet2DModel

    kind = "Attn" if attention else ""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            in_channels=2,
            out_channels=2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", f"{kind}DownBlock2D"),
            up_block_types=(f"{kind}UpBlock2D", "UpBlock2D"),
            add_attention=attention,
        )
    unet.save_pretrained(folder / "unet")
    made = DDPMScheduler(beta_schedule=schedule, **SCHEDULES[schedule], **scheduler)
    made.save_pretrained(folder / "scheduler")
    return folder
