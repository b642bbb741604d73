"""A model is a folder: a manifest and the files whose hashes it names."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sbim_deploy.errors import ChecksumError, InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.json_object import format_object, read_object
from sbim_deploy.io.stored_record import (
    as_mapping,
    check_keys,
    check_plain_fields,
    check_sha256,
    check_version,
)
from sbim_deploy.samplers.choice import Prior

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 3
MAX_MANIFEST_BYTES = 1024**2
WAY_OUT = "export the model again"
NEWER = "export the model again or update sbim-deploy"

VP = "variance-preserving"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")


@dataclass(frozen=True)
class NoiseLevels:
    """The noise levels the model was trained on, from the largest sigma to the smallest.

    They are geometric, or the steps of a variance-preserving schedule, which ``vp_sigmas`` lists.
    """

    sigma_begin: float
    sigma_end: float
    n_levels: int
    distribution: str = "geometric"
    vp_sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise InputError for levels that do not fall."""
        check_plain_fields(self)
        if not self.sigma_begin > self.sigma_end > 0 or self.n_levels < 2:
            raise InputError(
                f"noise levels go from {self.sigma_begin} to {self.sigma_end} in {self.n_levels}, "
                "expected sigma_begin > sigma_end > 0 and n_levels of at least 2"
            )
        if self.distribution not in ("geometric", VP):
            raise InputError(f"distribution is {self.distribution!r}, expected 'geometric' or {VP!r}")
        if self.distribution == "geometric" and self.vp_sigmas:
            raise InputError("distribution is 'geometric' and vp_sigmas lists levels, expected none")
        if self.distribution == VP:
            self._check_vp_sigmas()

    def _check_vp_sigmas(self) -> None:
        levels = self.vp_sigmas
        if len(levels) != self.n_levels:
            raise InputError(f"vp_sigmas lists {len(levels)} levels, expected n_levels, {self.n_levels}")
        numbers = all(isinstance(level, float) for level in levels)
        if not numbers or (levels[0], levels[-1]) != (self.sigma_begin, self.sigma_end):
            raise InputError("vp_sigmas are not numbers from sigma_begin to sigma_end")
        if not all(high > low for high, low in pairwise(levels)):
            raise InputError("vp_sigmas do not fall")


@dataclass(frozen=True)
class SamplingDefaults:
    """The annealed Langevin settings that the model's authors used."""

    step_lr: float
    n_steps_each: int
    data_weight: float
    start_level: int

    def __post_init__(self) -> None:
        """Raise InputError for settings out of range."""
        check_plain_fields(self)
        if self.step_lr <= 0 or self.n_steps_each < 1 or self.data_weight < 0 or self.start_level < 0:
            raise InputError(
                f"sampling is {asdict(self)}, expected step_lr > 0, n_steps_each of at least 1, "
                "data_weight and start_level of at least 0"
            )


@dataclass(frozen=True)
class FileEntry:
    """What a file of the folder must be: its SHA-256, hexadecimal, and its size in bytes."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        """Raise InputError for what is no SHA-256 or no size."""
        check_plain_fields(self)
        check_sha256("sha256", self.sha256)
        if self.bytes < 0:
            raise InputError(f"bytes is {self.bytes}, expected at least 0")


@dataclass(frozen=True)
class ModelManifest:
    """What a model folder holds and how the model was made.

    Rows and columns of the network's input must be multiples of `size_multiple`. `ngf` is the width of its
    first stage, `n_cg` the number of conjugate-gradient steps that the proximal graphs take. `precision_cost`
    is what PyTorch in the graphs' `dtype` loses against the original: the relative L2 error of the score at
    three levels, the NRMSE and the SSIM of an image.
    """

    format_version: int
    name: str
    architecture: str
    ngf: int
    channels: int
    size_multiple: int
    noise_levels: NoiseLevels
    sampling: SamplingDefaults
    normalisation: str
    ema: bool
    dtype: str
    opset: int
    n_cg: int
    precision_cost: Mapping[str, float]
    checkpoint_sha256: str
    training_data: str
    intended_use: str
    anatomy: str
    exported_with: Mapping[str, str]
    files: Mapping[str, FileEntry]

    def __post_init__(self) -> None:
        """Raise InputError for a version this program does not know or values out of range."""
        check_version(self.format_version, FORMAT_VERSION, NEWER)
        check_plain_fields(self)
        for name in ("ngf", "channels", "size_multiple", "opset", "n_cg"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.sampling.start_level >= self.noise_levels.n_levels:
            raise InputError(
                f"start_level is {self.sampling.start_level}, expected less than {self.noise_levels.n_levels}"
            )
        check_sha256("checkpoint_sha256", self.checkpoint_sha256)
        if not all(isinstance(version, str) for version in self.exported_with.values()):
            raise InputError("exported_with holds something else than version texts")
        if not all(isinstance(cost, float) and math.isfinite(cost) for cost in self.precision_cost.values()):
            raise InputError("precision_cost holds something else than finite numbers")
        if not self.files:
            raise InputError("files is empty, expected the files of the model")
        for name in self.files:
            if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
                raise InputError(f"files names {name!r}, expected a plain file name within the folder")


def read_manifest(folder: Path) -> ModelManifest:
    """Read and check `manifest.json`; the files themselves are left to `verify_files`.

    Raises:
        InputError: no folder, no manifest, or a manifest that is not as it must be.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder, expected a model folder; check the path")
    path = folder / MANIFEST_NAME
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; {folder} is not a model folder, export the model again")
    stored = read_object(path, MAX_MANIFEST_BYTES, WAY_OUT)
    try:
        return _manifest_from(stored)
    except InputError as error:
        known = str(error).startswith(str(path))
        raise error if known else InputError(f"{path}: {error}") from None


