"""The options that several commands take, said once, one by one or as a group."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from sbim_deploy.errors import BackendMissingError, InputError, install_command

if TYPE_CHECKING:
    from sbim_deploy.io.layouts import Reading
    from sbim_deploy.runs.outputs import ImageSettings
    from sbim_deploy.runs.settings import Undersampling
    from sbim_deploy.samplers.choice import SamplerChoice
    from sbim_deploy.samplers.plan import Plan


# Equal to samplers.choice.DEFAULT_SAMPLER, which would cost the import of numpy here; a test compares them.
DEFAULT_SAMPLER = "dds"

# Equal to those of models.backends; a test compares them.
SERVED = ("triton", "triton-trt")
ON_GPUS = ("auto", "trt", "rtx", "onnxruntime-cuda", "onnxruntime-cuda-tf32")
MAX_SECRET_BYTES = 4096

Backend = Annotated[
    str,
    typer.Option(
        help="auto (the best that is here), onnxruntime, onnxruntime-cuda, onnxruntime-cuda-tf32 (faster, "
        "less exact), openvino, openvino-bf16 (as --precision bf16), trt, rtx, or, on a server, triton or "
        "triton-trt."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="fp32|bf16|auto",
        help="Of the network's convolutions: fp32 (default, unless the backend's or the model's is another), "
        "bf16 (faster, less exact; openvino on CPUs with AVX512_BF16 or AMX), or auto: bf16 where it costs "
        "the model little, by its manifest, and is faster here.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Model = Annotated[Path, typer.Option(help='A model folder; "demo" is the one that ships.')]
Server = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The server's gRPC, for triton and triton-trt.")
]
UNDERSAMPLE = "[PATTERN:]R"
Device = Annotated[
    int | None,
    typer.Option(metavar="N", help="The number of the GPU, where there are several; the first is 0."),
]
MaskConvention = Annotated[
    str, typer.Option(help="Where the fully sampled centre begins if its width is odd: centred or published.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace outputs that are there already; raw data are never replaced.")
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]


KeepGrid = Annotated[
    bool,
    typer.Option(
        "--keep-grid",
        help="Lay images out as k-space lies, not upright in the nearest standard view.",
    ),
]


@dataclass(frozen=True)
class ImageOptions:
    """The options that say how images leave."""

    identity: Annotated[
        str,
        typer.Option(
            help="Whose images DICOM and MRD are: anonymous (a study of its own), or keep (the real patient "
            "in the real study, as the raw data have them)."
        ),
    ] = "anonymous"
    salt: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a secret: files of a study that get the same one come into one anonymous "
            "study in DICOM.",
        ),
    ] = None
    keep_grid: KeepGrid = False
    scale: Annotated[
        float | None,
        typer.Option(
            metavar="MAGNITUDE",
            help="What the greatest pixel of DICOM and MRD stands for, for files that are to be compared; "
            "default by the scan's data.",
        ),
    ] = None

    @property
    def settings(self) -> ImageSettings:
        """How images leave.

        Raises:
            InputError: one of them is none, or they do not go together.
        """
        from sbim_deploy.io.documents import find_named
        from sbim_deploy.mrd.identity import IdentityMode
        from sbim_deploy.runs.outputs import ImageSettings

        salt = None if self.salt is None else _read_secret(self.salt)
        mode = find_named(IdentityMode, self.identity, "identity")
        return ImageSettings(mode, salt, self.keep_grid, self.scale)


@dataclass(frozen=True)
class ArrayOptions:
    """The options that say how k-space in a plain array is read."""

    layout: Annotated[
        str | None,
        typer.Option(
            metavar="AXES",
            help="The axes of an array (.npy, .npz, .mat, HDF5) in their order, such as coil,row,column; row "
            "is along the readout, slice is the fourth. Without it they are guessed, which is said.",
        ),
    ] = None
    variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="The array in a .npz, .mat or HDF5 file.")
    ] = None

    @property
    def reading(self) -> Reading:
        """How an array is read.

        Raises:
            InputError: the layout is none.
        """
        from sbim_deploy.io.layouts import Reading

        return Reading(self.layout, self.variable)


Dimensions = Annotated[
    int,
    typer.Option(
        metavar="2|3",
        help="3 for a 3-D scan, whose slices are the positions along the readout, or along the partitions of "
        "a stack of stars or of spirals.",
    ),
]


@dataclass(frozen=True)
class ShortSampling:
    """The options that choose a sampler: a preset, or a sampler's name and its steps."""

    preset: Annotated[
        str | None,
        typer.Option(
            help="fast (8 network calls a slice), balanced (32), thesis (257) or best (144), for a sampler."
        ),
    ] = None
    sampler: Annotated[
        str | None,
        typer.Option(
            help="dds, daps, sbim, sbim-ld, ddim, reverse-diffusion or langevin; default dds, as in balanced."
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(help="Predictor steps, or noise levels; default the sampler's.")
    ] = None

    def choose(self, samples: int | None = None) -> tuple[SamplerChoice | Plan, int]:
        """Return the sampler, or the steps of a file, and how many samples of each slice are drawn.

        ``samples`` is the number that the user gave; None takes the preset's, or 1 without a preset.

        Raises:
            InputError: a preset and a number are both given, a name is unknown, or a number is out of range.
        """
        from sbim_deploy.runs.plan_file import read_plan
        from sbim_deploy.samplers.choice import SamplerChoice
        from sbim_deploy.samplers.presets import find_preset

        numbers = asdict(self)
        preset, sampler = numbers.pop("preset"), numbers.pop("sampler")
        published, plan = numbers.pop("published", False), numbers.pop("plan", None)
        if plan is not None:
            given = {"preset": preset, "sampler": sampler, "published": published or None, **numbers}
            _check_whole(f"--plan {plan}", given)
            steps, n_samples = read_plan(plan)
            return steps, n_samples if samples is None else samples
        if preset is None:
            choice = SamplerChoice(sampler or DEFAULT_SAMPLER, published=published, **numbers)
            return choice, 1 if samples is None else samples
        found = find_preset(preset)
        _check_whole(f"--preset {preset}", {"sampler": sampler, **numbers})
        choice = replace(found.choice, published=published) if published else found.choice
        return choice, found.samples if samples is None else samples


@dataclass(frozen=True)
class Sampling(ShortSampling):
    """All the options that choose a sampler."""

    corrector_steps: Annotated[
        int | None, typer.Option(help="Langevin steps at each level, for sbim-ld and langevin.")
    ] = None
    data_weight: Annotated[
        float | None,
        typer.Option(help="Weight of the data against the score; default the model's, or 1 by likelihood."),
    ] = None
    guidance: Annotated[
        str | None,
        typer.Option(
            help="How data pull: norm-matched (default), likelihood, or clean-likelihood (p. 67). Not dds."
        ),
    ] = None
    schedule: Annotated[
        str | None, typer.Option(help="How noise levels are laid: geometric (default) or karras.")
    ] = None
    start_sigma: Annotated[
        float | None,
        typer.Option(
            help="Start at this noise level from the image of the measured data; default the sampler's."
        ),
    ] = None
    start: Annotated[
        str | None,
        typer.Option(help="The image that a sampler starts from: zero-filled or l1-wavelet."),
    ] = None
    prior_weight: Annotated[
        float | None, typer.Option(help="Weight of the denoised image against the data, for dds.")
    ] = None
    langevin_step: Annotated[
        float | None,
        typer.Option(
            help="Size of Langevin steps in units of sigma^2; default the model's step_lr / sigma_min^2."
        ),
    ] = None
    corrector_step_from: Annotated[
        str | None,
        typer.Option(help="The level whose sigma^2 that is, for sbim-ld: own (default), or previous."),
    ] = None
    eta: Annotated[
        float | None,
        typer.Option(help="Fresh noise of ddim, 0 (default) to 1, or of dds: 1 samples, 0 adds none."),
    ] = None
    denoising: Annotated[
        str | None, typer.Option(help="The last denoising: by the prior alone (default), or guided by data.")
    ] = None
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="As the thesis's code: guided last denoising, last predictor to 0, its Langevin steps.",
        ),
    ] = False
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A sampler's steps from a file, as plan --json prints them."),
    ] = None


