"""A model is a folder: a manifest and the files whose hashes it names."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from sbim_deploy.errors import ChecksumError, InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.documents import (
    Line,
    Natural,
    NonNegative,
    Number,
    Positive,
    Sha256,
    check_version,
    convert,
    format_object,
    one_of,
    read_object,
    whole,
)
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.samplers.choice import Prior

MANIFEST_NAME = "manifest.json"
WEIGHTS = "weights.bin"
FORMAT_VERSION = 5
MAX_STEPS = 1_000_000  # of the longest plan: each step of the published ones is a call of the network
FP16_OVERFLOW = (
    "float16 ends at 65504, which the network exceeds: export it with --dtype bf16, which has fp32's range"
)
WAY_OUT = "export the model again or update sbim-deploy"

VP: Final = "variance-preserving"
IMAGE_NRMSE, IMAGE_SSIM = "image NRMSE", "image SSIM"
"""The costs of a precision that are of an image; the others are of the score at a level."""


def score_at(sigma: float) -> str:
    """Return the name of a precision's cost for the score at a level."""
    return f"score at sigma {sigma:g}"


Dtype = Literal["float16", "float32", "int64"]
Levels = Annotated[int, whole(2, 100_000)]
Channels = Annotated[int, whole(1, 64)]
# Wider than any published network by far; what is read decides what is allocated.
Width = Annotated[int, whole(1, 1024)]
SizeMultiple = Annotated[int, whole(1, 512)]
StepsEach = Annotated[int, whole(1, 10_000)]
Precision = Annotated[str, one_of("float32", "float16", "bfloat16")]
FileName = Annotated[
    str,
    Meta(
        pattern=r"^(?!manifest\.json\Z)[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}\Z",
        extra={"expected": "a plain file name within the folder"},
    ),
]


@dataclass(frozen=True)
class NoiseLevels:
    """The noise levels the model was trained on, from the largest sigma to the smallest.

    They are geometric, or the steps of a variance-preserving schedule, which ``vp_sigmas`` lists.
    """

    sigma_begin: Positive
    sigma_end: Positive
    n_levels: Levels
    distribution: Literal["geometric", "variance-preserving"] = "geometric"
    vp_sigmas: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        """Raise InputError for levels that do not fall, or a list that does not fit them."""
        levels = self.vp_sigmas
        if not self.sigma_begin > self.sigma_end:
            raise InputError(
                f"sigma_begin and sigma_end are {self.sigma_begin} and {self.sigma_end}, "
                "expected sigma_begin > sigma_end"
            )
        if self.distribution != VP:
            if levels:
                raise InputError("distribution is 'geometric' and vp_sigmas lists levels, expected none")
            return
        if len(levels) != self.n_levels:
            raise InputError(f"vp_sigmas lists {len(levels)} levels, expected n_levels, {self.n_levels}")
        if (levels[0], levels[-1]) != (self.sigma_begin, self.sigma_end):
            raise InputError("vp_sigmas are not from sigma_begin to sigma_end")
        if not all(high > low for high, low in pairwise(levels)):
            raise InputError("vp_sigmas do not fall")


@dataclass(frozen=True)
class SamplingDefaults:
    """The annealed Langevin settings that the model's authors used."""

    step_lr: Positive
    n_steps_each: StepsEach
    data_weight: NonNegative
    start_level: Natural


@dataclass(frozen=True)
class FileEntry:
    """What a file of the folder must be: its SHA-256, hexadecimal, and its size in bytes."""

    sha256: Sha256
    bytes: Natural


@dataclass(frozen=True)
class TensorEntry:
    """An input or an output of a graph: free sizes have names, such as "batch" and "8*h", in its shape."""

    dtype: Dtype
    shape: Sequence[Annotated[int, whole(1)] | Annotated[str, Meta(min_length=1)]]


Tensors = Annotated[Mapping[str, TensorEntry], Meta(min_length=1, extra={"expected": "at least one tensor"})]


@dataclass(frozen=True)
class GraphEntry:
    """The inputs and the outputs of a graph, by name and in its order."""

    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True)