def write_manifest(folder: Path, manifest: ModelManifest) -> None:
    """Write `manifest.json` into the folder, whole or not at all.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    with replacing(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(format_object(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def verify_files(folder: Path, manifest: ModelManifest) -> None:
    """Compare every listed file with its size and its SHA-256.

    Raises:
        ChecksumError: a file is missing or is not the one listed.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        if not os.path.isfile(path):
            raise ChecksumError(f"{path}: is missing, the manifest lists it; copy the model folder again")
        size = path.stat().st_size
        if size != entry.bytes:
            raise ChecksumError(
                f"{path}: got {size} bytes, expected {entry.bytes}; copy the model folder again"
            )
        digest = file_sha256(path)
        if digest != entry.sha256:
            raise ChecksumError(
                f"{path}: got SHA-256 {digest[:12]}..., expected {entry.sha256[:12]}...; "
                "the file was changed, copy the model folder again"
            )


def describe_file(path: Path) -> FileEntry:
    """Give the entry of a file for the manifest.

    Raises:
        InputError: `path` is no plain file or cannot be read.
    """
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


def model_digest(manifest: ModelManifest) -> str:
    """Give one SHA-256 over the names and hashes of the files, whatever their order."""
    lines = sorted(f"{name} {entry.sha256}\n" for name, entry in manifest.files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _manifest_from(stored: dict[str, Any]) -> ModelManifest:
    # First: the keys of another version may well differ.
    check_version(stored.get("format_version"), FORMAT_VERSION, NEWER)
    check_keys("the manifest", stored, ModelManifest, WAY_OUT)
    files = as_mapping("files", stored["files"])
    return ModelManifest(
        **{
            **stored,
            "noise_levels": _noise_levels(stored["noise_levels"]),
            "sampling": _nested("sampling", stored["sampling"], SamplingDefaults),
            "precision_cost": as_mapping("precision_cost", stored["precision_cost"]),
            "exported_with": as_mapping("exported_with", stored["exported_with"]),
            "files": {name: _nested(f"files[{name!r}]", entry, FileEntry) for name, entry in files.items()},
        }
    )


def _noise_levels(stored: object) -> NoiseLevels:
    # Models exported before there were variance-preserving ones do not have the list.
    mapping = {"vp_sigmas": [], **as_mapping("noise_levels", stored)}
    if not isinstance(mapping["vp_sigmas"], list):
        raise InputError(f"vp_sigmas is {type(mapping['vp_sigmas']).__name__}, expected a list")
    levels: NoiseLevels = _nested(
        "noise_levels", {**mapping, "vp_sigmas": tuple(mapping["vp_sigmas"])}, NoiseLevels
    )
    return levels


def _nested(where: str, stored: object, kind: type[Any]) -> Any:
    mapping = as_mapping(where, stored)
    check_keys(where, mapping, kind, WAY_OUT)
    return kind(**mapping)


DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "assets" / "demo"


@dataclass(frozen=True)
class Model:
    """A model folder whose files are the ones that its manifest names."""

    folder: Path
    manifest: ModelManifest
    digest: str


def model_folder(name: str | Path) -> Path:
    """Return the folder that a name means: the word ``demo`` is the one that ships with the package."""
    return DEMO_FOLDER if str(name) == DEMO else Path(name)


def load_model(name: str | Path) -> Model:
    """Read and check a model folder.

    Raises:
        InputError: it is no model folder.
        ChecksumError: a file of it was changed.
    """
    folder = model_folder(name)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return Model(folder, manifest, model_digest(manifest))


def sampling_prior(manifest: ModelManifest) -> Prior:
    """Return what the samplers need to know of a model."""
    return prior_of(manifest.noise_levels, manifest.sampling)


def prior_of(levels: NoiseLevels, sampling: SamplingDefaults) -> Prior:
    """Return what the samplers need to know of a model's levels and its authors' settings."""
    return Prior(
        sigma_begin=levels.sigma_begin,
        sigma_end=levels.sigma_end,
        n_levels=levels.n_levels,
        step_lr=sampling.step_lr,
        n_steps_each=sampling.n_steps_each,
        data_weight=sampling.data_weight,
        start_level=sampling.start_level,
        vp_sigmas=levels.vp_sigmas,
    )
