import importlib.util
import json
import sys
from dataclasses import replace

import pytest

from bfloat16_processor import needs_bfloat16
from sbim_deploy.errors import EngineIncompatibleError, install_command
from sbim_deploy.models import backends
from sbim_deploy.models.folder import DEMO_FOLDER
from sbim_deploy.runs import bench

FAST = ("bench", "demo", "--size", "32x24", "--coils", 2, "--steps", 1)
has_torch = importlib.util.find_spec("torch") is not None


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Spare every test the start of processes, but the one that asks for them."""
    monkeypatch.setattr(bench, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(bench, "MIN_REPEATS", 1)
    monkeypatch.setattr(bench, "REPEAT_S", 0)
    if has_torch:
        monkeypatch.setattr("torch.set_num_threads", lambda n: None)


def without_repeats(function, *arguments):
    bench.MIN_REPEATS, bench.REPEAT_S = 1, 0
    return function(*arguments)


def test_a_table_on_stdout_and_progress_on_stderr(cli, monkeypatch):
    monkeypatch.undo()  # in processes of their own
    alone = bench.alone
    monkeypatch.setattr(bench, "alone", lambda *arguments: alone(without_repeats, *arguments))
    done = cli(*FAST, "--backend", "onnxruntime")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["backend", "load", "s"]
    assert lines[1].startswith("onnxruntime ")
    assert "a reconstruction is dds with 1 call" in lines[-2]
    assert lines[-1].startswith("cpu ")
    assert "cores" in lines[-1]
    assert "measuring onnxruntime" in done.err
    assert any(line.startswith("pytorch-eager") for line in lines) == has_torch


def test_json_has_the_machine_the_case_and_every_backend(cli):
    done = cli(*FAST, "--backend", "onnxruntime", "--backend", "onnxruntime", "--json")
    report = json.loads(done.out)
    assert report.keys() == {"machine", "case", "score_flops", "backends"}
    assert report["case"]["size"] == [32, 24]
    assert {"cpu", "cores", "python", "numpy", "sbim-deploy"} == report["machine"].keys()
    assert [each["backend"] for each in report["backends"]] == (
        ["onnxruntime"] * 2 + ["pytorch-eager"] * has_torch
    )
    for each in report["backends"]:
        assert {"load_s", "first_call_ms", "score_ms", "step_ms", "recon_s", "peak_mb"} <= each.keys()
        inside = 100 * each["recon_engine_s"] / each["recon_s"]
        assert inside + each["outside_percent"] == pytest.approx(100)
        if report["score_flops"] is not None:
            assert each["gflops"] == pytest.approx(report["score_flops"] / each["score_ms"] / 1e6)
    if has_torch:
        assert report["backends"][-1]["ratio_to_eager"] == 1


@pytest.mark.usefixtures("export_forgotten")
def test_without_torch_and_onnx_the_columns_are_empty_and_it_says_so(cli, monkeypatch):
    for package in ("torch", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
    done = cli(*FAST, "--backend", "onnxruntime")
    assert done.code == 0
    assert done.out.splitlines()[1].split()[-2:] == ["-", "-"]
    assert f"GFLOP/s: {install_command('export')}" in done.out
    assert "no PyTorch beside them" in done.err


@pytest.mark.parametrize("has_cuda", [True, False])
def test_a_backend_on_a_gpu_has_pytorch_on_the_same_gpu_as_its_baseline(cli, monkeypatch, has_cuda):
    eager = pytest.importorskip("sbim_deploy.export.eager", reason="PyTorch is not installed")
    measured = bench.measure_backend(DEMO_FOLDER, "onnxruntime", bench.Case((32, 24), 2))
    asked = []

    def on_gpu(folder, case, device_index):
        asked.append(device_index)
        return replace(measured, backend="pytorch-cuda", version="2 FP16, CUDA graph", score_ms=2.0)

    def backend_on_gpu(folder, name, case, precision):
        asked.append(name)
        return replace(measured, backend="onnxruntime-cuda", score_ms=4.0, gpu_mb=900.0)

    monkeypatch.setattr(bench, "measure_backend", backend_on_gpu)
    monkeypatch.setattr(eager, "has_cuda", lambda: has_cuda)
    monkeypatch.setattr(eager, "measure_fastest_on_gpu", on_gpu)
    done = cli(*FAST, "--backend", "onnxruntime-cuda", "--device", 1, "--json")
    report = json.loads(done.out)["backends"]
    if has_cuda:
        assert asked == ["onnxruntime-cuda://1", 1]
        assert [each["ratio_to_eager"] for each in report] == [0.5, 1]
        assert report[1]["version"].endswith("FP16, CUDA graph")
    else:
        assert report[1]["backend"] == "pytorch-eager"
        assert "the baseline is PyTorch on the CPU: the one that is installed has no CUDA" in done.err
    assert report[0]["gpu_mb"] == 900


def test_backends_that_turn_out_not_to_be_here_are_left_out_with_the_reason(cli, monkeypatch):
    from sbim_deploy.models import backends

    missing = {"trt", "rtx", "openvino"}
    monkeypatch.setattr(
        backends, "missing_reason", lambda model, graph, name: name if name in missing else None
    )
    done = cli(*FAST)
    assert done.code == 0
    assert "left out: onnxruntime" in done.err
    assert "CUDAExecutionProvider" in done.err


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_what_was_measured_is_printed_though_another_backend_is_missing(cli, json_option):
    done = cli(*FAST, "--backend", "onnxruntime", "--backend", "onnxruntime-cuda", *json_option)
    assert done.code == 4
    assert "CUDAExecutionProvider" in done.error_line
    if json_option:
        assert json.loads(done.out)["backends"][0]["backend"] == "onnxruntime"
    else:
        assert done.out.splitlines()[1].startswith("onnxruntime ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("demo", "--backend", "tpu"), 2, "unknown backend 'tpu'"),
        (("demo", "--backend", "trt"), 4, "tensorrt is not installed"),
        (("demo", "--size", "128by128"), 2, "--size is '128by128': expected rows x columns"),
        (("demo", "--size", "100x96"), 2, "takes multiples of 8"),
        (("demo", "--size", "8x8"), 2, "expected 16 to 1024"),
        (("demo", "--coils", 0), 2, "coils is 0"),
        (("demo", "--sampler", "ddpm"), 2, "unknown sampler 'ddpm'"),
        (("demo", "--steps", 0), 2, "steps is 0"),
        (("nowhere",), 2, "nowhere: no such folder"),
    ],
)
def test_bad_input_ends_with_one_line(cli, arguments, code, message):
    done = cli("bench", *arguments)
    assert done.code == code
    assert message in done.error_line


def test_bfloat16_is_measured_beside_fp32_where_the_processor_has_it(cli, monkeypatch):
    measured, opened = bench.measure_backend(DEMO_FOLDER, "onnxruntime", bench.Case((32, 24), 2)), []

    def by_name(_folder, name, _case, precision):
        opened.append((name, precision))
        if name == "openvino-bf16":
            raise EngineIncompatibleError(
                "backend openvino-bf16: an old processor has no instructions for it"
            )
        return replace(measured, backend=name)

    monkeypatch.setattr(bench, "measure_backend", by_name)
    monkeypatch.setattr(
        backends, "missing_reason", lambda _model, _graph, name: None if name.startswith("openvino") else "-"
    )
    done = cli(*FAST, "--json")
    assert done.code == 0
    assert opened == [("openvino-bf16", None), ("openvino", None)]
    assert "left out: backend openvino-bf16: an old processor" in done.err
    assert json.loads(done.out)["backends"][0]["backend"] == "openvino"


@needs_bfloat16
def test_bench_measures_what_recon_takes_with_a_precision_and_says_why(cli):
    done = cli(*FAST, "--precision", "bf16", "--json")
    assert json.loads(done.out)["backends"][0]["backend"] == "openvino-bf16"
    assert "auto: openvino-bf16 (precision bf16 was asked for)" in done.err


def test_bench_refuses_a_precision_that_a_backend_does_not_have_before_it_measures(cli):
    done = cli(*FAST, "--backend", "onnxruntime", "--precision", "bf16")
    assert done.code == 2
    assert "backend onnxruntime computes this model in float32; openvino has bf16" in done.error_line
    assert "measuring" not in done.err
