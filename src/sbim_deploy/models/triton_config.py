"""The configuration of a model on a Triton server, as the protocol-buffer message that it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbim_deploy.engines.engine import TensorSpec
from sbim_deploy.engines.triton import DATATYPES
from sbim_deploy.errors import BackendMissingError, InputError, install_command

Specs = Mapping[str, TensorSpec]

VERSION = 1
KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
ONES = "ones"
"""The file in a model's warmup folder that holds the number of a row, 1: a noise level is never 0."""


@dataclass(frozen=True)
class ServingSettings:
    """How models are served.

    ``device`` is cpu or gpu; ``instances`` of each model run side by side on it. Up to ``max_batch`` slices
    of several requests run together, for which a request waits ``queue_delay_us`` at most. A model is warmed
    up with slices of ``size`` (rows, columns) and ``coils``: the first call of a shape is slow on a GPU.
    """

    device: str = "gpu"
    instances: int = 1
    max_batch: int = 8
    queue_delay_us: int = 1000
    size: tuple[int, int] = (320, 320)
    coils: int = 8

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.device not in KINDS:
            raise InputError(f"device is {self.device!r}: expected one of {', '.join(KINDS)}")
        for name, low, high in (
            ("instances", 1, 64),
            ("max_batch", 1, 1024),
            ("queue_delay_us", 0, 10_000_000),
            ("coils", 1, 256),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"{name.replace('_', '-')} is {getattr(self, name)}: expected {low} to {high}"
                )
        if not all(16 <= n <= 1024 for n in self.size):
            raise InputError(f"size is {self.size[0]}x{self.size[1]}: expected 16 to 1024")


def onnx_config(
    name: str,
    inputs: Specs,
    outputs: Specs,
    parameters: Mapping[str, str],
    settings: ServingSettings,
    warm_up_sizes: Mapping[str, int],
) -> Any:
    """Return the ModelConfig of a graph in ONNX Runtime; ``warm_up_sizes`` are by the free sizes' names."""
    preferred = sorted({max(2, settings.max_batch // 2), settings.max_batch})
    config = _config(name, inputs, outputs, parameters, settings, settings.max_batch, preferred)
    config.backend, config.platform = "onnxruntime", "onnxruntime_onnx"
    config.default_model_filename = "model.onnx"
    # A GPU chooses its kernels for each shape; the CPU would only start later.
    warmed = preferred if config.HasField("dynamic_batching") and settings.device == "gpu" else []
    _warm_up(config, inputs, {**warm_up_sizes, "batch": 1, "rows": 1}, [1, *warmed])
    return config


def tensorrt_config(
    name: str,
    inputs: Specs,
    outputs: Specs,
    parameters: Mapping[str, str],
    settings: ServingSettings,
    shapes: Mapping[str, tuple[int, int, int]],
    files: Mapping[int, str],
) -> Any:
    """Return the ModelConfig of a graph's TensorRT engines.

    ``shapes`` are the least, best and greatest sizes that all of them take, by name, ``files`` the engines'
    files by compute capability, 89 for 8.9.
    """
    least, best, greatest = shapes["batch"]
    # A preferred size of 1 would keep the server from ever waiting for a second request.
    preferred = sorted({best, greatest} - {1})
    config = _config(name, inputs, outputs, parameters, settings, greatest, preferred)
    config.backend, config.platform = "tensorrt", "tensorrt_plan"
    config.default_model_filename = "model.plan"
    for capability, file in sorted(files.items()):
        config.cc_model_filenames[f"{capability // 10}.{capability % 10}"] = file
    sizes = {size: optimum for size, (_, optimum, _) in shapes.items()}
    sizes |= {"batch": least, "rows": shapes.get("rows", (1, 1, 1))[0]}
    _warm_up(config, inputs, sizes, [best])
    return config


def is_batched(specs: Specs) -> bool:
    """Whether the slices are the first axis of every tensor: then requests can be joined along it."""
    return all(spec.shape[:1] == ("batch",) for spec in specs.values())


def n_ones(config: Any) -> int:
    """Return how many numbers the file of ones has to hold for a model's warm-up."""
    samples = [each for each in config.model_warmup[0].inputs.values() if each.input_data_file == ONES]
    return math.prod(samples[0].dims)


def format_config(config: Any) -> str:
    """Return the text of a config.pbtxt."""
    from google.protobuf import text_format

    why = (
        "Slices are the first axis of every tensor, so that requests are joined."
        if config.max_batch_size
        else "max_batch_size is 0: slices are the second axis of the rows' numbers and noise."
    )
    return f"# Written by sbim-deploy triton. {why}\n{text_format.MessageToString(config)}"


def _config(
    name: str,
    inputs: Specs,
    outputs: Specs,
    parameters: Mapping[str, str],
    settings: ServingSettings,
    max_batch: int,
    preferred: list[int],
) -> Any:
    pb = _protobuf()
    batched = is_batched({**inputs, **outputs})
    config = pb.ModelConfig(name=name, max_batch_size=max_batch if batched else 0)
    for spec in inputs.values():
        _describe(config.input.add(), spec, batched)
    for spec in outputs.values():
        _describe(config.output.add(), spec, batched)
    # The parameters name the files of one version: another one beside it would not be these.
    config.version_policy.specific.versions.append(VERSION)
    kind = pb.ModelInstanceGroup.Kind.Value(KINDS[settings.device])
    config.instance_group.add(kind=kind, count=settings.instances)
    if batched and max_batch > 1:
        config.dynamic_batching.preferred_batch_size.extend(preferred)
        config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config


def _describe(tensor: Any, spec: TensorSpec, batched: bool) -> None:
    tensor.name = spec.name
    tensor.data_type = _data_type(spec)
    dims = [size if isinstance(size, int) else -1 for size in spec.shape[batched:]]
    tensor.dims.extend(dims or [1])
    if not dims:
        tensor.reshape.SetInParent()  # the protocol has no tensor (n,): the server makes it from (n, 1)


def _warm_up(config: Any, inputs: Specs, sizes: Mapping[str, int], batches: list[int]) -> None:
    batched = config.max_batch_size > 0
    for batch in batches:
        sample = config.model_warmup.add(name=f"{batch} at once", batch_size=batch if batched else 1)
        for name, spec in inputs.items():
            tensor = sample.inputs[name]
            tensor.data_type = _data_type(spec)
            dims = [size if isinstance(size, int) else sizes[size] for size in spec.shape[batched:]]
            tensor.dims.extend(dims or [1])
            if set(spec.shape) <= {"batch", "rows"}:
                tensor.input_data_file = ONES
            else:
                tensor.zero_data = True


def _data_type(spec: TensorSpec) -> int:
    value: int = _protobuf().DataType.Value(f"TYPE_{DATATYPES[np.dtype(spec.dtype)]}")
    return value


def _protobuf() -> Any:
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise BackendMissingError(
            f"the client of Triton is not installed: {install_command('triton')}"
        ) from error
    return model_config_pb2
