"""How much a command says on stderr: -q, as usual, and -v."""

import json

import pytest
import typer

from sbim_deploy import __version__
from sbim_deploy.cli.app import app
from sbim_deploy.cli.output import describe_engine
from sbim_deploy.errors import BackendMissingError
from sbim_deploy.models import backends
from sbim_deploy.models.folder import load_model

FAST = ("--steps", 1, "--backend", "onnxruntime")


def recon(cli, scan, folder, *options):
    done = cli("recon", scan, "-o", folder / "out.h5", *FAST, *options)
    assert done.code == 0, done.err
    return done.err.splitlines()


def test_every_command_that_says_something_takes_both(cli):
    for name, command in typer.main.get_command(app).commands.items():
        taken = {option for param in command.params for option in param.opts}
        assert ({"-q", "--quiet", "-v", "--verbose"} <= taken) == (name != "plan"), name


def test_quiet_leaves_the_warnings_that_an_image_may_be_wrong(cli, simulated, tmp_path):
    lines = recon(cli, simulated, tmp_path, "-q")
    usual = recon(cli, simulated, tmp_path, "--force")
    assert lines == [line for line in usual if line.startswith("warning: ")]
    assert lines
    assert len(usual) > len(lines) + 1


def test_quiet_leaves_the_error_and_what_is_printed_on_stdout(cli, simulated, tmp_path):
    recon(cli, simulated, tmp_path)
    again = cli("recon", simulated, "-o", tmp_path / "out.h5", *FAST, "-q")
    assert again.err == f"{again.error_line}\n"
    scores = cli("evaluate", tmp_path / "out.h5", "--reference", simulated, "-q", "--json")
    assert json.loads(scores.out)["slices"]
    assert scores.err == ""


def test_the_engine_is_named_and_verbose_says_why_it_is_that_one(cli, simulated, tmp_path):
    (usual,) = [line for line in recon(cli, simulated, tmp_path) if line.startswith("engine: ")]
    assert "(" not in usual
    lines = recon(cli, simulated, tmp_path, "--force", "-v")
    assert f"{usual} (asked for)" in lines
    assert lines[0].startswith(f"sbim-deploy {__version__}, Python 3.")
    assert any(line.startswith("preparation ") for line in lines)


def test_a_better_engine_that_is_here_and_fails_is_told_without_being_asked(monkeypatch):
    def broken(*_):
        raise BackendMissingError("openvino: cannot be loaded")

    monkeypatch.setattr(backends, "BEST_FIRST", ["openvino", "onnxruntime"])
    monkeypatch.setattr(backends, "missing_reason", lambda *_: None)
    monkeypatch.setattr(backends, "OpenVinoEngine", broken)
    engine = backends.open_engine(load_model("demo"), "score")
    assert describe_engine(engine.description).endswith(", since openvino: openvino: cannot be loaded")


def test_verbose_says_what_an_error_came_from(cli, tmp_path):
    (tmp_path / "k.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    done = cli("info", tmp_path / "k.h5", "-v")
    assert done.code == 2
    assert "because of " in done.err
    assert "because of " not in cli("info", tmp_path / "k.h5").err


def test_both_at_once_are_refused(cli):
    done = cli("info", "demo", "-qv")
    assert done.code == 2
    assert "--quiet and --verbose are both given" in done.error_line


@pytest.mark.parametrize("option", ["-q", "-v"])
def test_a_command_says_as_much_as_usual_after_another_one(cli, simulated, tmp_path, option):
    recon(cli, simulated, tmp_path, option)
    assert any(line.startswith("engine: ") for line in recon(cli, simulated, tmp_path, "--force"))


def test_the_engine_s_line_says_how_many_calls_run_side_by_side():
    engine = {"backend": "openvino", "version": "1", "chosen": "asked for"}
    assert describe_engine({**engine, "streams": "1"}) == "engine: openvino 1"
    assert describe_engine({**engine, "streams": "4"}) == "engine: openvino 1, 4 calls side by side"
