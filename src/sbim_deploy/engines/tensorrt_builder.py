"""Builds TensorRT engines from ONNX graphs.

Networks are strongly typed and TF32 is off, so that FP32 is FP32. Sizes go by the dimensions' names.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sbim_deploy.errors import BackendMissingError, EngineIncompatibleError, InputError, install_command

PACKAGES = {"trt": "tensorrt", "rtx": "tensorrt_rtx"}
MAX_MESSAGES = 8
MAX_CHARACTERS = 600

DATA_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
GIB = 1024**3
# Of a tensor that is too large, to have or to number its elements.
TOO_WIDE = ("OutOfMemory", "out of memory", "volume", "too large", "overflow")

Progress = Callable[[float], None]
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Range:
    """The least and the greatest size of a free dimension, and the one that the engine is made fast for."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        """Raise InputError where they do not rise."""
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise InputError(
                f"the range is {self.minimum}:{self.optimum}:{self.maximum}, "
                "expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX"
            )


@dataclass(frozen=True)
class BuildSettings:
    """How to build. None leaves a number to TensorRT; for the compute capability it is that of this GPU."""

    compute_capability: int | None = None
    workspace_gib: float | None = None
    opt_level: int | None = None

    def __post_init__(self) -> None:
        """Raise InputError for settings out of range."""
        if self.workspace_gib is not None and not 0 < self.workspace_gib < 2**20:
            raise InputError(f"workspace is {self.workspace_gib} GiB, expected more than 0; or leave it out")
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise InputError(f"opt-level is {self.opt_level}, expected 0 to 5; or leave it out")


@dataclass(frozen=True)
class Network:
    """A graph that TensorRT has parsed. ``inputs`` are the shapes, with names for free sizes."""

    trt: Any
    builder: Any
    definition: Any
    parser: Any  # it owns the weights, and must live as long as the network
    path: Path
    inputs: Mapping[str, Shape]


def import_package(backend: str) -> Any:
    """Return the module of a backend, ``trt`` or ``rtx``.

    Raises:
        InputError: an unknown backend.
        BackendMissingError: its package is not installed.
    """
    if backend not in PACKAGES:
        raise InputError(f"unknown backend {backend!r}: expected one of {', '.join(PACKAGES)}")
    try:
        return importlib.import_module(PACKAGES[backend])
    except ImportError as error:
        raise BackendMissingError(
            f"{PACKAGES[backend]} is not installed: {install_command(backend)}"
        ) from error


def known_capabilities(trt: Any) -> list[int]:
    """Return the compute capabilities that TensorRT-RTX builds for, such as 89; none for TensorRT."""
    names = getattr(trt, "ComputeCapability", None)
    return sorted(int(name[2:]) for name in getattr(names, "__members__", {}) if name.startswith("SM"))


def check_supported(trt: Any, gpu: str, capability: int) -> None:
    """Raise BackendMissingError where TensorRT-RTX does not run on a GPU; TensorRT is not asked.

    Args:
        trt: the package.
        gpu: the GPU's name.
        capability: its compute capability, 90 for 9.0.
    """
    known = known_capabilities(trt)
    if known and capability not in known:
        raise BackendMissingError(
            f"TensorRT-RTX {trt.__version__} does not support {gpu}, compute capability {capability / 10:.1f}"
            f", but {', '.join(f'{each / 10:.1f}' for each in known)}: take --backend trt or onnxruntime-cuda"
        )


@cache
def logger_of(trt: Any) -> Any:
    """Return the one logger of a package. Its ``errors`` hold the last messages until they are taken.

    TensorRT keeps the first logger that it is given for the rest of the process.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=MAX_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(" ".join(message.split()))

    return Logger()


