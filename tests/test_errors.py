"""The way out that an error names is true wherever the package was installed from."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import sbim_deploy
from sbim_deploy import errors
from sbim_deploy.errors import install_command

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sbim_deploy.__file__).parent


class Installed:
    """A distribution that pip installed, with what pip kept of where it came from."""

    def __init__(self, direct_url):
        self._direct_url = direct_url

    def read_text(self, name):
        assert name == "direct_url.json"
        return self._direct_url


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Let the package be a copy in site-packages, with some direct_url.json or none."""
    monkeypatch.setattr(
        errors, "__file__", str(tmp_path / "lib" / "site-packages" / "sbim_deploy" / "errors.py")
    )

    def as_if(direct_url):
        kept = json.dumps(direct_url) if isinstance(direct_url, dict) else direct_url
        monkeypatch.setattr(metadata, "distribution", lambda name: Installed(kept))

    return as_if


runs_from_the_clone = pytest.mark.skipif(
    PACKAGE.parent != ROOT / "src", reason="the package that is tested is not this clone's"
)


@runs_from_the_clone
def test_a_clone_is_named_by_its_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert install_command("cpu") == f'pip install -e "{ROOT}[cpu]"'


@runs_from_the_clone
def test_in_the_clone_itself_it_is_the_readmes_command(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert install_command("export", "vp") == 'pip install -e ".[export,vp]"'


def test_from_an_index_the_name_is_enough(installed):
    installed(None)
    assert install_command("cpu") == 'pip install "sbim-deploy[cpu]"'


@pytest.mark.parametrize("kept", ["", "no JSON", "[1]", "{}"])
def test_what_pip_kept_may_be_anything(installed, kept):
    installed(kept)
    assert install_command("cpu") == 'pip install "sbim-deploy[cpu]"'


def test_a_package_that_no_installer_knows_has_its_name(installed, monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", unknown)
    assert install_command("cpu") == 'pip install "sbim-deploy[cpu]"'


def test_a_copy_of_a_folder_names_the_folder_while_it_is_there(installed, tmp_path):
    folder = tmp_path / "a clone"
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert install_command("cpu") == 'pip install ".[cpu]" in a clone of sbim-deploy'
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    assert install_command("cpu") == f'pip install "{folder}[cpu]"'


def test_a_wheel_is_named_by_its_address(installed):
    url = "file:///srv/wheels/sbim_deploy-0.1.0-py3-none-any.whl"
    installed({"url": url, "archive_info": {}})
    assert install_command("cpu") == f'pip install "sbim-deploy[cpu] @ {url}"'


def test_a_repository_is_named_with_its_commit(installed):
    installed({"url": "https://example.org/it.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}})
    assert install_command("cpu") == 'pip install "sbim-deploy[cpu] @ git+https://example.org/it.git@0123abc"'


def test_every_message_takes_the_command_from_one_place():
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "errors.py":
            assert "pip install" not in path.read_text(encoding="utf-8"), path


def test_every_extra_that_a_message_names_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in PACKAGE.rglob("*.py"):
        for arguments in re.findall(r"install_command\(([^)]*)\)", path.read_text(encoding="utf-8")):
            for extra in re.findall(r"""["'](\w+)["']""", arguments):
                assert extra in project["optional-dependencies"], f"{path}: {extra}"


@pytest.mark.slow
def test_pip_keeps_what_the_command_needs(tmp_path):
    """An environment with a copy of a clone: the command that it names is pip's own."""
    target = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(ROOT)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot build here: {done.stderr[-300:]}")
    code = "from sbim_deploy.errors import install_command; print(install_command('cpu'))"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == f'pip install "{ROOT}[cpu]"', done.stderr
