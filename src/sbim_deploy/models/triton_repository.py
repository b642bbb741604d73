"""A model repository for a Triton Inference Server, from a model folder: whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy import __version__
from sbim_deploy.engines.tensorrt_builder import Range
from sbim_deploy.errors import ChecksumError, InputError
from sbim_deploy.io.atomic import check_folder_place, check_free_space, replacing_folder
from sbim_deploy.io.documents import format_object
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.locks import owning_file
from sbim_deploy.models.backends import identity, served_name, tensor_specs
from sbim_deploy.models.engine_build import shape_ranges
from sbim_deploy.models.engine_folder import (
    ENGINES,
    EngineRecord,
    graph_hashes,
    read_engine,
    read_records,
)
from sbim_deploy.models.folder import WEIGHTS, Model
from sbim_deploy.models.triton_config import (
    ONES,
    VERSION,
    ServingSettings,
    format_config,
    n_ones,
    onnx_config,
    tensorrt_config,
)

Chosen = Mapping[str, Mapping[Path, EngineRecord]]


def choose_engines(model: Model, graphs: Sequence[str], device: str) -> tuple[Chosen, list[str]]:
    """Return the engines by graph and path, and a line for each that is left out.

    They are of one version of TensorRT, the newest that there is, since a server has one.

    Raises:
        InputError: a record is damaged.
    """
    where = model.folder / ENGINES
    left_out, fitting = [], []
    for graph in graphs:
        left_out += [
            f"{path.name}: Triton loads engines of TensorRT, none of TensorRT-RTX"
            for path in read_records(where, graph, "rtx")
        ]
        known = graph_hashes(model.folder, model.manifest, graph)
        for path, record in read_records(where, graph, "trt").items():
            if (record.onnx_sha256, record.weights_sha256) != known:
                left_out.append(f"{path.name}: was built from another graph or other weights")
            elif device != "gpu":
                left_out.append(f"{path.name}: needs a GPU, and the repository is for the CPU")
            else:
                fitting.append((graph, path, record))
    newest = max((_version(record) for _, _, record in fitting), default=())
    chosen: dict[str, dict[Path, EngineRecord]] = {}
    for graph, path, record in fitting:
        if _version(record) == newest:
            chosen.setdefault(graph, {})[path] = record
        else:
            left_out.append(f"{path.name}: a server has one version of TensorRT, and others are newer")
    return chosen, left_out


def common_shapes(records: Sequence[EngineRecord]) -> dict[str, tuple[int, int, int]]:
    """Return the sizes that all engines of a graph take, by name: the least, the first's best, the greatest.

    Raises:
        InputError: there is none for one of the names.
    """
    common = {}
    for name, (_, best, _) in records[0].shapes.items():
        least = max(record.shapes[name][0] for record in records)
        greatest = min(record.shapes[name][2] for record in records)
        if least > greatest:
            raise InputError(
                f"the engines of {records[0].graph} have no size of {name} in common: build them again with "
                "the same ranges"
            )
        common[name] = least, min(max(best, least), greatest), greatest
    return common


def _version(record: EngineRecord) -> tuple[int, ...]:
    return tuple(int(part) for part in record.backend_version.split(".") if part.isdecimal())


IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"

PAGE = """# {name}: the model {model_name} for a Triton Inference Server

Research use only. Not for diagnosis, nor for any decision about a patient.

Written by sbim-deploy from the model folder with the digest {digest}.

## Start

    docker run --rm{gpus} --ipc=host -p 127.0.0.1:8001:8001 -v "$PWD/{name}:/models:ro" \\
        {image} tritonserver --model-repository=/models

{image_note} A server loads every model, each with its weights, and warms it up before it is ready. To load
only what `recon` takes by default, add `--model-control-mode=explicit --load-model={default}`.

`--ipc=host` lets clients on this host pass images through shared memory; without it they go as bytes in the
messages. Triton asks nobody for a password and encrypts nothing as it is started here: keep the port on
127.0.0.1, or put TLS and a login before it.

## Use

    sbim-deploy recon kspace.h5 -o out.h5 --model MODEL --backend triton --server 127.0.0.1:8001

MODEL is a copy of the model folder. The client compares the hashes of its graph and weights with those in the
served model's parameters, and refuses another model.

## What it holds

| model | graph | runs in | slices at once |
|---|---|---|---|
{rows}

Where slices at once is "free", slices are not the first axis of every tensor: requests are not joined, and
each has as many slices as it brings.{left_out}

