import numpy as np
import pytest

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
