"""YAML mappings in, without code and without surprises in size."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from sbim_deploy.errors import BackendMissingError, InputError

MAX_BYTES = 1 << 20


def read_yaml_mapping(path: Path, extra: str) -> dict[str, Any]:
    """Read a YAML file whose document is a mapping with text keys.

    Args:
        path: the file.
        extra: the extra of this package that installs PyYAML, for the message where it is missing.

    Raises:
        BackendMissingError: PyYAML is not installed.
        InputError: the file is missing, too large, no YAML, or no mapping.
    """
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise BackendMissingError(
            f'{path}: reading it needs PyYAML, which is not installed: pip install "sbim-deploy[{extra}]"'
        ) from error
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES} bytes, expected a short YAML file")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(f"{path}: got {type(document).__name__}, expected a mapping of names to values")
    return document
