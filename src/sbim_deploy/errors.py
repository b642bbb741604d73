"""The errors that a user can act on, each with the exit code of the command that meets it.

A message is one line: what was wrong, where, what was expected, and the way out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DISTRIBUTION = "sbim-deploy"


class SbimDeployError(Exception):
    """Base of every error that ends a command with one line in place of a traceback."""

    exit_code = 1


class InputError(SbimDeployError):
    """A file, an array or an option is not what it must be."""

    exit_code = 2


class SamplingError(SbimDeployError):
    """A sampler met a non-finite value."""

    exit_code = 1


class CancelledError(SbimDeployError):
    """A reconstruction was ended by the program that asked for it."""

    exit_code = 1


class ParityError(SbimDeployError):
    """A graph or an engine does not compute what its source computes."""

    exit_code = 3


class BackendMissingError(SbimDeployError):
    """The package or the device that a backend needs is not there."""

    exit_code = 4


class DeviceLostError(SbimDeployError):
    """The GPU failed, and this process cannot use it any more."""

    exit_code = 1


class EngineIncompatibleError(SbimDeployError):
    """An engine was built for another model, device or version."""

    exit_code = 5


class ChecksumError(SbimDeployError):
    """A file of a model folder is not the one its manifest names."""

    exit_code = 6


def install_command(*extras: str) -> str:
    """Return the command that installs extras of this package from where the package itself came.

    A clone, whether it is editable or on the Python path, is named by its folder, which is ``.`` where one
    works in it. So is the folder that a copy was installed from, while it is there. A wheel, an sdist and a
    repository are named by their address. An index is what is left, and there the name is enough. pip keeps
    where it found a package in ``direct_url.json`` (PEP 610).
    """
    wanted = f"[{','.join(extras)}]"
    clone = Path(__file__).parents[2]
    if (clone / "pyproject.toml").is_file():
        return f'pip install -e "{_shortest(clone)}{wanted}"'
    origin = _origin()
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        folder = _folder_of(url)
        if (folder / "pyproject.toml").is_file():
            return f'pip install "{_shortest(folder)}{wanted}"'
        return f'pip install ".{wanted}" in a clone of {DISTRIBUTION}'
    if "vcs_info" in origin:
        revision = origin["vcs_info"]
        url = f"{revision['vcs']}+{url}@{revision['commit_id']}"
    return f'pip install "{DISTRIBUTION}{wanted}{f" @ {url}" if url else ""}"'


def _shortest(folder: Path) -> str:
    return "." if folder == Path.cwd() else str(folder)


def _folder_of(url: str) -> Path:
    # Imported where a command has failed anyway, since this module is imported by every other.
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return Path(url2pathname(urlsplit(url).path))


def _origin() -> dict[str, Any]:
    """Return where pip says that this package came from; nothing where it came from an index."""
    from importlib import metadata

    try:
        kept = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        origin = json.loads(kept or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return origin if isinstance(origin, dict) else {}