def take_errors(trt: Any) -> str:
    """Return what the package complained about since the last time, in one line."""
    errors = logger_of(trt).errors
    text = "; ".join(dict.fromkeys(errors)) or "it gave no reason"
    errors.clear()
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def parse_graph(trt: Any, path: Path) -> Network:
    """Parse an ONNX graph, whose external weights lie beside it, as a strongly typed network.

    Raises:
        InputError: TensorRT cannot parse it: the message lists the nodes.
    """
    logger = logger_of(trt)
    logger.errors.clear()
    builder = trt.Builder(logger)
    definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        faults = [f"node {e.node_name()!r} ({e.node_operator()}): {e.desc()}" for e in errors]
        raise InputError(f"{path}: TensorRT cannot parse it: {'; '.join(faults) or take_errors(trt)}")
    tensors = [definition.get_input(i) for i in range(definition.num_inputs)]
    return Network(
        trt, builder, definition, parser, path, {tensor.name: _shape(tensor) for tensor in tensors}
    )


def check_precision(network: Network, precision: str) -> None:
    """Check that the convolutions take and give ``precision``; a strongly typed build keeps their types.

    The first and the last of a network may be FP32: they read and write what half precision would spoil.

    Raises:
        InputError: a precision that is unknown.
        EngineIncompatibleError: one does not.
    """
    trt = network.trt
    if precision not in DATA_TYPES:
        raise InputError(f"dtype is {precision!r}, expected one of {', '.join(DATA_TYPES)}")
    layers = [network.definition.get_layer(i) for i in range(network.definition.num_layers)]
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    wanted = getattr(trt.DataType, DATA_TYPES[precision])
    inner = convolutions[1:-1] or convolutions
    wrong = [each for each in inner if {each.get_input(0).dtype, each.get_output(0).dtype} != {wanted}]
    if wrong or not convolutions:
        got = wrong[0].get_output(0).dtype.name if wrong else "none"
        raise EngineIncompatibleError(
            f"{network.path}: {len(wrong)} of {len(inner)} convolutions compute in another precision "
            f"(the first: {got}), expected {precision} as the manifest says: export the model again"
        )


def build_engine(
    network: Network,
    ranges: Mapping[str, Range],
    settings: BuildSettings,
    on_progress: Progress,
    timing_cache: bytes = b"",
) -> tuple[Any, bytes]:
    """Return the engine as a buffer to write, and the timing cache to keep.

    The cache is empty where there is none to keep: TensorRT-RTX has none, and one of another GPU or version,
    which TensorRT refuses, is left alone.

    ``ranges`` are by dimensions' names, all that the inputs have; ``on_progress`` gets the fraction done;
    ``timing_cache`` is what an earlier build returned.

    Raises:
        InputError: a dimension without a range, or TensorRT cannot build it so.
    """
    trt = network.trt
    config = _configured(network, settings)
    config.add_optimization_profile(_profile(network, ranges))
    has_timing_cache = not hasattr(trt, "ComputeCapability") and _set_timing_cache(config, timing_cache)
    monitor = _make_monitor(trt, on_progress)
    config.progress_monitor = monitor
    serialised = network.builder.build_serialized_network(network.definition, config)
    if monitor.stopped_by is not None:
        raise monitor.stopped_by
    if serialised is None:
        raise _build_failed(network, ranges, settings)
    on_progress(1.0)
    measured = config.get_timing_cache() if has_timing_cache else None
    tactics = None if measured is None else measured.serialize()
    return serialised, b"" if tactics is None else bytes(tactics)


def _shape(tensor: Any) -> Shape:
    return tuple(
        size if size >= 0 else tensor.get_dimension_name(axis) or f"{tensor.name}.{axis}"
        for axis, size in enumerate(tensor.shape)
    )