class ModelManifest:
    """What a model folder holds and how the model was made.

    Rows and columns of the network's input must be multiples of ``size_multiple``. ``ngf`` is the width of
    its first stage, ``n_cg`` the number of conjugate-gradient steps that the proximal graphs take.
    ``precision_cost`` is what PyTorch in the graphs' ``dtype`` loses against the original: the relative L2
    error of the score at three levels, the NRMSE and the SSIM of an image. ``bfloat16_cost`` is the same of
    an FP32 model whose convolutions are computed in bfloat16, as OpenVINO does it on some CPUs; it is empty
    where that was not measured. ``graphs`` are by the names of
    their files without the suffix. ``noise_left`` is the share of the noise that the network leaves in
    images, by level; it is empty where that was not measured.

    Graphs and levels are of images whose 99th percentile is 1. The network was trained where it is
    ``image_scale``, by which the graphs multiply what comes in; ``better_image_scale`` is where it removes
    clearly more of the noise than at that, None where there is none.

    ``options`` are what else shapes the network, by the names of its configuration, in JSON; it is empty
    in models that do not tell.
    """

    format_version: int
    name: Annotated[Line, Meta(min_length=1)]
    architecture: Line
    ngf: Width
    channels: Channels
    size_multiple: SizeMultiple
    noise_levels: NoiseLevels
    sampling: SamplingDefaults
    normalisation: Line
    ema: bool
    dtype: Precision
    opset: Annotated[int, whole(1, 1000)]
    n_cg: Annotated[int, whole(1, 10_000)]
    precision_cost: Mapping[Line, Number]
    checkpoint_sha256: Sha256
    training_data: Line
    intended_use: Line
    anatomy: Line
    exported_with: Mapping[Line, Line]
    files: Annotated[
        Mapping[FileName, FileEntry], Meta(min_length=1, extra={"expected": "the files of the model"})
    ]
    graphs: Mapping[FileName, GraphEntry]
    noise_left: Mapping[Line, Number] = field(default_factory=dict)
    image_scale: Positive = 1.0
    better_image_scale: Positive | None = None
    options: Mapping[Line, Line] = field(default_factory=dict)
    bfloat16_cost: Mapping[Line, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise InputError for a start or a plan that is too long, and files that are not the graphs'."""
        if WEIGHTS not in self.files:
            raise InputError(f"files are {sorted(self.files)[:20]}, expected {WEIGHTS} among them")
        files = {Path(name).stem for name in self.files if name.endswith(".onnx")}
        if files != self.graphs.keys():
            raise InputError(
                f"graphs are {sorted(self.graphs)[:20]}, expected those of the files, {sorted(files)[:20]}"
            )
        if (n_steps := self.noise_levels.n_levels * self.sampling.n_steps_each) > MAX_STEPS:
            raise InputError(
                f"n_levels times n_steps_each is {n_steps} steps of a plan, expected at most {MAX_STEPS}"
            )
        if self.sampling.start_level >= self.noise_levels.n_levels:
            raise InputError(
                f"start_level is {self.sampling.start_level}, expected less than {self.noise_levels.n_levels}"
            )


def read_manifest(folder: Path) -> ModelManifest:
    """Read and check ``manifest.json``; the files themselves are left to :func:`verify_files`.

    Raises:
        InputError: no folder, no manifest, or a manifest that is not as it must be.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder, expected a model folder; check the path")
    path = folder / MANIFEST_NAME
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; {folder} is not a model folder, export the model again")
    stored = read_object(path, WAY_OUT)
    # First: the keys of another version may well differ.
    check_version(stored, FORMAT_VERSION, str(path), WAY_OUT)
    return convert(stored, ModelManifest, str(path), WAY_OUT)


def write_manifest(folder: Path, manifest: ModelManifest) -> None:
    """Write ``manifest.json`` into the folder, whole or not at all.

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
    """Return the entry of a file for the manifest.

    Raises:
        InputError: ``path`` is no plain file or cannot be read.
    """
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


def model_digest(manifest: ModelManifest) -> str:
    """Return one SHA-256 over the names and hashes of the files, whatever their order."""
    lines = sorted(f"{name} {entry.sha256}\n" for name, entry in manifest.files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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


@contextmanager
def graph_beside_weights(folder: Path, graph: str) -> Iterator[Path]:
    """Yield the path of a graph whose weights lie beside it, neither of them a link, to be opened from there.

    Engines refuse weights that a link leads to outside the graph's folder, as it does in the cache of Hugging
    Face and in DVC's. Where there is a link, both files are put into a temporary folder, by a hard link or
    a copy, for the time that the graph is opened.

    Raises:
        InputError: there is no room for a copy.
    """
    files = [folder / f"{graph}.onnx", folder / WEIGHTS]
    if not any(file.is_symlink() for file in files):
        yield files[0]
        return
    with tempfile.TemporaryDirectory(prefix="sbim-deploy-", ignore_cleanup_errors=True) as temporary:
        for file in files:
            if file.exists():
                _place(file.resolve(), Path(temporary) / file.name)
        yield Path(temporary) / files[0].name


def _place(file: Path, where: Path) -> None:
    try:
        os.link(file, where)
    except OSError:  # on another disk, or not ours
        try:
            shutil.copyfile(file, where)
        except OSError as error:
            raise InputError(
                f"{file}: is reached by a link and cannot be copied to {where.parent} ({error.strerror}); "
                "free the space, set TMPDIR, or copy the model folder without links"
            ) from error


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
