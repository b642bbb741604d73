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
from sbim_deploy.engines.onnx_file import read_inputs, read_outputs
from sbim_deploy.engines.tensorrt_builder import Range
from sbim_deploy.errors import ChecksumError, InputError
from sbim_deploy.io.atomic import check_free_space, replacing_folder
from sbim_deploy.io.engine_folder import EngineRecord, read_engine
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.json_object import format_object
from sbim_deploy.recon.engine_build import shape_ranges
from sbim_deploy.recon.engine_files import WEIGHTS, graph_hashes
from sbim_deploy.recon.model import Model
from sbim_deploy.recon.served_model import identity, served_name
from sbim_deploy.recon.triton_config import (
    ONES,
    VERSION,
    ServingSettings,
    format_config,
    n_ones,
    onnx_config,
    tensorrt_config,
)
from sbim_deploy.recon.triton_engines import choose_engines, common_shapes
from sbim_deploy.recon.triton_readme import ServedModel, format_readme

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

    An older repository of this name is replaced, with ``force``, once the new one is whole. The model's files
    must have been verified.

    Raises:
        InputError: settings that the model does not take, a folder that may not be replaced, or a full disk.
        BackendMissingError: tritonclient is not installed.
        ChecksumError: an engine's file is not that of its record, or a copy is not the original.
    """
    _check_replaceable(folder, force)
    coils = Range(settings.coils, settings.coils, settings.coils)
    ranges = shape_ranges(model.manifest, coils=coils, size=settings.size)
    files = model.manifest.files
    graphs = sorted(Path(name).stem for name in files if name.startswith(KINDS) and name.endswith(".onnx"))
    if not graphs:
        raise InputError(f"{model.folder}: the model has no graphs: export it again")
    engines, left_out = choose_engines(model, graphs, settings.device)
    with replacing_folder(folder) as made:
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


def _check_replaceable(folder: Path, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder}: is there already and is no repository of sbim-deploy: name another one")
    if not force:
        raise InputError(
            f"{folder}: is there already, with what may have been changed in it: name another one, or "
            "replace it with --force"
        )


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
        config = onnx_config(
            name, read_inputs(source), read_outputs(source), self._parameters(graph), self.settings, sizes
        )
        version = self._write_config(config)
        onnx_sha256, weights_sha256 = graph_hashes(self.model.folder, self.model.manifest, graph)
        self._copy(source, version / "model.onnx", onnx_sha256)
        self._place_weights(version / WEIGHTS, weights_sha256)
        self.models.append(ServedModel(name, graph, "ONNX Runtime", config.max_batch_size))

    def add_engines(self, graph: str, records: Mapping[Path, EngineRecord]) -> None:
        """Write the TensorRT engines of a graph, one for each compute capability."""
        source = self.model.folder / f"{graph}.onnx"
        name = served_name(self.model.manifest, graph, "triton-trt")
        files = {
            each.compute_capability: f"model-sm{each.compute_capability}.plan" for each in records.values()
        }
        version_of_tensorrt = next(iter(records.values())).backend_version
        config = tensorrt_config(
            name,
            read_inputs(source),
            read_outputs(source),
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
