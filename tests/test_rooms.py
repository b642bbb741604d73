"""Rooms import downward only, and PyTorch stands where it is allowed to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sbim_deploy

PACKAGE = Path(sbim_deploy.__file__).parent
GROUND = {"errors", "records", "plugins", "words"}
FLOOR = {"samplers", "mri", "engines", "io"}
# Each room may import the rooms that stand before it here, unless it is one of the four on the floor.
ORDER = [
    "mrd",
    "models",
    "kspace",
    "results",
    "recon",
    "runs",
    "pages",
    "client",
    "serving",
    "study",
    "experiment",
    "export",
    "training",
    "cli",
]
# Rooms beside each other, which do not know of one another.
APART = {
    "models": {"mrd"},
    "kspace": {"models", "samplers", "engines"},
    "results": {"models", "samplers", "engines"},
    "recon": {"mrd", "kspace", "results"},
    "client": set(ORDER) - {"mrd"},
    "serving": {"client", "runs", "pages", "results"},
    "study": {"client", "serving", "pages"},
    "experiment": {"client", "serving", "study"},
    "export": {"mrd", "kspace", "results", "pages", "client", "serving", "study", "experiment"},
    "training": {"mrd", "kspace", "results", "recon", "client", "serving", "study", "experiment"},
}
BELOW = {
    "errors": set(),
    "records": set(),
    "words": set(),
    "plugins": {"errors"},
    **dict.fromkeys(FLOOR, GROUND),
    **{
        room: (GROUND | FLOOR | set(ORDER[:place])) - APART.get(room, set())
        for place, room in enumerate(ORDER)
    },
}
HEAVY = {"torch", "onnx", "onnxscript", "nilearn", "yaml", "diffusers", "safetensors"}
HEAVY_ROOMS = {"export", "training"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in GROUND)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_the_rooms_below(path):
    room = room_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "sbim_deploy" and parts[1] != "__version__":
            assert parts[1] in BELOW[room] | {room}, f"{room} imports {name}"
        if parts[0] in HEAVY:
            assert room in HEAVY_ROOMS, f"{room} imports {name}"


def test_every_room_is_known():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(BELOW) - GROUND


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
