"""An experiment from its YAML to its page, stopped and continued."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_experiment import TINY, CountedPeer, Page, rows_of, without_seconds

from chromium import CHROMIUM, Chromium
from sbim_deploy.cli.app import main
from sbim_deploy.errors import InputError, install_command
from sbim_deploy.experiment import peers, run
from sbim_deploy.experiment.peers import WEIGHTS, Peer
from sbim_deploy.experiment.settings import read_settings
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice
from sbim_deploy.samplers.choice import SamplerChoice

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
METHODS = ("zero-filled", "bart-l1", "dds", "sbim")


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """The folder of the tiny experiment, not to be changed, and what its peer was given."""
    folder = tmp_path_factory.mktemp("experiment")
    peer = CountedPeer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(peers.PEERS, "bart-l1", peer.as_peer())
        config = folder / "tiny.yaml"
        config.write_text(yaml.safe_dump(TINY))
        patch.setattr(sys, "argv", ["sbim-deploy", "experiment", str(config), "-o", str(folder / "out")])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 0
    return folder / "out", tuple(peer.calls)


@pytest.fixture
def finished(finished_once, counted, tmp_path):
    """A copy of the finished experiment; the stand-in for BART is in its place, and has not been called."""
    return Path(shutil.copytree(finished_once[0], tmp_path / "out"))


def test_there_is_a_row_for_each_slice_acceleration_and_method(finished):
    got = [(row["acceleration"], row["slice"], row["method"]) for row in rows_of(finished)]
    assert got == [(r, index, method) for r in "23" for index in "02" for method in METHODS]


def test_a_row_holds_what_recon_and_evaluate_give(finished):
    mask = line_mask(64, 3)
    scan = simulate_slice(SimulateSettings(n_coils=3, size=64, acceleration=3), mask, 2)
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice("dds", 2), seed=0)
    (result,) = reconstruct([prepare_slice(scan.kspace, 2, mask)])
    expected = score(np.abs(result.image), np.abs(scan.reference))
    (row,) = [
        row
        for row in rows_of(finished)
        if (row["acceleration"], row["slice"], row["method"]) == ("3", "2", "dds")
    ]
    assert float(row["psnr"]) == pytest.approx(expected.psnr, abs=1e-3)
    assert float(row["ssim"]) == pytest.approx(expected.ssim, abs=1e-4)
    assert float(row["nrmse"]) == pytest.approx(expected.nrmse, rel=1e-3)
    assert float(row["residual"]) == pytest.approx(result.residual, rel=1e-3)
    assert float(row["effective_acceleration"]) == pytest.approx(64 / mask.sum(), rel=1e-4)
    assert row["seed"] == "0"


def test_tuning_never_sees_a_scored_slice(finished_once):
    # Three weights on the one tuning slice at two accelerations, then the best on the scored slices.
    finished, calls = finished_once
    tuning, scored = calls[:6], calls[6:]
    assert list(tuning) == [(5, weight) for _ in range(2) for weight in (0.001, 0.01, 0.1)]
    assert {index for index, _ in scored} == {0, 2}
    assert {weight for _, weight in scored} == {0.01}
    choices = json.loads((finished / "tuning.json").read_text())["choices"]
    assert [(each["acceleration"], each["weight"]) for each in choices] == [(2, 0.01), (3, 0.01)]


def test_the_page_needs_nothing_else_and_holds_everything(finished):
    html = (finished / "index.html").read_text()
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert "url(" not in html
    assert "@import" not in html
    assert "A <tiny> experiment & its page" in page.words
    assert "<tiny>" not in html
    for expected in (
        *METHODS,
        "R = 2",
        "R = 3",
        "Research use only",
        "simulated, slice 0",
        "simulated, slice 2",
    ):
        assert expected in page.words
    assert re.search(r"one scale: 0 to [\d.]+ % of the reference's maximum", page.words)
    assert "Chosen for each acceleration by the least mean NRMSE on slices 5," in page.words
    assert "as published" in page.words


def test_the_page_can_be_read_aloud(finished):
    html = (finished / "index.html").read_text()
    assert html.count("<th ") == html.count("<th scope=") + html.count('scope="colgroup"')
    assert "<th>" not in html
    rows = {(row["method"], row["acceleration"]): [] for row in rows_of(finished)}
    for row in rows_of(finished):
        rows[row["method"], row["acceleration"]].append(float(row["ssim"]))
    two, three = (np.mean(rows["dds", acceleration]) for acceleration in "23")
    assert re.search(rf'alt="SSIM: [^"]*dds {two:.4g} at R = 2, {three:.4g} at R = 3[;"]', html)


def test_the_page_says_that_a_plot_is_cut_where_it_is_and_only_there(
    finished, cli, counted, write_config, tmp_path
):
    # Two steps of sbim end far from the truth, with a negative PSNR.
    assert "what is below 0 in PSNR (dB) is cut off" in (finished / "index.html").read_text()
    sound = write_config(methods=TINY["methods"][:1], accelerations=[2])
    done = cli("experiment", sound, "-o", tmp_path / "sound")
    assert done.code == 0, done.err
    assert "cut off" not in (tmp_path / "sound" / "index.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is opened in no browser")
def test_the_page_fits_a_phone_and_a_sheet_of_paper(finished, tmp_path):
    sheet = 1047  # CSS pixels: 277 mm of A4 on its side
    with Chromium(tmp_path / "profile") as browser:
        browser.open(finished / "index.html")
        browser.show_as(500)
        assert min(browser.widths("img.plot")) > 400
        assert browser.evaluate("document.documentElement.scrollWidth") <= 500
        assert min(browser.widths(".strip img")) >= 100
        browser.show_as(sheet, "print")
        # Nothing scrolls on paper: what is wider than its place would be cut.
        cut = "[...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth + 1"
        cut += " && getComputedStyle(e).display != 'inline' && e.clientWidth > 0).map(e => e.outerHTML)"
        assert browser.evaluate(cut) == []
        assert max(browser.widths("table.scores")) <= sheet


def test_a_stopped_experiment_goes_on_to_the_same_results(finished, cli, counted, write_config, tmp_path):
    config, folder = write_config(), tmp_path / "stopped"
    counted.stop_after = 8  # six of tuning, two of scoring
    stopped = cli("experiment", config, "-o", folder)
    assert stopped.code == 130
    assert f"kept 9 results in {folder}" in stopped.err
    assert len(rows_of(folder)) == 9
    with (folder / "results.csv").open("a") as file:
        file.write("equispaced,3,2.4,simulated,0,ba")  # what a kill in the middle of a line leaves
    counted.stop_after = None
    counted.calls.clear()
    done = cli("experiment", config, "-o", folder)
    assert done.code == 0, done.err
    assert "going on: 9 of 16 results done" in done.err
    assert counted.calls == [(0, 0.01), (2, 0.01)]
    assert without_seconds(folder) == without_seconds(finished)
    for name in ("tuning.json", "run.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    images = sorted((folder / "images").iterdir())
    assert [path.name for path in images] == sorted(path.name for path in (finished / "images").iterdir())
    assert all(path.read_bytes() == (finished / "images" / path.name).read_bytes() for path in images)


def test_a_finished_experiment_draws_its_page_anew(finished, cli, counted, write_config):
    rows, page = (finished / "results.csv").read_bytes(), (finished / "index.html").read_bytes()
    (finished / "index.html").unlink()
    assert cli("experiment", write_config(), "-o", finished).code == 0
    assert counted.calls == []
    assert (finished / "results.csv").read_bytes() == rows
    assert (finished / "index.html").read_bytes() == page


def test_a_damaged_image_is_made_again(finished, cli, write_config):
    expected = without_seconds(finished)
    image = finished / "images" / "equispaced-R3-0-0-dds.npy"
    content = image.read_bytes()
    image.write_bytes(content[:100])
    assert cli("experiment", write_config(), "-o", finished).code == 0
    assert image.read_bytes() == content
    assert sorted(without_seconds(finished), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "differs in seed (got 1, expected 0)"),
        ({"tuning_slices": [6]}, "differs in tuning_slices (got [6], expected [5])"),
        (
            {"methods": [{"sampler": "dds", "steps": 3}]},
            "differs in method dds (got {'sampler': 'dds', 'steps': 3",
        ),
    ],
)
def test_another_experiment_is_refused_with_what_differs(finished, cli, write_config, changes, message):
    rows = (finished / "results.csv").read_bytes()
    done = cli("experiment", write_config(**changes), "-o", finished)
    assert done.code == 2
    assert message in done.error_line
    assert "name another folder" in done.error_line
    assert (finished / "results.csv").read_bytes() == rows


def test_an_experiment_can_be_added_to(finished, cli, counted, write_config):
    before, images = without_seconds(finished), sorted(path.name for path in (finished / "images").iterdir())
    methods = [{"sampler": "dds", "steps": 2}, {"sampler": "ddim", "steps": 2}]
    more = write_config(accelerations=[2, 3, 4], peers=["zero-filled"], methods=methods)
    done = cli("experiment", more, "-o", finished)
    assert done.code == 0, done.err
    assert "going on: 8 of 18 results done" in done.err
    assert counted.calls == []
    assert without_seconds(finished)[: len(before)] == before
    assert {row["method"] for row in rows_of(finished)[len(before) :]} == {"dds", "ddim", "zero-filled"}
    page = Page((finished / "index.html").read_text()).words
    assert "bart-l1" not in page
    assert "R = 4" in page
    # What was left out for a time is still there.
    assert cli("experiment", write_config(), "-o", finished).code == 0
    assert without_seconds(finished)[: len(before)] == before
    assert len(rows_of(finished)) == len(before) + 10
    assert set(images) <= {path.name for path in (finished / "images").iterdir()}


def test_the_page_says_what_becomes_of_a_claim(finished, cli, write_config):
    claim = {"says": "Sampling is better", "method": "dds", "against": "zero-filled", "metric": "psnr"}
    done = cli("experiment", write_config(claims=[{**claim, "ahead": [2], "behind": [3]}]), "-o", finished)
    assert done.code == 0, done.err
    words = " ".join(Page((finished / "index.html").read_text()).words.split())
    assert "Claims" in words
    assert "Sampling is better dds against zero-filled, PSNR (dB). At R = 2 it" in words
    assert re.search(r"At R = 2 it appears : \+\d+\.\d\d \[\+\d+\.\d\d, \+\d+\.\d\d\]", words)


def test_a_new_title_is_no_other_experiment(finished, cli, write_config):
    assert cli("experiment", write_config(title="Another title"), "-o", finished).code == 0
    assert "Another title" in (finished / "index.html").read_text()


def test_a_folder_of_something_else_is_refused(cli, write_config, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    done = cli("experiment", write_config(peers=["zero-filled"]), "-o", tmp_path / "mine")
    assert done.code == 2
    assert "holds other files; name another folder" in done.error_line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.csv", "pattern\nequispaced\n"),
        ("results.csv", ""),
        ("tuning.json", '{"choices": [{"pattern": 1}]}'),
        ("run.json", "[]"),
    ],
)
def test_a_damaged_folder_is_an_error_in_one_line(finished, cli, write_config, name, content):
    (finished / name).write_text(content)
    done = cli("experiment", write_config(), "-o", finished)
    assert done.code == 2
    assert name in done.error_line


@pytest.fixture
def no_bart(monkeypatch):
    absent = Peer("absent", peers.PEERS["bart-l1"].solve, WEIGHTS, lambda: None, "apt-get install bart")
    monkeypatch.setitem(peers.PEERS, "bart-l1", absent)


@pytest.mark.usefixtures("no_bart")
def test_a_peer_that_is_missing_is_said(cli, write_config, tmp_path):
    done = cli("experiment", write_config(), "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "bart-l1 is left out, it is not installed: apt-get install bart" in done.err
    assert {row["method"] for row in rows_of(tmp_path / "out")} == set(METHODS) - {"bart-l1"}
    words = " ".join(Page((tmp_path / "out" / "index.html").read_text()).words.split())
    assert "Not installed, and so left out: bart-l1 ." in words


@pytest.mark.usefixtures("no_bart")
def test_a_baseline_that_is_missing_is_an_error(cli, write_config, tmp_path):
    done = cli("experiment", write_config(baseline="bart-l1"), "-o", tmp_path / "out")
    assert done.code == 4
    assert "the baseline bart-l1 is missing" in done.error_line


def test_without_matplotlib_the_command_says_what_to_install(cli, write_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("experiment", write_config(), "-o", tmp_path / "out")
    assert done.code == 4
    assert install_command("experiment") in done.error_line


@pytest.mark.slow
def test_the_quick_experiment_of_the_documentation_finishes(cli, tmp_path):
    done = cli("experiment", EXPERIMENTS / "quick.yaml", "-o", tmp_path / "quick")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "quick")
    n_methods = len({row["method"] for row in rows})
    assert n_methods >= 3
    assert len(rows) == 2 * 3 * n_methods
    quality = {(row["acceleration"], row["slice"], row["method"]): float(row["psnr"]) for row in rows}
    assert all(quality["2", index, "dds"] > quality["2", index, "zero-filled"] + 5 for index in "012")


@pytest.mark.usefixtures("counted")
def test_every_method_runs_on_the_backend_that_the_file_names(write_config, tmp_path, monkeypatch):
    opened = []

    def refused(model, choice, seed, backend, threads, **_):
        opened.append((backend, threads))
        raise InputError("stopped")

    monkeypatch.setattr(run, "Reconstructor", refused)
    for backend, expected in (
        ("openvino-bf16", ("openvino-bf16", 2)),
        ("triton://h:1", ("triton://h:1", None)),
    ):
        path = write_config(backend=backend, threads=2)
        with pytest.raises(InputError, match="stopped"):
            run.run_experiment(read_settings(path), tmp_path / "out", None)
        assert opened.pop() == expected
