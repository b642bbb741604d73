from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import BackendMissingError
from sbim_deploy.export.eager import EagerEngine, measure_eager
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
