"""Which of a model's TensorRT engines a Triton server can load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.io.engine_folder import EngineRecord, read_records
from sbim_deploy.recon.engine_files import ENGINES, graph_hashes
from sbim_deploy.recon.model import Model

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
