"""What a file of weights holds, read without running code in it; or what the file is, where it is none."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.io.foreign import ZIP, describe_foreign, read_head

MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
MAX_SHOWN, MAX_IMPORTS = 3, 20
EXPECTED, INSIDE = "a checkpoint of PyTorch", "the checkpoint"


def read_tensors(path: Path) -> object:
    """Return what ``torch.save`` wrote, or the tensors of a safetensors file by name.

    What would run code when it is loaded is refused; records of ``argparse`` are read, and hold values alone.

    Raises:
        InputError: the file is missing, or holds no weights; with what it is, and the way out.
        BackendMissingError: it is one of safetensors, which is not installed.
    """
    try:
        head = read_head(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if _is_safetensors(head):
        return _read_safetensors(path)
    if what := _foreign(head, path):
        raise InputError(f"{path}: is {what}")
    try:
        with warnings.catch_warnings(), safe_globals([argparse.Namespace]):
            # Of pickle protocols; what cannot be read is an error of its own.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: not a checkpoint of tensors alone, {_code_in(path)}; it is loaded with "
            "weights_only, so that no code in it can run. Where you trust it, save its network.state_dict() "
            "in its own environment, as docs/networks.md shows, and export that"
        ) from error
    except Exception as error:  # whatever the unpickler meets in it
        raise InputError(f"{path}: truncated or not a PyTorch checkpoint: fetch it again") from error


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MAX_SAFETENSORS_HEADER


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f"{path}: {error.name} is not installed: {install_command('export', 'vp')}"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: truncated or no safetensors ({reason}): fetch it again") from error


def _foreign(head: bytes, path: Path) -> str | None:
    """Say what a file is and the way out, where its first bytes tell that it holds no weights."""
    return _foreign_zip(path) if head.startswith(ZIP) else describe_foreign(head, EXPECTED, INSIDE)


def _foreign_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            n_bytes = sum(each.file_size for each in archive.infolist())
        n_stored = path.stat().st_size
    except (OSError, ValueError, zipfile.BadZipFile):
        return None  # of which PyTorch says that it is truncated
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "a TorchScript archive, whose loading would run code: where you trust it, save "
            "torch.jit.load(...).state_dict() as a checkpoint, and export that"
        )
    if any(name.endswith("/data.pkl") for name in names):
        if n_bytes <= n_stored:
            return None
        return (
            f"a checkpoint whose parts claim {n_bytes} bytes, and the file has {n_stored}: PyTorch stores "
            "them as they are, save it again with torch.save"
        )
    held = ", ".join(repr(name[:60]) for name in names[:MAX_SHOWN]) or "nothing"
    return f"a zip archive that is no checkpoint (it holds {held}): unpack it, and name the checkpoint in it"


def _code_in(path: Path) -> str:
    """Say what a pickle would import: a whole network, or other objects."""
    try:
        wanted = sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # it reads zip archives alone
        wanted = sorted(set(islice(_imports(path), MAX_IMPORTS)))
    own = [name for name in wanted if not name.startswith("torch.")] or wanted
    shown = ", ".join(ascii(name[:80])[1:-1] for name in own[:MAX_SHOWN])
    if any(name.startswith("torch.nn.modules.") for name in wanted):
        return f"but a whole pickled network ({shown})"
    return f"but objects of {shown}" if shown else "but a pickle that runs code"


def _imports(path: Path) -> Iterator[str]:
    """Yield what a pickle imports, by reading its instructions and following none."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                    yield ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts = [*texts[-1:], argument]
    except (OSError, ValueError):
        return  # what it told until there is all that is known
