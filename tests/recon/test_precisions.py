"""The precision that an engine computes in decides how far it may be from PyTorch."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bfloat16_processor import needs_bfloat16
from sbim_deploy.engines import openvino
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import Model, describe_file, load_model, model_digest
from sbim_deploy.recon import parity

MODEL = load_model("demo")


@pytest.mark.parametrize(
    ("backend", "passes"),
    [("onnxruntime-cuda", False), ("onnxruntime-cuda-tf32", True), ("openvino-bf16", True)],
)
def test_an_error_of_one_in_a_thousand_passes_only_where_less_than_fp32_was_asked_for(
    monkeypatch, backend, passes
):
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


@needs_bfloat16
def test_in_bfloat16_a_step_is_the_numpy_loop_s_in_fp32_and_a_whole_plan_is_within_rounding(monkeypatch):
    monkeypatch.setattr(parity, "fused_kinds", lambda _: ["proximal-2d"])
    results = {each.name: each for each in parity.check_model(MODEL, "openvino-bf16")}
    assert all(each.passed for each in results.values()), results
    steps = [each for name, each in results.items() if name.startswith("step-")]
    assert [each.tolerance for each in steps] == pytest.approx([1e-5] * 3)
    # The network was rounded, so that the data consistency alone is compared in them.
    assert all(each.relative_l2 > 1e-3 for name, each in results.items() if name.startswith("score"))
    assert all(each.relative_l2 > 1e-3 for name, each in results.items() if name.startswith("reconstruct"))


@needs_bfloat16
def test_a_data_consistency_in_bfloat16_fails(monkeypatch):
    """As the plugin would compute it, were the whole model left to its own setting."""
    from openvino import properties

    settings = openvino._settings
    monkeypatch.setattr(
        openvino,
        "_settings",
        lambda *given: {
            **settings(*given),
            properties.hint.execution_mode: properties.hint.ExecutionMode.PERFORMANCE,
            properties.hint.inference_precision: "bf16",
        },
    )
    monkeypatch.setattr(parity, "fused_kinds", lambda _: ["proximal"])
    results = parity.check_model(MODEL, "openvino-bf16")
    assert not any(each.passed for each in results if each.name.startswith("step-"))


@pytest.fixture
def damaged(tmp_path) -> Model:
    """The demo with one kernel of its last stages gone, and a manifest that says nothing of it."""
    from openvino import Core

    folder = tmp_path / "damaged"
    shutil.copytree(MODEL.folder, folder)
    weights = np.fromfile(folder / "weights.bin", np.float32)
    kernel = next(
        node.get_data()
        for node in Core().read_model(folder / "score.onnx").get_ops()
        if node.get_friendly_name() == "refine4.msf.convs.1.weight"
    )
    (start,) = (i for i in np.flatnonzero(weights == kernel.flat[0]) if weights[i + 1] == kernel.flat[1])
    weights[start : start + kernel.size] = 0
    weights.tofile(folder / "weights.bin")
    files = {**MODEL.manifest.files, "weights.bin": describe_file(folder / "weights.bin")}
    manifest = replace(MODEL.manifest, files=files)
    return Model(folder, manifest, model_digest(manifest))


@needs_bfloat16
def test_a_damaged_model_fails_in_bfloat16_too(monkeypatch, damaged):
    monkeypatch.setattr(parity, "fused_kinds", lambda _: [])
    assert all(each.passed for each in parity.check_model(MODEL, "openvino-bf16"))
    results = parity.check_model(damaged, "openvino-bf16")
    assert [each.passed for each in results] == [True, False, False]
    # By the limits of half precision in general it would have passed.
    assert all(
        each.relative_l2 < parity.tolerance(s, "bfloat16")
        for each, s in zip(results, (50, 0.7, 0.01), strict=True)
    )
    image, _ = parity.check_image(MODEL, "openvino-bf16", "score")
    assert image.passed
    assert image.tolerance < 0.01
