"""Any module becomes a model folder: against the closed-form score of a Gaussian."""

import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sbim_deploy.errors import InputError
from sbim_deploy.export import export_module
from sbim_deploy.export.module import _find_size_multiple
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model

VARIANCE, SCALE = 0.09, 0.5
STEPS = np.sqrt(1 / np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)) - 1)


class Gaussian(nn.Module):
    """What networks of each kind predict of images of N(0, VARIANCE SCALE^2), by a convolution of ones."""

    def __init__(self, predicts):
        super().__init__()
        self.predicts = predicts
        self.same = nn.Conv2d(2, 2, 1, bias=False)
        self.same.weight.data = torch.eye(2)[:, :, None, None]
        self.register_buffer("steps", torch.from_numpy(STEPS).float())

    def forward(self, x, level):
        variance = VARIANCE * SCALE**2
        x = self.same(x)
        if self.predicts in ("score", "denoised"):
            total = variance + level[:, None, None, None] ** 2
            return -x / total if self.predicts == "score" else x * variance / total
        sigma = self.steps[level.long()][:, None, None, None]
        shrink = (1 + sigma**2) ** -0.5
        noise = x * sigma * shrink / (shrink**2 * (variance + sigma**2))
        return noise if self.predicts == "epsilon" else noise / shrink - sigma * x


@pytest.mark.slow
@pytest.mark.parametrize("predicts", ["score", "denoised", "epsilon", "v"])
def test_the_graph_is_the_score_of_what_the_module_predicts_in_the_runtimes_units(tmp_path, predicts):
    sigmas = STEPS if predicts in ("epsilon", "v") else (0.002, 80.0)
    module = Gaussian(predicts).train()
    manifest = export_module(module, predicts, sigmas, image_scale=SCALE, folder=tmp_path / "model")
    assert (manifest.image_scale, manifest.size_multiple, manifest.architecture) == (SCALE, 1, "Gaussian")
    assert module.training
    assert "times 0.5 in the graphs" in manifest.normalisation
    assert manifest.noise_levels.sigma_begin == pytest.approx(max(sigmas) / SCALE)
    sigma = np.array([STEPS[t] / SCALE for t in (20, 400, 900)], np.float32)
    x = np.random.default_rng(0).standard_normal((3, 2, 17, 23), dtype=np.float32)
    got = open_engine(load_model(tmp_path / "model"), "score").run({"x": x, "sigma": sigma})["score"]
    np.testing.assert_allclose(got, -x / (VARIANCE + sigma[:, None, None, None] ** 2), rtol=2e-3)


class Halving(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, x, sigma):
        down = x
        for _ in range(self.times):
            down = nn.functional.avg_pool2d(down, 2)
        return x + nn.functional.interpolate(down, scale_factor=2.0**self.times)


@pytest.mark.parametrize(("times", "expected"), [(0, 1), (1, 2), (3, 8), (5, 32)])
def test_the_size_multiple_is_found(times, expected):
    assert _find_size_multiple(Halving(times), 2, 0.1) == expected


class Untraceable(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x, sigma):
        if self.how == "operator":
            return torch.linalg.svd(x)[0][..., :1] * x
        return x if x.sum() > 1e9 else -x


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("operator", "ONNX has no operator for aten._linalg_svd"),
        ("branch", r"return x if x.sum\(\) > 1e9 else -x \(test_module.py, line \d+\) is no fixed operation"),
    ],
)
def test_what_cannot_be_traced_is_named(tmp_path, capfd, how, named):
    with pytest.raises(InputError, match=f"the network cannot be traced: {named}"):
        export_module(Untraceable(how), "score", (0.01, 10.0), folder=tmp_path / "model", size_multiple=1)
    assert not (tmp_path / "model").exists()
    assert "def forward" not in capfd.readouterr().err


class OfOneInput(nn.Module):
    def forward(self, x):
        return x


class ToTuple(nn.Module):
    def forward(self, x, sigma):
        return (x,)


class ToOneChannel(nn.Module):
    def forward(self, x, sigma):
        return x[:, :1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((OfOneInput(), "score", (0.1, 1)), "takes images of no size.*TypeError"),
        ((ToTuple(), "score", (0.1, 1)), "returns a tuple: expected a tensor"),
        ((ToOneChannel(), "score", (0.1, 1)), r"it returns \(1, 1, \d+, \d+\) for an image of \(1, 2"),
        ((Halving(1), "flow", (0.1, 1)), "predicts is 'flow': expected one of score, denoised, epsilon, v"),
        ((Halving(1), "score", (0.1,)), "sigmas is .*expected noise levels above 0, two of them or more"),
        ((Halving(1), "score", (0, 1)), "expected noise levels above 0"),
        ((Halving(1), "score", "all"), "sigmas is all: expected noise levels"),
        ((Halving(1), "epsilon", (1, 1)), "expected sigma_begin > sigma_end"),
        ((lambda x, s: x, "score", (0.1, 1)), "module is a function: expected a torch.nn.Module"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        export_module(*arguments, folder=tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2.5}, "channels is 2.5, expected a whole number from 1 to 64"),
        ({"channels": "2"}, "channels is '2', expected a whole number"),
        ({"size_multiple": 8.5}, "size_multiple is 8.5, expected a whole number"),
        ({"size_multiple": True}, "size_multiple is True, expected a whole number"),
        ({"image_scale": "0.5"}, "image_scale is '0.5', expected a finite number above 0"),
        ({"size_multiple": 1}, "takes images of no size of multiples of 1: "),
        ({"channels": 1}, "it returns (1, 2, 192, 192) for an image of (1, 1, 192, 192)"),
    ],
)
def test_numbers_that_do_not_fit_the_module_are_refused_before_it_is_traced(
    tmp_path, monkeypatch, options, message
):
    monkeypatch.setattr("sbim_deploy.export.graphs.trace", lambda *_: pytest.fail("traced"))
    module = ToTwoChannels() if options == {"channels": 1} else Halving(1)
    with pytest.raises(InputError, match=re.escape(message)):
        export_module(module, "score", (0.01, 10.0), folder=tmp_path / "model", **options)


