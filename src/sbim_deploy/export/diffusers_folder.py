"""Where the UNet is in a folder that diffusers wrote, and which of its sets of weights is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.export.checkpoint import CHECK, UNET_WEIGHTS_NAME
from sbim_deploy.io.documents import read_object

CONFIG_NAME = "config.json"
UNET, UNET_EMA = "unet", "unet_ema"
# Beside the file of the average, where the name of a variant says that it is none.
NOT_EMA = "diffusion_pytorch_model.non_ema.safetensors"
# What EMAModel.save_pretrained puts among the options of the network.
EMA_OPTIONS = {
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup"),
    *("inv_gamma", "power"),
}


@dataclass(frozen=True)
class UnetPlace:
    """The UNet that was chosen in a pipeline's folder: its own folder, the file of its weights."""

    pipeline: Path
    folder: Path
    weights: Path
    ema: bool


def find_unet(pipeline: Path, ema: bool | None) -> UnetPlace:
    """Return the set of weights that is asked for; None takes the EMA weights where there are any.

    A training run keeps ``unet_ema`` beside ``unet``. In either, a config.json with options of an EMAModel
    says that the weights are an average.

    Raises:
        InputError: there are none of that kind.
    """
    folder = pipeline / UNET if (pipeline / UNET).is_dir() else pipeline
    here = UnetPlace(pipeline, folder, folder / UNET_WEIGHTS_NAME, _is_average(folder))
    sets = [here]
    if (folder / NOT_EMA).is_file():
        sets = [
            UnetPlace(pipeline, folder, folder / UNET_WEIGHTS_NAME, True),
            UnetPlace(pipeline, folder, folder / NOT_EMA, False),
        ]
    averaged = pipeline / UNET_EMA
    if averaged.is_dir():
        other = UnetPlace(pipeline, averaged, averaged / UNET_WEIGHTS_NAME, True)
        # Without a unet beside it, it is the only one.
        sets = [other, *sets] if (folder / CONFIG_NAME).is_file() else [other]
    for place in sorted(sets, key=lambda place: not place.ema):
        if ema is None or place.ema == ema:
            return place
    if ema:
        raise InputError(f"{pipeline}: a diffusers folder holds one set of weights: leave --ema out")
    raise InputError(f"{pipeline}: the diffusers folder holds EMA weights alone: leave --raw out")


def _is_average(folder: Path) -> bool:
    config_path = folder / CONFIG_NAME
    return config_path.is_file() and {"decay", "optimization_step"} <= read_object(config_path, CHECK).keys()
