"""Fixtures for every room's tests."""

import os

# Two pools of BLAS threads that spin on two cores are ten times slower than one thread each.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import importlib.util
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

import sbim_deploy
from extras import EXTRAS
from sbim_deploy.cli.app import main
from sbim_deploy.models import backends
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file

# What the extras bring. A test that fails for the want of one of these is skipped, and says which it is.
MISSING = [name for name in EXTRAS if importlib.util.find_spec(name) is None]

SIMULATED = SimulateSettings(n_slices=4, n_coils=4, size=64, acceleration=2.0)


def missing_extra(failure: str) -> str | None:
    """Return the package that is not installed and that a failure names, if there is one."""
    for name in MISSING:
        absent = rf"No module named '{name}\b|import of {name}\b|\b{name}[\w.]* is not installed"
        if re.search(absent, failure, re.IGNORECASE):
            return name
    return "onnxruntime" if "onnxruntime" in MISSING and "no backend is here" in failure else None


def skipped_without_extra(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Make a skip of a failure that a missing package explains."""
    if MISSING and report.failed and (name := missing_extra(report.longreprtext)):
        report.outcome = "skipped"
        report.longrepr = (report.nodeid.partition("::")[0], 0, f"Skipped: {name} is not installed")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    skipped_without_extra(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skipped_without_extra(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _onnxruntime_first() -> Generator[None, None, None]:
    """Let ``auto`` choose ONNX Runtime: OpenVINO compiles for a second in each of hundreds of tests.

    Those of OpenVINO name it, and one tests that it is chosen first.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "BEST_FIRST", sorted(backends.BEST_FIRST, key="openvino".__eq__))
        yield


class CliResult:
    """What a command did: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"CliResult({self.code}, {self.err!r})"

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


@pytest.fixture
def export_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The room ``export`` as before its first import; afterwards it is the one that other tests know."""
    monkeypatch.setattr(sbim_deploy, "export", None, raising=False)  # an import sets it anew
    for name in [name for name in sys.modules if name.startswith("sbim_deploy.export")]:
        monkeypatch.delitem(sys.modules, name)
