import numpy as np
import pytest

from sbim_deploy.engines import engine
from sbim_deploy.engines.engine import TensorSpec, check_inputs

SPECS = {
    "x": TensorSpec("x", np.dtype(np.float32), ("batch", 2, "8*h", "8*w")),
    "sigma": TensorSpec("sigma", np.dtype(np.float32), ("batch",)),
}


def inputs(**changes: np.ndarray) -> dict[str, np.ndarray]:
    x, sigma = np.zeros((3, 2, 16, 8), np.float32), np.ones(3, np.float32)
    return {"x": x, "sigma": sigma, **changes}


def test_inputs_that_fit_pass():
    check_inputs(SPECS, inputs())


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ({"x": inputs()["x"]}, r"missing \['sigma'\], unknown \[\]"),
        (inputs(y=np.zeros(3, np.float32)), r"unknown \['y'\]"),
        (inputs(sigma=np.ones(3)), "'sigma' has dtype float64, expected float32"),
        (
            inputs(x=np.zeros((3, 4, 16, 8), np.float32)),
            r"'x' has shape \(3, 4, 16, 8\), expected \('batch', 2,",
        ),
        (inputs(x=np.zeros((2, 16, 8), np.float32)), r"'x' has shape \(2, 16, 8\)"),
        (inputs(sigma=np.ones(2, np.float32)), "'sigma' has batch = 2, but input 'x' has 3"),
    ],
)
def test_inputs_that_do_not_fit_say_what_was_got_and_expected(got, message):
    with pytest.raises(ValueError, match=message):
        check_inputs(SPECS, got)


def test_cores_are_those_that_the_process_may_run_on_and_a_container_s_quota_bounds_them(
    monkeypatch, tmp_path
):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(engine, "CORES_OF_CONTAINER", quota)
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _process: set(range(6)), raising=False)
    assert engine.available_cores() == 6  # without a container
    for said, cores in [
        ("max 100000", 6),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 6),
        ("", 6),
    ]:
        quota.write_text(f"{said}\n")
        assert engine.available_cores() == cores
