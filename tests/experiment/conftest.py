"""The tiny experiment's file, and its stand-in for BART."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_experiment import TINY, CountedPeer

from sbim_deploy.experiment import peers


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountedPeer:
    """Put a peer that is quick and needs nothing in the place of BART's L1-wavelets."""
    peer = CountedPeer()
    monkeypatch.setitem(peers.PEERS, "bart-l1", peer.as_peer())
    return peer


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny experiment's YAML with some keys changed; None leaves one out."""

    import yaml

    def write(**changes: object) -> Path:
        path = tmp_path / "tiny.yaml"
        document = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(document))
        return path

    return write
