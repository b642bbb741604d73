"""Plans in files: what ``plan --json`` prints runs again, and what is no plan is refused by name."""

import json

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import DEMO_FOLDER, read_manifest, sampling_prior
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.plan_file import read_plan
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from sbim_deploy.samplers.plan import plan_as_dict

PRIOR = sampling_prior(read_manifest(DEMO_FOLDER))
CHOICES = [
    SamplerChoice("dds", steps=3),
    SamplerChoice("dds", steps=2, start="l1-wavelet"),
    SamplerChoice("daps", steps=2),
    SamplerChoice("sbim-ld", steps=2, corrector_steps=2),
    SamplerChoice("langevin", steps=3, guidance="likelihood"),
]


def write(tmp_path, document):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.name)
def test_a_plan_comes_back_whole(tmp_path, choice):
    plan = make_plan(choice, PRIOR)
    assert read_plan(write(tmp_path, plan_as_dict(plan))) == (plan, 1)
    assert read_plan(write(tmp_path, {**plan_as_dict(plan), "samples": 2})) == (plan, 2)


def test_recon_runs_a_printed_plan_as_the_sampler_itself(cli, simulated, tmp_path):
    printed = cli("plan", "--sampler", "dds", "--steps", "3", "--json")
    (tmp_path / "mine.json").write_text(printed.out)
    cli("recon", simulated, "-o", tmp_path / "a.h5", "--steps", "3", "--slices", "0:1")
    done = cli(
        *("recon", simulated, "-o", tmp_path / "b.h5", "--plan", tmp_path / "mine.json"),
        *("--slices", "0:1"),
    )
    assert done.code == 0
    with open_result(tmp_path / "a.h5") as a, open_result(tmp_path / "b.h5") as b:
        np.testing.assert_array_equal(a.read_image(0), b.read_image(0))
        assert a.provenance.plan == b.provenance.plan
    refused = cli("recon", simulated, "-o", tmp_path / "c.h5", "--plan", "mine.json", "--steps", "3")
    assert (
        refused.error_line
        == "sbim-deploy: error: --plan mine.json and --steps are both given: a plan is whole, give one"
    )


def plan_with(change):
    document = plan_as_dict(make_plan(SamplerChoice("dds", steps=2), PRIOR))
    change(document)
    return document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("rows"), "rows"),
        (lambda d: d.update(rows=[]), "rows has 0 steps, expected 1 to 100000"),
        (lambda d: d["rows"][0].update(sigma="high"), "sigma"),
        (lambda d: d["rows"][1].update(sigma=0), r"rows\[1\].sigma is 0: expected a number above 0"),
        (lambda d: d["rows"][0].update(n_cg=2.5), r"rows\[0\].n_cg is 2.5: expected a whole number"),
        (lambda d: d["rows"][1].pop("gamma"), r"rows\[1\] has sigma, .*: expected .*gamma"),
        (lambda d: d["rows"][0].update(step_size=1), r"rows\[0\] has .*step_size: expected sigma, step_size"),
        (lambda d: d["start"].update(of="nothing"), "nothing"),
        (lambda d: d.update(samples=0), "samples is 0"),
        (lambda d: d.update(steps=3), "steps"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(tmp_path, change, message):
    path = write(tmp_path, plan_with(change))
    with pytest.raises(InputError, match=message) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read_plan(tmp_path / "plan.json")