def _configured(network: Network, settings: BuildSettings) -> Any:
    trt = network.trt
    config = network.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # The engine is given the memory that its present shapes need, not that of the largest.
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if settings.workspace_gib is not None:
        _limit_workspace(trt, config, settings.workspace_gib)
    if settings.opt_level is not None:
        config.builder_optimization_level = settings.opt_level
    if hasattr(trt, "ComputeCapability"):
        target = settings.compute_capability
        config.num_compute_capabilities = 1
        config.set_compute_capability(
            getattr(trt.ComputeCapability, "CURRENT" if target is None else f"SM{target}"), 0
        )
        # TensorRT-RTX can be captured in a CUDA graph only where it allocates nothing itself.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    return config


def _set_timing_cache(config: Any, stored: bytes) -> bool:
    """Give a build the measurements of an earlier one, and tell whether TensorRT takes them."""
    cache = config.create_timing_cache(stored)
    return cache is not None and bool(config.set_timing_cache(cache, False))


def _limit_workspace(trt: Any, config: Any, gib: float) -> None:
    pool, n_bytes = trt.MemoryPoolType.WORKSPACE, int(gib * GIB)
    config.set_memory_pool_limit(pool, n_bytes)
    if config.get_memory_pool_limit(pool) != n_bytes:  # it returns nothing where it does not take it
        raise InputError(
            f"--workspace is {gib:g} GiB, which TensorRT does not take: give less, or leave it out"
        )


def _build_failed(network: Network, ranges: Mapping[str, Range], settings: BuildSettings) -> InputError:
    """Return the error of a build that failed, with the option to change where TensorRT's words tell."""
    reason = take_errors(network.trt)
    if settings.workspace_gib is not None and "workspace" in reason.lower():
        return InputError(
            f"{network.path}: --workspace is {settings.workspace_gib:g} GiB, too little for any kernel of "
            "one of its layers: give more, or leave it out"
        )
    if any(word in reason for word in TOO_WIDE):
        used = {size for shape in network.inputs.values() for size in shape}
        greatest = ", ".join(f"{name} {each.maximum}" for name, each in ranges.items() if name in used)
        return InputError(
            f"{network.path}: the greatest sizes need more memory than TensorRT can have ({greatest}): "
            "narrow --batch, --coils, --size or --lines"
        )
    return InputError(f"{network.path}: TensorRT cannot build it: {reason}")


def _profile(network: Network, ranges: Mapping[str, Range]) -> Any:
    names = {size for shape in network.inputs.values() for size in shape if isinstance(size, str)}
    if names - ranges.keys():
        raise InputError(
            f"{network.path}: free dimensions {sorted(names - ranges.keys())} are unknown, expected some of "
            f"{sorted(ranges)}: export the model again"
        )
    profile = network.builder.create_optimization_profile()
    for name, shape in network.inputs.items():
        ends = [
            tuple(size if isinstance(size, int) else getattr(ranges[size], end) for size in shape)
            for end in ("minimum", "optimum", "maximum")
        ]
        profile.set_shape(name, *ends)
    return profile


def _make_monitor(trt: Any, on_progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Follows the phases that are running, the outer first, with how many of their steps are done."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[int, int]] = {}
            self.reached = 0.0
            self.stopped_by: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, n_steps: int) -> None:
            self.phases[phase] = (max(n_steps, 1), 0)

        def step_complete(self, phase: str, step: int) -> bool:
            n_steps, _ = self.phases.get(phase, (1, 0))
            self.phases[phase] = (n_steps, min(step + 1, n_steps))
            try:
                self.reached = max(self.reached, _fraction(list(self.phases.values())))
                on_progress(self.reached)
            except BaseException as error:  # Ctrl-C among them, which TensorRT would print and forget
                self.stopped_by = error
            return self.stopped_by is None

        def phase_finish(self, phase: str) -> None:
            self.phases.pop(phase, None)

    return Monitor()


def _fraction(nested: list[tuple[int, int]]) -> float:
    """Return how much is done, where each phase is a step of the one before it."""
    done, share = 0.0, 1.0
    for n_steps, n_done in nested:
        share /= n_steps
        done += n_done * share
    return min(done, 1.0)
