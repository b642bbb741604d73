"""Brings a model to the workers of a study, which know it by the hash of its content.

A worker takes it from its path where that holds the same model, and otherwise fetches its bytes into a cache.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.models.folder import MANIFEST_NAME, Model, load_model, model_folder

if TYPE_CHECKING:
    from distributed import Client, Future

PIECE_BYTES = 32 * 1024**2
FETCH_TIMEOUT_S = 600


class ModelAbsentError(Exception):
    """A worker does not have the model that it was asked for, and could not fetch it."""


@dataclass(frozen=True)
class ModelReference:
    """Names a model by where the client has it and by its ``key``, the SHA-256 of its manifest.

    The manifest holds the hashes of all files.
    """

    path: str
    key: str


def refer_to(model: str | Path) -> ModelReference:
    """Return the reference to a model of this machine; ``demo`` ships with the package, here and there.

    Raises:
        InputError: it has no manifest.
    """
    folder = model_folder(model)
    path = str(model) if folder != Path(model) else os.path.abspath(folder)
    return ModelReference(path, file_sha256(folder / MANIFEST_NAME))


def give_to_cluster(client: Client, model: Model, reference: ModelReference) -> None:
    """Put the bytes of a model's files into the cluster, where a worker finds them by the model's key.

    :func:`take_from_cluster` takes them away.
    """
    pieces: dict[str, list[Future]] = {}
    for name in (MANIFEST_NAME, *model.manifest.files):
        with (model.folder / name).open("rb") as file:
            # The keys are new each time: what was given before may have died with the worker that held it.
            pieces[name] = [client.scatter(piece, hash=False) for piece in _pieces(file)]
    client.publish_dataset(pieces, name=_dataset_name(reference), override=True)


def take_from_cluster(client: Client, reference: ModelReference) -> None:
    """Let the cluster forget a model that was given."""
    client.unpublish_dataset(_dataset_name(reference))


def find_model(reference: ModelReference) -> Model:
    """Return the model on a worker: under its path, from this machine's cache, or fetched into the cache.

    Every file is compared with its hash before it is used.

    Raises:
        ModelAbsentError: it is neither here nor in the cluster.
        InputError: the cache cannot be written.
    """
    cached = cache_folder() / reference.key
    for folder in (reference.path, cached):
        if (model := _load_if_same(folder, reference.key)) is not None:
            return model
    _fetch(reference, cached)
    model = _load_if_same(cached, reference.key)
    if model is None:
        raise ModelAbsentError(f"the model arrived damaged in {cached}")
    return model


def cache_folder() -> Path:
    """Return where fetched models are kept: in XDG_CACHE_HOME, or in .cache of the home folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sbim-deploy" / "models"


def _load_if_same(name: str | Path, key: str) -> Model | None:
    try:
        if file_sha256(model_folder(name) / MANIFEST_NAME) != key:
            return None
        return load_model(name)
    except SbimDeployError:
        return None  # it is missing or damaged here; the cluster has another copy


def _fetch(reference: ModelReference, target: Path) -> None:
    try:
        from distributed import get_client
    except ModuleNotFoundError as error:
        raise ModelAbsentError(f"there is no model {reference.key[:12]} at {reference.path}") from error
    client = get_client()
    pieces = client.get_dataset(_dataset_name(reference), default=None)
    if pieces is None:
        raise ModelAbsentError(f"there is no model {reference.key[:12]} at {reference.path}")
    temporary = target.with_name(f".{secrets.token_hex(4)}.{reference.key}")
    try:
        temporary.mkdir(parents=True)
        for name, futures in pieces.items():
            _fetch_file(temporary / name, futures)
        if _load_if_same(temporary, reference.key) is None:
            raise ModelAbsentError("the model arrived damaged")
        _put_in_place(temporary, target, reference.key)
    except OSError as error:
        raise InputError(
            f"{target}: the model cannot be kept ({error.strerror}); let XDG_CACHE_HOME of the workers name "
            "a folder that they can write, or put the model where they can read it"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch_file(path: Path, futures: Sequence[Future]) -> None:
    with path.open("wb") as file:
        for future in futures:
            try:
                piece = future.result(timeout=FETCH_TIMEOUT_S)
            except Exception as error:  # Dask has many ways to say that the holder is gone
                raise ModelAbsentError(f"the model is lost on its way ({type(error).__name__})") from error
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _dataset_name(reference: ModelReference) -> str:
    return f"sbim-deploy model {reference.key}"


def _put_in_place(temporary: Path, target: Path, key: str) -> None:
    """Rename a whole folder; another process may have been faster, or left a damaged one."""
    if os.path.lexists(target) and _load_if_same(target, key) is None:
        shutil.rmtree(target, ignore_errors=True)
    try:
        temporary.rename(target)
    except OSError:
        if _load_if_same(target, key) is None:
            raise
