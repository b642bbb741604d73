"""Fixtures for every room's tests."""

import os

# Two pools of BLAS threads that spin on two cores are ten times slower than one thread each.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sbim_deploy.cli.app import main
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file

SIMULATED = SimulateSettings(n_slices=4, n_coils=4, size=64, acceleration=2.0)


class CliResult:
    """What a command did: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    @property
    def error_line(self) -> str:
        """The one line of an error; anything else on stderr beside progress fails the test."""
        lines = [line for line in self.err.splitlines() if line.startswith("sbim-deploy: error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CliResult]:
    """Run the program in this process, as its console script does."""

    def run(*arguments: object) -> CliResult:
        monkeypatch.setattr(sys, "argv", ["sbim-deploy", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return CliResult(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated scan of four small slices; not to be changed."""
    path = tmp_path_factory.mktemp("simulated") / "kspace.h5"
    simulate_file(path, SIMULATED)
    return path