`sha256sum -c SHA256SUMS` checks the files. The weights.bin of the models {weights}
"""


@dataclass(frozen=True)
class ServedModel:
    """A model of a repository: its name, its graph, what runs it; 0 where requests are not joined."""

    name: str
    graph: str
    runs_in: str
    max_batch: int


def format_readme(
    model: Model,
    name: str,
    device: str,
    models: Sequence[ServedModel],
    left_out: Sequence[str],
    weights_shared: bool,
) -> str:
    """Return the page of a repository that is called ``name``."""
    rows = [f"| {m.name} | {m.graph} | {m.runs_in} | {m.max_batch or 'free'} |" for m in models]
    tensorrt = next((m.runs_in for m in models if m.runs_in.startswith("TensorRT")), None)
    default = next((m.name for m in models if m.graph == "step-proximal"), models[0].name)
    left = "".join(f"\n- {line}" for line in left_out)
    return PAGE.format(
        name=name,
        model_name=model.manifest.name,
        digest=model.digest,
        gpus=" --gpus all" if device == "gpu" else "",
        image=IMAGE,
        image_note="Or a later release."
        if tensorrt is None
        else f"Take the release whose TensorRT is that of the engines, {tensorrt}: they run in no other.",
        default=default,
        rows="\n".join(rows),
        left_out=f"\n\nLeft out:\n{left}" if left else "",
        weights="are one file with several names: `cp -a` and `rsync -H` keep it one."
        if weights_shared
        else "are copies, since the file system has no hard links.",
    )


RECORD, SUMS, README = "repository.json", "SHA256SUMS", "README.md"
FORMAT_VERSION = 1
KINDS = ("score", "step-", "reconstruct-")
SMALL_FILES = 1024**2


@dataclass(frozen=True)
class WrittenRepository:
    """What a repository holds, what was left out and why, and whether its models share a file of weights."""

    models: Sequence[ServedModel]
    left_out: Sequence[str]
    weights_shared: bool


def write_repository(
    model: Model, folder: Path, settings: ServingSettings, force: bool = False
) -> WrittenRepository:
    """Write the repository of a model's graphs, and of the TensorRT engines that it has.

    An older repository of this name is replaced, with ``force``, once the new one is whole; files in it that
    it does not list are kept. The model's files must have been verified.

    Raises:
        InputError: settings that the model does not take, a folder that may not be replaced, or a full disk.
        BackendMissingError: tritonclient is not installed.
        ChecksumError: an engine's file is not that of its record, or a copy is not the original.
    """
    check_folder_place(folder)
    with owning_file(Path(os.path.realpath(folder))):
        return _write_repository(model, folder, settings, force)


def _write_repository(
    model: Model, folder: Path, settings: ServingSettings, force: bool
) -> WrittenRepository:
    replaced = _check_replaceable(folder, force)
    coils = Range(settings.coils, settings.coils, settings.coils)
    ranges = shape_ranges(model.manifest, coils=coils, size=settings.size)
    files = model.manifest.files
    graphs = sorted(Path(name).stem for name in files if name.startswith(KINDS) and name.endswith(".onnx"))
    if not graphs:
        raise InputError(f"{model.folder}: the model has no graphs: export it again")
    engines, left_out = choose_engines(model, graphs, settings.device)
    with replacing_folder(folder, replaced) as made:
        needed = sum(files[f"{graph}.onnx"].bytes for graph in graphs) + files[WEIGHTS].bytes + SMALL_FILES
        check_free_space(folder.parent, needed)
        writer = _Writer(model, settings, made)
        for graph in graphs:
            writer.add_graph(graph, {name: each.optimum for name, each in ranges.items()})
        for graph, records in engines.items():
            writer.add_engines(graph, records)
        written = WrittenRepository(writer.models, left_out, writer.weights_shared)
        writer.add_papers(folder.name, written)
    return written


def _check_replaceable(folder: Path, force: bool) -> list[str]:
    """Return the files of the older repository, which the new one replaces."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return []
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder}: is there already and is no repository of sbim-deploy: name another one")
    if not force:
        raise InputError(
            f"{folder}: is there already, with what may have been changed in it: name another one, or "
            "replace it with --force"
        )
    listed = (
        (folder / SUMS).read_text(encoding="utf-8", errors="replace") if (folder / SUMS).is_file() else ""
    )
    return [RECORD, SUMS, README, *(line.partition("  ")[2] for line in listed.splitlines())]


