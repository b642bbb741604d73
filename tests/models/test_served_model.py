import os
import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from kserve_server import KServeServer, shared_files
from sbim_deploy.engines import triton_client as triton_server
from sbim_deploy.engines.triton import TritonEngine
from sbim_deploy.errors import (
    BackendMissingError,
    EngineIncompatibleError,
    InputError,
    SamplingError,
    SbimDeployError,
    install_command,
)
from sbim_deploy.models.backends import identity, open_engine, open_served, served_name, tensor_specs
from sbim_deploy.models.folder import load_model
from sbim_deploy.models.triton_config import ServingSettings
from sbim_deploy.models.triton_repository import write_repository
from sbim_deploy.recon.parity import STEP_GRID, step_of, step_problem, step_tensors, whole_problem
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.samplers.choice import SamplerChoice

FEW = SamplerChoice(steps=3)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(load_model("demo"), folder, ServingSettings("cpu", max_batch=4, size=(32, 32), coils=2))
    return folder


@pytest.fixture
def server(repository):
    running = KServeServer(repository)
    yield running
    running.stop()
    assert not shared_files()


@pytest.fixture(params=["shared memory", "messages"])
def way(request, server):
    server.shares_memory = request.param == "shared memory"
    return request.param


@pytest.fixture(scope="module")
def demo():
    return load_model("demo")


def score_inputs(n=2, size=(16, 24)):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, 2, *size), dtype=np.float32)
    return {"x": x, "sigma": np.linspace(0.5, 2, n, dtype=np.float32)}


@pytest.mark.parametrize("graph", ["score", "step", "reconstruct"])
def test_reconstructs_as_the_local_engine_to_the_bit(graph, way, server, demo):
    problems = [whole_problem(), replace(whole_problem(), index=1)]
    served = Reconstructor(demo, FEW, backend=f"triton://{server.url}", graph=graph)
    local = Reconstructor(demo, FEW, backend="onnxruntime", threads=1, graph=graph)
    for got, expected in zip(served(problems), local(problems), strict=True):
        np.testing.assert_array_equal(got.image, expected.image)
    tensors = served.engine.description["tensors"]
    if way == "shared memory":
        assert tensors == "system shared memory"
        assert not any(request.raw_input_contents for request in server.requests)
    else:
        assert tensors.startswith("bytes in gRPC messages, no shared memory: ")
        assert all(request.raw_input_contents for request in server.requests)


@pytest.mark.parametrize("kind", ["guided", "guided-2d", "proximal-2d"])
def test_every_step_graph_runs_as_the_local_one(kind, server, demo):
    inputs = step_tensors(step_of(kind, 0.7, demo.manifest.n_cg), step_problem(kind, 0.7))
    got = open_engine(demo, f"step-{kind}", f"triton://{server.url}").run(inputs)["x_next"]
    expected = open_engine(demo, f"step-{kind}", "onnxruntime", 1).run(inputs)["x_next"]
    assert got.shape == (1, 2, *STEP_GRID)
    np.testing.assert_array_equal(got, expected)


def test_shapes_may_change_between_calls(way, server, demo):
    served, local = (
        open_engine(demo, "score", f"triton://{server.url}"),
        open_engine(demo, "score", "onnxruntime", 1),
    )
    for inputs in (score_inputs(2), score_inputs(1, (32, 8)), score_inputs(2)):
        np.testing.assert_array_equal(served.run(inputs)["score"], local.run(inputs)["score"])