def _check_whole(whole: str, others: dict[str, Any]) -> None:
    """Refuse options beside one that decides all of them."""
    for name, value in others.items():
        if value is not None:
            option, kind = name.replace("_", "-"), whole[2:].partition(" ")[0]
            raise InputError(f"{whole} and --{option} are both given: a {kind} is whole, give one")


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose parameters of a dataclass type became one option for each of its fields.

    typer reads a command's options from its signature. A command that takes a group declares one parameter
    of the group's type; the command that typer sees has the fields in its place, in their order.
    """
    declared = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in declared if is_dataclass(each.annotation)
    }
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in declared
        for parameter in (_parameters_of(groups[each.name]) if each.name in groups else [each])
    ]

    @functools.wraps(command)
    def grouped(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    grouped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    grouped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return grouped


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )
        for field in fields(group)
    ]


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            stored = file.read(MAX_SECRET_BYTES + 1)
        text = stored.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); name a text file with the secret") from error
    if len(stored) > MAX_SECRET_BYTES:
        raise InputError(f"{path}: expected at most {MAX_SECRET_BYTES} bytes of text, a secret")
    return text


def parse_slices(text: str | None) -> tuple[int, int] | None:
    """Return the range of slices that ``--slices A:B`` says, or None where it is not given."""
    if text is None:
        return None
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal()):
        raise InputError(f"--slices is {text!r}: expected A:B, two whole numbers, such as 0:4")
    return int(start), int(stop)


def parse_undersampling(text: str | None, convention: str = "centred") -> Undersampling | None:
    """Return the lines to take away that ``--undersample`` says, or None where it is not given.

    It is PATTERN:R, or R alone for equispaced lines.
    """
    from sbim_deploy.runs.settings import Undersampling

    if text is None:
        if convention != "centred":
            raise InputError(f"--mask-convention {convention} is of --undersample: give both, or neither")
        return None
    pattern, acceleration = parse_pattern(text)
    return Undersampling(pattern or "equispaced", acceleration, convention)


def parse_pattern(text: str) -> tuple[str, float]:
    """Return the pattern and the acceleration of ``PATTERN:R``; of R alone the pattern is empty."""
    pattern, _, acceleration = text.rpartition(":")
    try:
        return pattern, float(acceleration)
    except ValueError as error:
        raise InputError(
            f"--undersample is {text!r}: expected R or PATTERN:R, such as equispaced:4"
        ) from error


def backend_at(backend: str, server: str | None, device: int | None = None) -> str:
    """Return the one name of a backend with its address or its GPU, such as triton://127.0.0.1:8001, trt://1.

    Raises:
        InputError: the backend has no such thing, or the number is none.
    """
    if server is not None:
        if backend not in SERVED:
            raise InputError(
                f"--server is {server[:80]!r} with --backend {backend}: only triton and triton-trt have one"
            )
        backend = f"{backend}://{server}"
    if device is None:
        return backend
    if backend not in ON_GPUS:
        raise InputError(f"--device is {device} with --backend {backend}: only {', '.join(ON_GPUS)} take one")
    if not 0 <= device < 1000:
        raise InputError(f"--device is {device}: expected a GPU's number, 0 for the first")
    return f"{backend}://{device}" if device else backend


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import into the line that says how to install what is missing.

    Raises:
        BackendMissingError: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f"this command needs {error.name}, which is not installed: {install_command(extra)}"
        ) from error