@dataclass
class _Writer:
    """Writes the models of a repository one by one and keeps what its papers have to say of them."""

    model: Model
    settings: ServingSettings
    made: Path
    models: list[ServedModel] = field(default_factory=list)
    sums: dict[str, str] = field(default_factory=dict)
    weights: Path | None = None
    weights_shared: bool = True

    def add_graph(self, graph: str, sizes: Mapping[str, int]) -> None:
        """Write a graph for ONNX Runtime; it is warmed up with sizes by their names in the graph."""
        source = self.model.folder / f"{graph}.onnx"
        name = served_name(self.model.manifest, graph)
        inputs, outputs = tensor_specs(self.model.manifest, graph)
        config = onnx_config(name, inputs, outputs, self._parameters(graph), self.settings, sizes)
        version = self._write_config(config)
        onnx_sha256, weights_sha256 = graph_hashes(self.model.folder, self.model.manifest, graph)
        self._copy(source, version / "model.onnx", onnx_sha256)
        self._place_weights(version / WEIGHTS, weights_sha256)
        self.models.append(ServedModel(name, graph, "ONNX Runtime", config.max_batch_size))

    def add_engines(self, graph: str, records: Mapping[Path, EngineRecord]) -> None:
        """Write the TensorRT engines of a graph, one for each compute capability."""
        name = served_name(self.model.manifest, graph, "triton-trt")
        inputs, outputs = tensor_specs(self.model.manifest, graph)
        files = {
            each.compute_capability: f"model-sm{each.compute_capability}.plan" for each in records.values()
        }
        version_of_tensorrt = next(iter(records.values())).backend_version
        config = tensorrt_config(
            name,
            inputs,
            outputs,
            {**self._parameters(graph), "sbim_deploy.tensorrt_version": version_of_tensorrt},
            self.settings,
            common_shapes([*records.values()]),
            files,
        )
        version = self._write_config(config)
        for path, record in records.items():
            target = version / files[record.compute_capability]
            target.write_bytes(read_engine(path, record))
            self._sum(target, record.engine_sha256)
        runs_in = f"TensorRT {version_of_tensorrt}"
        self.models.append(ServedModel(name, graph, runs_in, config.max_batch_size))

    def add_papers(self, name: str, written: WrittenRepository) -> None:
        """Write the page to read, the hashes, and the record that tells the folder from any other."""
        text = format_readme(
            self.model, name, self.settings.device, written.models, written.left_out, written.weights_shared
        )
        (self.made / README).write_text(text, encoding="utf-8")
        lines = [f"{sha256}  {path}\n" for path, sha256 in sorted(self.sums.items())]
        (self.made / SUMS).write_text("".join(lines), encoding="utf-8")
        record = {
            "format_version": FORMAT_VERSION,
            "model": {"name": self.model.manifest.name, "digest": self.model.digest},
            "settings": asdict(self.settings),
            "made_with": {"sbim-deploy": __version__},
            **asdict(written),
        }
        (self.made / RECORD).write_text(format_object(record, indent=2) + "\n", encoding="utf-8")

    def _parameters(self, graph: str) -> dict[str, str]:
        known = identity(self.model.folder, self.model.manifest, graph)
        return {**known, "sbim_deploy.model_digest": self.model.digest, "sbim_deploy.version": __version__}

    def _write_config(self, config: Any) -> Path:
        """Write a model's configuration and what warms it up; return the folder of its version."""
        folder: Path = self.made / config.name
        version, warmup = folder / str(VERSION), folder / "warmup"
        for each in (folder, version, warmup):
            each.mkdir()
        (folder / "config.pbtxt").write_text(format_config(config), encoding="utf-8")
        (warmup / ONES).write_bytes(np.ones(n_ones(config), "<f4").tobytes())
        for path in (folder / "config.pbtxt", warmup / ONES):
            self._sum(path, file_sha256(path))
        return version

    def _place_weights(self, path: Path, sha256: str) -> None:
        """Copy the weights for the first graph and link the others' to them: they are most of the bytes."""
        if self.weights is None:
            self._copy(self.model.folder / WEIGHTS, path, sha256)
            self.weights = path
            return
        if self.weights_shared:
            try:
                os.link(self.weights, path)
                self._sum(path, sha256)
                return
            except OSError:  # a file system without hard links
                self.weights_shared = False
        check_free_space(path.parent, self.weights.stat().st_size)
        self._copy(self.weights, path, sha256)

    def _copy(self, source: Path, target: Path, sha256: str) -> None:
        shutil.copyfile(source, target)
        if file_sha256(target) != sha256:
            raise ChecksumError(f"{source}: its copy has another SHA-256: check the disk, and write again")
        self._sum(target, sha256)

    def _sum(self, path: Path, sha256: str) -> None:
        self.sums[str(path.relative_to(self.made))] = sha256
