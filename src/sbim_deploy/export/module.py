"""A model folder of any PyTorch module: a network of the user's own, in memory or made by their function."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.export.blueprint import LoadedNetwork, check_stored_levels, in_json
from sbim_deploy.export.checkpoint import NetworkConfig
from sbim_deploy.export.model import check_model_place, export_network
from sbim_deploy.export.scores import (
    LANGEVIN_STEP,
    DenoisedScore,
    VarianceExploding,
    in_runtime_units,
)
from sbim_deploy.export.weight_sets import SIGMAS_KEY
from sbim_deploy.io.atomic import check_folder_place
from sbim_deploy.io.documents import Positive, convert
from sbim_deploy.models.folder import VP, Channels, ModelManifest, NoiseLevels, SizeMultiple
from sbim_deploy.samplers.schedules import Sigmas

Predicts = Literal["score", "denoised", "epsilon", "v"]
# Of a network that knows all levels between the largest and the smallest.
N_LEVELS = 2000
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


class _Numbers(TypedDict, total=False):
    channels: Channels
    image_scale: Positive
    size_multiple: SizeMultiple | None


def export_module(
    module: nn.Module,
    predicts: Predicts,
    sigmas: Sequence[float],
    channels: int = 2,
    image_scale: float = 1.0,
    *,
    folder: Path | str,
    size_multiple: int | None = None,
    announce: Callable[[str], None] = lambda _stage: None,
    force: bool = False,
) -> ModelManifest:
    """Write a model folder of a network of your own.

    ``module(x, level)`` takes x (n, channels, H, W) and level (n,), both float32, and returns x's shape.

    - ``predicts`` "score" or "denoised": x is an image with noise of standard deviation ``level``, and what
      comes back is the score, or the image without the noise. ``sigmas`` are the levels of its training, or
      the largest and the smallest of a network that knows all between.
    - ``predicts`` "epsilon" or "v": a variance-preserving network (DDPM); x is the image over sqrt(1 +
      sigma^2), ``level`` the number t of its step as a float, and what comes back is the noise or the
      velocity. ``sigmas`` are the levels of all steps, sqrt(1 / a_t - 1) with a_t the product of 1 - beta.

    Args:
        module: the network; it is exported in evaluation mode, in float32.
        predicts: what it predicts.
        sigmas: its noise levels, in any order.
        channels: 2 for the real and the imaginary part. Another number exports the score alone.
        image_scale: the 99th percentile of the magnitude of its training images.
        folder: the model folder to write.
        size_multiple: what rows and columns are multiples of; None tries 1, 2, 4 up to 64.
        announce: is told what begins.
        force: whether an older model of this name is replaced.

    Raises:
        InputError: an argument is not what it must be, or the module cannot be run or traced; the message
            names the operation.
    """
    given: dict[str, Any] = {"channels": channels, "image_scale": image_scale, "size_multiple": size_multiple}
    plain = {name: each.item() if isinstance(each, np.generic) else each for name, each in given.items()}
    numbers = convert(plain, _Numbers, "export_module", "give a number of this kind")
    channels, image_scale = numbers["channels"], numbers["image_scale"]
    size_multiple = numbers["size_multiple"]
    levels = _levels_of(predicts, sigmas)
    # A copy: the user's may be in training.
    score = copy.deepcopy(_score_of(module, predicts, sigmas)).float().eval()
    _check_own_levels(module, _falling(sigmas))
    loaded = LoadedNetwork(
        score,
        NetworkConfig(
            ngf=_width_of(module, channels),
            channels=channels,
            sigma_begin=levels.sigma_begin,
            sigma_end=levels.sigma_end,
            n_levels=levels.n_levels,
            step_lr=LANGEVIN_STEP * levels.sigma_end**2,
        ),
        type(module).__name__,
        ema=False,
        size_multiple=_find_size_multiple(score, channels, levels.sigma_end, size_multiple),
        levels=levels,
        options=in_json({"predicts": predicts}),
    )
    loaded = in_runtime_units(loaded, image_scale)
    return export_network(lambda: (loaded, _digest(module)), Path(folder), announce=announce, force=force)


def export_from_factory(
    name: str,
    folder: Path,
    image_scale: float | None,
    announce: Callable[[str], None],
    force: bool = False,
) -> ModelManifest:
    """Write a model folder of what a function of the user's returns: the arguments of :func:`export_module`.

    ``name`` is ``package.file:function``, which is imported from the Python path and called: it is the
    user's own code, and may do anything. ``image_scale`` takes the place of the function's.

    Raises:
        InputError: there is no such function, it fails, or what it returns are no such arguments.
    """
    check_folder_place(folder)
    check_model_place(folder, force)  # before the function, which may take long
    made = _call(name)
    if not isinstance(made, Mapping) or not {"module", "predicts", "sigmas"} <= made.keys():
        got = f"a mapping of {sorted(map(str, made))}" if isinstance(made, Mapping) else type(made).__name__
        raise InputError(
            f"{name} returned {got}: expected a mapping of export_module's arguments, module, predicts and "
            "sigmas at least"
        )
    arguments = {**made, "folder": folder, "announce": announce, "force": force}
    if image_scale is not None:
        arguments["image_scale"] = image_scale
    known = {
        "module",
        "predicts",
        "sigmas",
        "channels",
        "image_scale",
        "folder",
        "size_multiple",
        "announce",
        "force",
    }
    if unknown := arguments.keys() - known:
        raise InputError(f"{name} returned {sorted(map(str, unknown))}: expected some of {sorted(known)}")
    return export_module(**arguments)


def _call(name: str) -> Any:
    path, _, function = name.partition(":")
    if not path or not function.isidentifier():
        raise InputError(f"module is {name!r}: expected package.file:function, such as prior:make")
    try:
        found = getattr(importlib.import_module(path), function)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name}: no module named {error.name} on the Python path: put its folder there, such as with "
            "PYTHONPATH=."
        ) from error
    except AttributeError as error:
        raise InputError(f"{name}: {path} has no {function}") from error
    except Exception as error:
        raise InputError(f"{name}: importing it failed: {_reason(error)}") from error
    try:
        return found()
    except SbimDeployError:
        raise
    except Exception as error:
        raise InputError(f"{name}: calling it failed: {_reason(error)}") from error


def _levels_of(predicts: str, sigmas: Sequence[float]) -> NoiseLevels:
    if predicts not in get_args(Predicts):
        raise InputError(f"predicts is {predicts!r}: expected one of {', '.join(get_args(Predicts))}")
    falling = _falling(sigmas)
    begin, end = float(falling[0]), float(falling[-1])
    if predicts in ("epsilon", "v"):
        return NoiseLevels(begin, end, falling.size, VP, tuple(falling.tolist()))
    return NoiseLevels(begin, end, falling.size if falling.size > 2 else N_LEVELS)


def _falling(sigmas: Sequence[float]) -> Sigmas:
    try:
        falling = np.sort(np.asarray(sigmas, np.float64))[::-1]
    except (TypeError, ValueError):
        falling = np.empty(0)
    if falling.ndim != 1 or falling.size < 2 or not (np.isfinite(falling).all() and falling[-1] > 0):
        raise InputError(f"sigmas is {str(sigmas)[:60]}: expected noise levels above 0, two of them or more")
    return falling


def _score_of(module: nn.Module, predicts: Predicts, sigmas: Sequence[float]) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise InputError(f"module is a {type(module).__name__}: expected a torch.nn.Module")
    if predicts == "score":
        return module
    if predicts == "denoised":
        return DenoisedScore(module)
    return VarianceExploding(module, _falling(sigmas), "epsilon" if predicts == "epsilon" else "v_prediction")


def _check_own_levels(module: nn.Module, falling: Sigmas) -> None:
    """Compare the levels that are given with those that the module keeps in a buffer ``sigmas``, if it does.

    Raises:
        InputError: they differ.
    """
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2] == SIGMAS_KEY and buffer.ndim == 1 and len(buffer) > 1:
            own = buffer.detach().cpu().sort(descending=True).values
            # Two are the ends of all that it knows.
            compared = own[[0, -1]] if falling.size == 2 else own
            check_stored_levels(falling, compared, f"the module's buffer {name} holds", "the argument sigmas")


def _width_of(module: nn.Module, channels: int) -> int:
    """Return the channels of the first convolution, or those of the image where there is none."""
    convolutions = (each for each in module.modules() if isinstance(each, nn.Conv2d))
    return next((each.out_channels for each in convolutions), channels)


def _find_size_multiple(score: nn.Module, channels: int, sigma: float, given: int | None = None) -> int:
    """Return the least multiple whose odd multiples the network takes, and gives back; a given one is tried.

    Raises:
        InputError: it takes none; with what it says of the last.
    """
    said = ""
    for multiple in MULTIPLES if given is None else (given,):
        rows, columns = (multiple * (2 * -(-size // multiple) + 1) for size in (8, 16))
        shape = (1, channels, rows, columns)
        try:
            with torch.inference_mode():
                got = score(torch.zeros(shape), torch.full((1,), sigma))
        except Exception as error:
            said = _reason(error)
            continue
        if not isinstance(got, Tensor):
            raise InputError(f"the module returns a {type(got).__name__}: expected a tensor of x's shape")
        if got.shape == shape:
            return multiple
        said = f"it returns {tuple(got.shape)} for an image of {shape}"
    tried = f"1 to {MULTIPLES[-1]}" if given is None else str(given)
    other = "size_multiple" if given is None else "another size_multiple"
    raise InputError(
        f"the module takes images of no size of multiples of {tried}: {said}; give {other}, "
        "or see that it is called with x (n, channels, H, W) and a level (n,)"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _digest(module: nn.Module) -> str:
    """Return one SHA-256 over the names, shapes and values of the module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        array = tensor.detach().cpu().float().numpy()
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