class ToTwoChannels(nn.Module):
    def forward(self, x, sigma):
        return torch.cat([x[:, :1], x[:, -1:]], dim=1)


@pytest.mark.parametrize("given", [(0.05, 50.0), (50.0, 1.0, 0.05), np.geomspace(232, 0.0066, 100)])
def test_levels_that_the_module_itself_holds_are_compared(tmp_path, given):
    module = Halving(1)
    module.register_buffer("sigmas", torch.from_numpy(np.geomspace(232, 0.0066, 2311)).float())
    with pytest.raises(
        InputError, match=r"the module's buffer sigmas holds .*, and the argument sigmas says"
    ):
        export_module(module, "score", given, folder=tmp_path / "model")


def test_numbers_of_numpy_and_levels_that_the_module_holds_are_taken(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "sbim_deploy.export.module.export_network", lambda load, *_, **__: made.append(load()[0])
    )
    module = Halving(1)
    module.register_buffer("sigmas", torch.from_numpy(np.geomspace(232, 0.0066, 2311)).float())
    numbers = {"channels": np.int64(2), "image_scale": np.float32(0.5), "size_multiple": np.int32(4)}
    for given in ((0.0066, 232), np.geomspace(0.0066, 232, 2311)):
        export_module(module, "score", given, folder=tmp_path / "model", **numbers)
    assert [(each.image_scale, each.size_multiple) for each in made] == [(0.5, 4)] * 2


class Undefined(nn.Module):
    def forward(self, x, sigma):
        return x / 0


def test_a_module_whose_scores_are_no_numbers_is_refused_before_it_is_traced(tmp_path, monkeypatch):
    monkeypatch.setattr("sbim_deploy.export.graphs.trace", lambda *_: pytest.fail("traced"))
    with pytest.raises(InputError, match="values of its scores are NaN or infinite: check that"):
        export_module(Undefined(), "score", (0.01, 10.0), folder=tmp_path / "model")


@pytest.fixture
def prior(tmp_path, monkeypatch):
    """A file of the user's own on the Python path."""

    def write(text):
        (tmp_path / "own_prior.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "own_prior", raising=False)

    return write


FACTORY = """
import torch

class Own(torch.nn.Module):
    def forward(self, x, sigma):
        return -x / (0.09 + sigma[:, None, None, None] ** 2)

def make():
    return {"module": Own(), "predicts": "score", "sigmas": (80, 0.002)}
"""


@pytest.mark.slow
def test_a_function_on_the_python_path_makes_a_model_that_reconstructs(cli, prior, simulated, tmp_path):
    prior(FACTORY)
    done = cli("export", "--module", "own_prior:make", "-o", tmp_path / "model", "--image-scale", 1)
    assert done.code == 0, done.err
    assert "running own_prior:make, from the Python path" in done.err
    assert load_model(tmp_path / "model").manifest.architecture == "Own"
    done = cli("recon", simulated, "-o", tmp_path / "o.h5", "--model", tmp_path / "model", "--slices", "0:1")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (FACTORY, "own_prior", "module is 'own_prior': expected package.file:function"),
        (FACTORY, "own_prior:build", "own_prior has no build"),
        (FACTORY, "another_prior:make", "no module named another_prior on the Python path"),
        ("1 / 0", "own_prior:make", "importing it failed: ZeroDivisionError: division by zero"),
        ("def make():\n    return 1 / 0", "own_prior:make", "calling it failed: ZeroDivisionError"),
        ("def make():\n    return 3", "own_prior:make", "returned int: expected a mapping"),
        (
            "def make():\n    return {'module': 3}",
            "own_prior:make",
            "returned a mapping of ['module']: expected",
        ),
        ("def make(:", "own_prior:make", "importing it failed: SyntaxError"),
    ],
)
def test_a_function_that_makes_none_is_one_line(cli, prior, tmp_path, text, name, message):
    prior(text)
    done = cli("export", "--module", name, "-o", tmp_path / "model")
    assert done.code == 2
    assert message in done.error_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no network is named: name a checkpoint (.pth, .pt) or a folder of diffusers, or give --module"),
        (("c.pth", "--module", "a:b"), "c.pth and --module a:b are two networks: give one of them"),
        (("--module", "a:b", "--config", "c.yaml"), "leave --config, --ema, --dtype, --opset out"),
    ],
)
def test_a_checkpoint_or_a_module_and_not_both(cli, tmp_path, arguments, message):
    done = cli("export", *arguments, "-o", tmp_path / "model")
    assert done.code == 2
    assert message in done.error_line
