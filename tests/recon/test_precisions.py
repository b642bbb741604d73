"""The precision that an engine computes in decides how far it may be from PyTorch."""

from types import SimpleNamespace

import numpy as np
import pytest

from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model
from sbim_deploy.recon import parity

MODEL = load_model("demo")


@pytest.mark.parametrize(
    ("backend", "passes"), [("onnxruntime-cuda", False), ("onnxruntime-cuda-tf32", True)]
)
def test_an_error_of_one_in_a_thousand_passes_only_where_tf32_was_asked_for(monkeypatch, backend, passes):
    score = open_engine(MODEL, "score", "onnxruntime")

    def rounded(inputs):
        exact = score.run(inputs)["score"]
        noise = np.random.default_rng(0).standard_normal(exact.shape, dtype=np.float32)
        return {"score": exact + np.float32(1e-3) * np.std(exact, axis=(1, 2, 3), keepdims=True) * noise}

    monkeypatch.setattr(
        parity, "open_engine", lambda *_: SimpleNamespace(description={"backend": backend}, run=rounded)
    )
    monkeypatch.setattr(parity, "fused_kinds", lambda _: [])
    results = parity.check_model(MODEL, backend)
    assert [each.passed for each in results] == [passes] * 3
