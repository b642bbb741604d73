import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sbim_deploy.errors import BackendMissingError
from sbim_deploy.export import eager
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


def test_a_graph_computes_with_the_inputs_of_each_call(monkeypatch):
    monkeypatch.setattr(
        eager, "_capture", lambda run: run
    )  # which reads the memory that it was captured with
    model = load_model("demo")
    rng = np.random.default_rng(0)
    engines = []
    for way in (EAGERLY, Way("CUDA graph", graph=True)):
        torch.manual_seed(0)
        engines.append(EagerEngine(model, way))
    for shape in ((1, 2, 16, 16), (1, 2, 16, 16), (2, 2, 16, 24)):
        inputs = {
            "x": rng.standard_normal(shape, dtype=np.float32),
            "sigma": rng.uniform(0.1, 2, shape[0]).astype(np.float32),
        }
        expected, got = (engine.run(inputs)["score"] for engine in engines)
        np.testing.assert_array_equal(got, expected)


def test_half_precision_is_channels_last_and_what_is_to_be_compiled_is(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    model = load_model("demo")
    networks = {way: EagerEngine(model, way)._network for way in ON_GPU}
    assert [any(network is each for each in compiled) for network in networks.values()] == [
        way.compiled for way in ON_GPU
    ]
    for way, network in networks.items():
        weights = [each for each in network.parameters() if each.dim() == 4 and min(each.shape) > 1]
        assert all(
            each.is_contiguous(memory_format=torch.channels_last) == (way.dtype != torch.float32)
            for each in weights
        )


@pytest.fixture
def backends_of_torch():
    """The switches that decide how PyTorch computes on a GPU, which are put back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield matmul, cudnn
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_the_baseline_of_gpus_has_no_tf32_and_the_convolutions_that_cudnn_finds_fastest(
    monkeypatch, backends_of_torch
):
    matmul, cudnn = backends_of_torch
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    cudnn.benchmark = False
    chosen = []
    monkeypatch.setattr(eager, "fastest", lambda ways, *_: chosen.append(ways) or EAGERLY)
    monkeypatch.setattr(eager, "measure", lambda *_: (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark))
    assert eager.measure_fastest_on_gpu(DEMO_FOLDER, Case((32, 24), 2)) == (False, False, True)
    assert chosen == [ON_GPU]


def test_the_ways_are_eager_graphs_in_half_precision_and_compiled_ones():
    assert ON_GPU[0] == EAGERLY
    assert {way.dtype for way in ON_GPU if way.graph} == {torch.float16, torch.bfloat16}
    assert {way.dtype for way in ON_GPU if way.compiled} == {torch.float32, torch.float16}