def test_results_are_copies(way, server, demo):
    engine = open_engine(demo, "score", f"triton://{server.url}")
    first = engine.run(score_inputs())["score"]
    kept = first.copy()
    engine.run({**score_inputs(), "sigma": np.full(2, 9, np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_memory_is_unmapped_with_the_engine(server, demo):
    engine = open_engine(demo, "score", f"triton://{server.url}")
    engine.run(score_inputs(1))
    engine.run(score_inputs(2))
    assert len(server.regions) == 1
    assert not shared_files()  # unlinked at once: a process that is killed leaves nothing behind
    del engine
    assert not server.regions


def test_memory_that_is_full_is_said_and_messages_go_instead(server, demo, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    engine = open_engine(demo, "score", f"triton://{server.url}")
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert np.all(np.isfinite(engine.run(score_inputs())["score"]))
    assert "No space left on device" in engine.description["tensors"]
    assert not shared_files()


def test_a_server_elsewhere_gets_messages(server, demo, monkeypatch):
    monkeypatch.setattr(triton_server, "_is_loopback", lambda url: False)
    engine = open_engine(demo, "score", f"triton://{server.url}")
    assert engine.description["tensors"] == "bytes in gRPC messages, the server is elsewhere"
    engine.run(score_inputs())
    assert not server.regions


def test_the_description_says_what_runs_it(server, demo):
    description = open_engine(demo, "score", f"triton://{server.url}").description
    assert description["backend"] == "triton"
    assert description["version"] == "0.test"
    assert description["url"] == server.url
    assert description["model"] == "demo-score"
    assert description["chosen"] == "asked for"


def test_a_batch_that_the_server_does_not_take_is_refused_before_it_is_sent(server, demo):
    engine = open_engine(demo, "score", f"triton://{server.url}")
    with pytest.raises(InputError, match="takes 4 slices at once, got 5"):
        engine.run(score_inputs(5))
    assert not server.requests


def test_inputs_are_checked_here(server, demo):
    engine = open_engine(demo, "score", f"triton://{server.url}")
    with pytest.raises(ValueError, match="dtype float64"):
        engine.run({**score_inputs(), "sigma": np.ones(2)})
    begun = engine.recur("x", "score", score_inputs())
    with pytest.raises(ValueError, match="as the recurrence began"):
        begun.advance({"sigma": np.ones(3, np.float32)})


def test_another_model_of_the_same_name_is_refused(server, demo):
    server.configs["demo-score"].parameters["sbim_deploy.weights_sha256"].string_value = "f" * 64
    with pytest.raises(EngineIncompatibleError, match="weights_sha256 is ffffffffffff, expected") as raised:
        open_engine(demo, "score", f"triton://{server.url}")
    assert raised.value.exit_code == 5


def test_a_model_that_says_nothing_of_itself_is_refused(server, demo):
    server.configs["demo-score"].parameters.clear()
    with pytest.raises(EngineIncompatibleError, match="onnx_sha256 is not said"):
        open_engine(demo, "score", f"triton://{server.url}")


def test_a_model_that_is_not_served_is_named_with_those_that_are(server, demo):
    with pytest.raises(EngineIncompatibleError, match="no model demo-score-trt ready, only demo-reconstruct"):
        open_engine(demo, "score", f"triton-trt://{server.url}")


def test_other_tensors_are_refused(server, demo):
    server.configs["demo-score"].input[1].name = "noise\nlevel"
    with pytest.raises(EngineIncompatibleError, match="inputs") as raised:
        open_engine(demo, "score", f"triton://{server.url}")
    assert "\n" not in str(raised.value)


def test_no_server_is_one_line(repository, demo):
    gone = KServeServer(repository)
    gone.stop()
    with pytest.raises(BackendMissingError, match=f"{gone.url}: no Triton server answers") as raised:
        open_engine(demo, "score", f"triton://{gone.url}")
    assert raised.value.exit_code == 4
    assert "\n" not in str(raised.value)


def test_a_server_that_goes_away_in_the_middle_is_one_line(way, server, demo):
    recurrence = open_engine(demo, "score", f"triton://{server.url}").recur("x", "score", score_inputs())
    recurrence.advance({})
    server.stop()
    with pytest.raises(BackendMissingError, match="no Triton server answers"):
        recurrence.advance({})


def test_a_server_that_takes_too_long_is_not_waited_for(server, demo):
    known = identity(demo.folder, demo.manifest, "score")
    tensors = tensor_specs(demo.manifest, "score")
    engine = TritonEngine(server.url, "demo-score", *tensors, known, timeout_s=0.2)
    server.delay_s = 0.6
    with pytest.raises(BackendMissingError, match=r"did not answer within 0\.2 s"):
        engine.run(score_inputs())


def test_an_output_of_another_shape_is_refused(way, server, demo):
    engine = open_engine(demo, "score", f"triton://{server.url}")
    server.answer = lambda name, array: array[:1]
    if way == "messages":
        with pytest.raises(SbimDeployError, match="output score is FP32"):
            engine.run(score_inputs())
    else:
        with pytest.raises(SbimDeployError):  # the server cannot put it into its place
            engine.run(score_inputs())
    server.answer = lambda name, array: None
    with pytest.raises(SbimDeployError, match="output score is none"):
        engine.run(score_inputs())


def test_what_a_server_left_unwritten_is_no_image(server, demo, monkeypatch):
    monkeypatch.setattr(KServeServer, "_memory", _without_outputs(KServeServer._memory))
    reconstruct = Reconstructor(demo, FEW, backend=f"triton://{server.url}")
    with pytest.raises(SamplingError, match="not finite"):
        reconstruct([whole_problem()])


def _without_outputs(memory):
    def read_only(server, tensor):
        place = memory(server, tensor)
        return bytearray(place) if place and not hasattr(tensor, "shape") else place

    return read_only


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("triton", "needs the server's address: give --server HOST:PORT"),
        ("triton://", "needs the server's address"),
        ("triton://host", "expected HOST:PORT"),
        ("triton://host:70000", "expected HOST:PORT"),
        ("triton://unix:/tmp/socket", "expected HOST:PORT"),
        ("triton://a b:80", "expected HOST:PORT"),
        ("openvino://127.0.0.1:8001", "takes no address"),
        ("tritium://127.0.0.1:8001", "unknown backend"),
    ],
)
def test_addresses_that_are_none_are_refused(backend, message, demo):
    with pytest.raises(InputError, match=message):
        open_engine(demo, "score", backend)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("192.0.2.7:8001", False),
        ("gpu-7.hospital.example:8001", False),
    ],
)
def test_memory_is_shared_on_the_loopback_alone(url, local):
    assert triton_server._is_loopback(url) == local


