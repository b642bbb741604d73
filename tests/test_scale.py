"""The arithmetic and the simulation of docs/scale.md."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "scale.py"
spec = importlib.util.spec_from_file_location("scale", PATH)
assert spec is not None
assert spec.loader is not None
scale = importlib.util.module_from_spec(spec)
sys.modules["scale"] = scale  # where dataclasses look for the names of their annotations
spec.loader.exec_module(scale)

STUDY = scale.Study(slice_s=0.5, prepare_s=0.1)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["scale.py", *map(str, arguments)])
    scale.main()
    return capsys.readouterr().out


def test_a_slice_has_its_bytes():
    read, written = scale.bytes_a_slice(STUDY)
    assert read == 16 * 640 * 320 * 8
    assert written == pytest.approx(320 * 320 * 17.2)


@pytest.mark.parametrize(
    ("changes", "workers", "binding"),
    [
        ({}, 20, "workers"),
        ({"files_gbs": 1.0}, 400, "files"),
        ({"tasks_s": 5.0, "slices_a_task": 2}, 200, "scheduler"),
    ],
)
def test_far_from_the_knee_the_simulation_is_the_limit(changes, workers, binding):
    study = scale.Study(slice_s=0.5, prepare_s=0.1, **changes)
    limits = scale.limits(study, workers)
    got = scale.simulate(study, workers)
    assert got.binding == binding
    assert min(limits, key=limits.get) == binding
    assert got.slices_s == pytest.approx(limits[binding], rel=0.05)


def test_more_workers_are_never_slower_and_never_above_a_limit():
    rates = [scale.simulate(STUDY, workers).slices_s for workers in (1, 8, 64, 512)]
    assert rates == sorted(rates)
    for workers, rate in zip((1, 8, 64, 512), rates, strict=True):
        assert rate <= 1.05 * min(scale.limits(STUDY, workers).values())


def test_a_link_that_is_shared_gives_each_its_part():
    link = scale.SharedLink(total=10.0, each=6.0)
    link.start(0.0, 12.0, 1)  # alone it has 6 a second
    link.start(1.0, 20.0, 2)  # together 5 each: the first has 6 left
    assert link.next_end() == pytest.approx(2.2)
    assert link.finish(2.2) == 1
    assert link.next_end() == pytest.approx(2.2 + 14 / 6)
    assert link.finish(link.next_end()) == 2
    assert link.moved == pytest.approx(32.0)
    assert link.next_end() == float("inf")


def test_the_cost_is_the_product(monkeypatch, capsys):
    out = run(
        monkeypatch, capsys, "--slice-s", 3.6, "--prepare-s", 0, "--volumes", 10, "--slices", 100,
        "--gpu-price", 3, "--workers", "1",
    )  # fmt: skip
    assert "| slices | 1,000 |" in out
    assert "| hours of computing | 1 |" in out
    assert "| price of these | 3 |" in out


def test_a_slices_time_comes_from_bench_or_is_called_an_estimate(monkeypatch, capsys, tmp_path):
    path = tmp_path / "bench.json"
    rows = [{"backend": "openvino", "recon_s": 0.25}, {"backend": "onnxruntime", "recon_s": 0.5}]
    path.write_text(json.dumps({"backends": rows}))
    out = run(monkeypatch, capsys, "--bench", path, "--backend", "openvino", "--workers", "1")
    assert out.startswith("0.25 s a slice")
    with pytest.raises(SystemExit, match="openvino, onnxruntime"):
        run(monkeypatch, capsys, "--bench", path, "--workers", "1")
    out = run(monkeypatch, capsys, "--roofline", "32,1,16,0.5", "--workers", "1")
    assert "ESTIMATE" in out
    assert "4 s a slice" in out


def test_what_is_no_number_of_anything_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="--slices is -1"):
        run(monkeypatch, capsys, "--slice-s", 1, "--slices", -1)
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys)
