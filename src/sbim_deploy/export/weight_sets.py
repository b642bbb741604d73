"""Which of the tensors in a file are the weights of a network, whatever layout the file has.

A set of weights is where a parameter is that each network has once, under a name of its own: in a mapping at
any depth (``state_dict``, ``model``, ``ema``, a place of a list) and behind any prefix (``model.``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sbim_deploy.errors import InputError

UNET_PARAMETER = "conv_in.weight"  # which no NCSNv2 has
NCSNV2 = "an NCSNv2"
SIGMAS_KEY, BETAS_KEY = "sigmas", "betas"
# A parameter of each kind of network that is in it once and in no other, and beside which the others lie.
ANCHORS = {
    "begin_conv.weight": NCSNV2,
    "map_layer0.weight": "a network of EDM's",
    "time_embed.0.weight": "guided-diffusion's UNet",
    UNET_PARAMETER: "a UNet2DModel",
}
# What PyTorch's wrappers put before names, and into them where a part was wrapped.
WRAPPERS = ("module", "_orig_mod")
AVERAGES = {"ema", "shadow", "swa"}
UNNAMED_EMA = "shadow_params"  # of diffusers' EMAModel and of torch-ema: a list in the order of parameters
SWA_COUNT = "n_averaged"  # which torch.optim.swa_utils.AveragedModel keeps beside the average
MAX_DEPTH, MAX_SHOWN = 3, 6


@dataclass(frozen=True)
class WeightSet:
    """A set of weights: where in the file it is, whether it is an average of others, the weights by name."""

    place: str
    averaged: bool
    weights: Mapping[str, Tensor]


Place = tuple[str, ...]


def _containers(content: object, place: Place = ()) -> Iterator[tuple[Place, Mapping[Any, Any]]]:
    """Walk the mappings in what a file holds, with the keys that lead to them."""
    children: Sequence[tuple[Any, Any]] = []
    if isinstance(content, Mapping):
        yield place, content
        children = [*content.items()]
    elif isinstance(content, list | tuple):
        children = [*enumerate(content)]
    if len(place) < MAX_DEPTH:
        for key, part in children:
            if isinstance(part, Mapping | list | tuple):
                yield from _containers(part, (*place, str(key)))


def find_sets(content: object, path: Path) -> Iterator[WeightSet]:
    """Find the weights of networks in what a file holds, at any depth and behind any prefix.

    Raises:
        InputError: an entry of one of them is no tensor of numbers, or is there twice.
    """
    for place, container in _containers(content):
        names = {name: _unwrapped(name) for name in container if isinstance(name, str)}
        prefixes = {
            name.removesuffix(anchor)
            for name in names.values()
            for anchor in ANCHORS
            if name == anchor or name.endswith(f".{anchor}")
        }
        for prefix in sorted(prefixes):
            within = [other for other in prefixes if other != prefix and other.startswith(prefix)]
            taken = {
                name: plain.removeprefix(prefix)
                for name, plain in names.items()
                if plain.startswith(prefix) and not plain.startswith(tuple(within)) and plain != SWA_COUNT
            }
            if not prefix:
                taken |= {name: name for name in container if not isinstance(name, str)}
            averaged = SWA_COUNT in container or _is_average(content, place, prefix)
            yield WeightSet(_named(place, prefix), averaged, _plain_tensors(container, taken, path))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _is_average(content: object, place: Place, prefix: str) -> bool:
    if _is_published(content):
        return place[:1] == ("4",)
    return any(_says_average(part) for part in (*place, *prefix.split(".")))


def _says_average(name: str) -> bool:
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    return any(word in AVERAGES or word.startswith("ema") for word in words)


def _is_published(content: object) -> bool:
    """Whether it is [state dict, optimiser, epoch, step(, EMA)]."""
    if not isinstance(content, list | tuple) or len(content) < 4 or not isinstance(content[0], Mapping):
        return False
    return not any(isinstance(each, Mapping | list | tuple) for each in content[2:4])


def progress_of(content: object) -> tuple[Any, Any, Any]:
    """Return the optimiser's state, the epoch and the step, each None where there is none."""
    if _is_published(content):
        return tuple(content[1:4])  # type: ignore[index]
    if isinstance(content, Mapping):
        return content.get("optimizer"), content.get("epoch"), content.get("step")
    return None, None, None


def _named(place: Place, prefix: str) -> str:
    where = "".join(f"[{key[:40]}]" for key in place)
    return f"{where} {ascii(prefix[:60])[1:-1]}*".strip() if prefix else where or "the file itself"


