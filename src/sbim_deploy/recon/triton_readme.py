"""What a model repository says of itself to whoever starts a server on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sbim_deploy.recon.model import Model

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

    sbim-deploy recon kspace.h5 -o out.h5 --model MODEL --backend triton --url 127.0.0.1:8001

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
