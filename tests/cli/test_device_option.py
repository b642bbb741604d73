"""``--device`` reaches the engine from every command that runs one on a GPU."""

import pytest

from sbim_deploy.models import backends


@pytest.fixture
def asked(monkeypatch):
    """The names of backends that engines are opened by; none is."""
    names = []

    def opened(model, graph, backend, threads, streams):
        names.append(backend)
        raise backends.EngineIncompatibleError("not opened")

    monkeypatch.setattr(backends, "_open", opened)
    return names


@pytest.mark.parametrize("command", ["recon", "sample", "validate", "serve", "bench"])
def test_the_number_of_the_gpu_reaches_the_engine(cli, simulated, tmp_path, monkeypatch, asked, command):
    from sbim_deploy.runs import bench

    monkeypatch.setattr(bench, "alone", lambda function, *arguments: function(*arguments))
    arguments = {
        "recon": (simulated, "--model", "demo", "-o", tmp_path / "image.h5"),
        "sample": ("demo", "-o", tmp_path / "samples.h5"),
        "validate": ("demo",),
        "serve": ("--port", 0),
        "bench": ("demo", "--size", "32x24", "--coils", 2, "--steps", 1),
    }[command]
    done = cli(command, *arguments, "--backend", "onnxruntime-cuda", "--device", 3)
    assert done.code == 5, done.err
    assert asked == ["onnxruntime-cuda://3"]


def test_a_backend_on_a_cpu_takes_no_number(cli):
    done = cli("validate", "demo", "--backend", "openvino", "--device", 1)
    assert done.code == 2
    assert "--device is 1 with --backend openvino: only auto, trt, rtx" in done.error_line