def test_threads_are_the_servers(server, demo):
    with pytest.raises(InputError, match="threads is 2"):
        open_engine(demo, "score", f"triton://{server.url}", threads=2)


def test_without_the_client_it_says_what_to_install(demo, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    with pytest.raises(BackendMissingError, match=re.escape(install_command("triton"))):
        open_served(demo, "score", "triton", "127.0.0.1:1")


def test_a_name_that_no_folder_may_have_is_made_one_or_refused(demo):
    odd = replace(demo.manifest, name="../knee 3T/v2")
    assert served_name(odd, "score") == "knee-3T-v2-score"
    with pytest.raises(InputError, match="expected a letter or a digit"):
        served_name(replace(demo.manifest, name="../"), "score")


def test_the_command_reconstructs_through_the_server(server, simulated, tmp_path, cli):
    few = ("--steps", 2, "--slices", "0:2", "--backend")
    done = cli(
        "recon", simulated, "-o", tmp_path / "served.h5", *few, "triton", "--server", server.url, "--json"
    )
    assert done.code == 0, done.err
    assert '"tensors": "system shared memory"' in done.out
    assert "engine: triton 0.test" in done.err
    local = cli("recon", simulated, "-o", tmp_path / "local.h5", *few, "onnxruntime", "--threads", 1)
    assert local.code == 0, local.err
    with h5py.File(tmp_path / "served.h5") as got, h5py.File(tmp_path / "local.h5") as expected:
        np.testing.assert_array_equal(got["image"][()], expected["image"][()])


def test_the_command_says_in_one_line_that_the_server_is_gone(server, simulated, tmp_path, cli):
    server.stop()
    out = tmp_path / "out.h5"
    done = cli("recon", simulated, "-o", out, "--backend", "triton", "--server", server.url)
    assert done.code == 4
    assert server.url in done.error_line
    assert not out.exists()


def test_an_address_without_a_server_backend_is_refused(simulated, tmp_path, cli):
    done = cli("recon", simulated, "-o", tmp_path / "out.h5", "--server", "127.0.0.1:8001")
    assert done.code == 2
    assert "only triton and triton-trt" in done.error_line
    assert cli("bench", "demo", "--server", "127.0.0.1:8001").code == 2


def test_the_command_writes_a_repository(tmp_path, cli):
    folder = tmp_path / "models"
    done = cli("triton", "demo", "-o", folder, "--device", "cpu", "--size", "64x48", "--max-batch", 2)
    assert done.code == 0, done.err
    assert "demo-step-proximal" in done.out
    assert "README.md says how to start" in done.err
    again = cli("triton", "demo", "-o", folder)
    assert again.code == 2
    assert "--force" in again.error_line
    assert cli("triton", "demo", "-o", folder, "--force").code == 0
    shutil.rmtree(folder)
