from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from random_checkpoints import CONFIG, write_random_checkpoint


@pytest.fixture(scope="module")
def two_cg_steps() -> Iterator[None]:
    """Proximal rows of two steps for models and samplers alike: most of an export is tracing all ten."""
    with pytest.MonkeyPatch.context() as patch:
        # Not by a dotted name: tests that block PyTorch leave their parent another package as its attribute.
        for name in ("sbim_deploy.export.model", "sbim_deploy.samplers.choice"):
            patch.setattr(import_module(name), "DDS_N_CG", 2)
        yield


@pytest.fixture(scope="session")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint_100000.pth")