def _plain_tensors(container: Mapping[Any, Any], names: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return the weights by their plain names, each a tensor of numbers."""
    weights: dict[str, Tensor] = {}
    for name, plain in names.items():
        tensor = container[name]
        if not isinstance(name, str):
            raise InputError(
                f"{path}: a parameter is called {name!r:.60}, expected a name; is it a checkpoint?"
            )
        if not torch.is_tensor(tensor):
            raise InputError(f"{path}: {name!r:.60} is a {type(tensor).__name__}, expected a tensor")
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise InputError(
                f"{path}: {name!r:.60} has no plain numbers (a meta, sparse or quantised tensor)"
            )
        if plain in weights:
            raise InputError(f"{path}: holds {plain!r:.60} twice, with and without a wrapper's prefix")
        weights[plain] = tensor.detach()
    return weights


def one_set(sets: Sequence[WeightSet], path: Path) -> WeightSet | None:
    """Return the one set, or None; sets of the same numbers are one.

    Raises:
        InputError: there are several, with their places.
    """
    different: list[WeightSet] = []
    for each in sets:
        if not any(_are_equal(each.weights, other.weights) for other in different):
            different.append(each)
    if len(different) > 1:
        listed = "; ".join(f"{each.place}, {len(each.weights)} tensors" for each in different[:MAX_SHOWN])
        kind = "EMA weights" if different[0].averaged else "weights"
        raise InputError(
            f"{path}: holds {len(different)} sets of {kind} ({listed}), and nothing tells which is meant: "
            "save that one alone as a state dict, torch.save(state_dict, FILE), and export it"
        )
    return different[0] if different else None


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    if one.keys() != other.keys():
        return False
    return all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def find_unnamed_average(content: object, raw: WeightSet | None) -> Mapping[str, Tensor] | None:
    """Return the average that is a list in the order of the parameters, where each has its one's shape."""
    if raw is None:
        return None
    names = [name for name in raw.weights if not _is_fixed(name)]
    for _, container in _containers(content):
        listed = container.get(UNNAMED_EMA)
        if isinstance(listed, list | tuple) and len(listed) == len(names):
            pairs = [*zip(names, listed, strict=True)]
            if all(torch.is_tensor(each) and each.shape == raw.weights[name].shape for name, each in pairs):
                fixed = {name: each for name, each in raw.weights.items() if _is_fixed(name)}
                return {**fixed, **dict(pairs)}
    return None


def _is_fixed(name: str) -> bool:
    """Whether it is a buffer of one of the networks, and no parameter."""
    return name.rpartition(".")[2] in (SIGMAS_KEY, BETAS_KEY, "resample_filter")


def find_unread_average(content: object) -> str | None:
    """Return the place of what is called an average and is no set of weights."""
    for place, container in _containers(content):
        if any(_says_average(key) for key in place) and _holds_tensors(container):
            return _named(place, "")
        for name, value in container.items():
            first = str(name).partition(".")[0]
            holds = torch.is_tensor(value) or (isinstance(value, list | tuple) and _holds_tensors(value))
            if holds and _says_average(first):
                return _named((*place, first), "")
    if _is_published(content) and len(content) > 4 and _holds_tensors(content[4]):  # type: ignore[arg-type,index]
        return "[4]"
    return None


def _holds_tensors(content: object) -> bool:
    if isinstance(content, Mapping):
        content = [*content.values()]
    return isinstance(content, list | tuple) and any(map(torch.is_tensor, content))


def kind_of(names: Collection[str]) -> str:
    """Say which kind of network has parameters of these names."""
    return next((kind for anchor, kind in ANCHORS.items() if anchor in names), "no network that export takes")


def find_levels(content: object) -> dict[str, Tensor]:
    """Return the noise levels ``sigmas`` and the variances ``betas`` that a file holds, (L,), by places."""
    return {
        _named((*place, name), ""): value.detach()
        for place, container in _containers(content)
        for name, value in container.items()
        if isinstance(name, str)
        and name.rpartition(".")[2] in (SIGMAS_KEY, BETAS_KEY)
        and torch.is_tensor(value)
        and value.ndim == 1
    }


def describe(content: object) -> str:
    """Say in a few words what a file holds."""
    for _, container in _containers(content):
        if held := [name for name, value in container.items() if torch.is_tensor(value)]:
            shown = ", ".join(f"{name!r:.60}" for name in held[:3])
            return f"{len(held)} tensors, such as {shown}"
    if isinstance(content, list | tuple):
        return f"a {type(content).__name__} of {len(content)}"
    if isinstance(content, Mapping):
        return f"a mapping with the keys {sorted(map(str, content))[:4]}"
    return f"a {type(content).__name__}"
