import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sbim_deploy.errors import BackendMissingError
from sbim_deploy.export.eager import EAGERLY, ON_GPU, EagerEngine, Way, fastest, measure_eager
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.runs.bench import Case
from sbim_deploy.samplers.choice import SamplerChoice


def test_it_has_the_models_size_and_an_engines_interface():
    engine = EagerEngine(load_model("demo"))
    inputs = {"x": np.ones((2, 2, 16, 24), np.float32), "sigma": np.ones(2, np.float32)}
    assert engine.run(inputs)["score"].shape == (2, 2, 16, 24)
    with pytest.raises(NotImplementedError):
        engine.recur("x", "score", inputs)


def test_it_is_measured_like_an_engine(monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    measured = measure_eager(DEMO_FOLDER, Case((32, 32), 2, SamplerChoice(steps=1)))
    assert measured.backend == "pytorch-eager"
    assert measured.step_ms is None
    assert measured.recon_engine_s + measured.outside_ms / 1000 == pytest.approx(measured.recon_s)


def test_a_network_that_is_not_built_here_is_left_out_with_a_reason():
    model = load_model("demo")
    other = replace(model, manifest=replace(model.manifest, architecture="UNet2DModel"))
    with pytest.raises(BackendMissingError, match="UNet2DModel is not built here"):
        EagerEngine(other)


def test_the_fastest_way_is_the_baseline_and_one_that_fails_is_none():
    class Timed:
        def __init__(self, way):
            self.way = way

        def run(self, inputs):
            if self.way.graph:
                raise RuntimeError("no CUDA graph here")
            time.sleep(0.001 if self.way.compiled else 0.02)

    slow, failing, fast = Way("slow"), Way("failing", graph=True), Way("fast", compiled=True)
    case = Case((32, 24), 2)
    assert fastest((slow, failing, fast), Timed, case, 2) == fast
    with pytest.raises(BackendMissingError, match="in no way on this GPU: failing: no CUDA graph here"):
        fastest((failing,), Timed, case, 2)


def test_the_ways_compute_the_same_score_but_for_their_precision():
    model = load_model("demo")
    inputs = {
        "x": np.random.default_rng(0).standard_normal((1, 2, 16, 16), dtype=np.float32),
        "sigma": np.ones(1, np.float32),
    }
    scores = []
    for way in (EAGERLY, Way("FP16 channels-last", torch.float16), Way("BF16", torch.bfloat16)):
        torch.manual_seed(0)
        scores.append(EagerEngine(model, way).run(inputs)["score"])
    for score, limit in zip(scores[1:], (5e-3, 4e-2), strict=True):
        assert 0 < np.linalg.norm(score - scores[0]) <= limit * np.linalg.norm(scores[0])


def test_no_way_computes_in_tf32_and_one_is_plain_fp32():
    assert ON_GPU[0] == EAGERLY
    assert {(way.dtype, way.graph or way.compiled) for way in ON_GPU} >= {
        (torch.float32, True),
        (torch.float16, True),
        (torch.bfloat16, True),
    }
