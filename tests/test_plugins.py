"""What other packages add is known by its name, once it is installed."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sbim_deploy import Sampler, SamplerChoice, load_model, plugins, register_method, register_sampler
from sbim_deploy.errors import InputError
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.samplers.choice import SAMPLERS

EXAMPLE = Path(__file__).parents[1] / "examples" / "extending"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Returns what installs a module, as ``pip install`` would: its entry point beside it."""
    samplers, methods = dict(SAMPLERS), dict(PEERS)
    monkeypatch.syspath_prepend(tmp_path)

    def install(module):
        shutil.copy(module, tmp_path)
        record = tmp_path / "my_reconstruction-0.1.dist-info"
        record.mkdir()
        (record / "METADATA").write_text("Metadata-Version: 2.1\nName: my-reconstruction\nVersion: 0.1\n")
        (record / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmy-reconstruction = {module.stem}\n")
        plugins.load_plugins.cache_clear()

    yield install
    for known, before in ((SAMPLERS, samplers), (PEERS, methods)):
        known.clear()
        known.update(before)
    sys.modules.pop("my_reconstruction", None)
    plugins.load_plugins.cache_clear()


def test_the_example_s_sampler_and_method_run_in_an_experiment(installed, cli, tmp_path):
    installed(EXAMPLE / "my_reconstruction.py")
    done = cli("experiment", EXAMPLE / "compare.yaml", "-o", tmp_path / "compare")
    assert done.code == 0, done.err
    results = (tmp_path / "compare" / "results.csv").read_text()
    assert results.count(",mine,") == results.count(",smoothed,") == results.count(",fast,") == 2
    page = (tmp_path / "compare" / "index.html").read_text()
    assert "the measured data alone, smoothed" in page


def test_a_sampler_of_one_s_own_has_the_general_options(installed):
    installed(EXAMPLE / "my_reconstruction.py")
    plan = load_model("demo", SamplerChoice("cube-root", steps=4, guidance="likelihood")).plan
    assert [step.likelihood_weight for step in plan.steps] == [1.0, 1.0, 1.0, 0.0]
    assert np.cbrt(plan.steps[0].sigma) - np.cbrt(plan.steps[1].sigma) == pytest.approx(
        np.cbrt(plan.steps[1].sigma) - np.cbrt(plan.steps[2].sigma)
    )


def test_an_unknown_name_is_unknown_still(installed, cli):
    installed(EXAMPLE / "my_reconstruction.py")
    refused = cli("plan", "--sampler", "cube")
    assert (refused.code, "cube-root" in refused.error_line) == (2, True)


def test_a_plugin_that_cannot_be_imported_is_named(installed, cli, tmp_path):
    broken = tmp_path / "source" / "my_reconstruction.py"
    broken.parent.mkdir()
    broken.write_text("import nothing_of_this_name\n")
    installed(broken)
    refused = cli("plan", "--sampler", "cube-root")
    assert refused.code == 2
    assert "the plugin my-reconstruction (my_reconstruction) cannot be imported" in refused.error_line
    assert "nothing_of_this_name" in refused.error_line


@pytest.mark.parametrize(
    ("name", "message"),
    [("dds", "there is a sampler 'dds' already"), ("My Sampler", "expected small letters")],
)
def test_a_name_that_is_taken_or_no_name_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        register_sampler(name, Sampler(lambda *_: np.ones(1), lambda *_: None, steps=1))


def test_a_method_s_name_is_checked_too():
    with pytest.raises(InputError, match="there is a method 'zero-filled' already"):
        register_method("zero-filled", PEERS["zero-filled"])
