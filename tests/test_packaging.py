"""What a release is made of says the same as pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sbim_deploy import __version__

yaml = pytest.importorskip("yaml", reason="yaml is not installed")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILES = sorted((ROOT / "packaging" / "docker").glob("*.Dockerfile"))
OPENRECON = ROOT / "examples" / "serving" / "Dockerfile"
VERSIONS = [
    name.rpartition(" ")[2]
    for name in PROJECT["classifiers"]
    if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", name)
]


def test_the_pythons_of_the_classifiers_are_those_that_are_tested():
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    assert release["jobs"]["test"]["strategy"]["matrix"]["python"] == VERSIONS
    assert f"for version in {' '.join(VERSIONS)}; do" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert PROJECT["requires-python"] == f">={VERSIONS[0]}"


def test_the_citation_is_of_this_version_and_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "title", "message", "type", "abstract", "keywords", "authors"} <= set(citation)
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)


def test_the_conda_recipe_needs_what_the_package_needs():
    text = (ROOT / "packaging" / "conda" / "meta.yaml").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in text
    recipe = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "X", re.sub(r"\{%.*?%\}", "", text)))
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]]
    needed = [requirement.replace(">=", " >=") for requirement in requirements]
    assert recipe["requirements"]["run"] == [f"python {PROJECT['requires-python']}", *needed]
    program, _, function = recipe["build"]["entry_points"][0].partition(" = ")
    assert PROJECT["scripts"] == {program: function}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_install_extras_that_are_there(path):
    text = path.read_text(encoding="utf-8")
    (named,) = re.findall(r'"/src\[(.*?)\]"', text)
    extras = set(re.findall(r"^ENV EXTRA=(\w+)$", text, re.M))
    extras |= {extra for extra in named.split(",") if "$" not in extra}
    assert extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("path", [*DOCKERFILES, OPENRECON], ids=lambda path: path.name)
def test_dockerfiles_copy_what_the_wheel_is_built_of(path):
    copied = " ".join(re.findall(r"^COPY (.*) /src\S*$", path.read_text(encoding="utf-8"), re.M)).split()
    # The wheel's build hook is in release/.
    for name in ("pyproject.toml", "README.md", "src", "release", *PROJECT["license-files"]):
        assert name in copied or "." in copied


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_have_a_base_without_and_with_cuda_and_run_as_nobody(path):
    text = path.read_text(encoding="utf-8")
    assert {"cpu", "cuda"} == set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.M))
    assert re.search(r"^USER \d+:\d+$", text, re.M)


def test_what_the_build_reads_reaches_the_image():
    kept = set((ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines())
    for name in (
        *("pyproject.toml", "README.md", "constraints.txt", "requirements.lock", "release", "src"),
        *PROJECT["license-files"],
    ):
        assert f"!{name}" in kept


@pytest.mark.parametrize("path", [*DOCKERFILES, OPENRECON], ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path):
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    # OpenRecon's label has the name that Siemens gives it.
    options = ["--ignore", "DL3048", "--ignore", "DL3066"] if path == OPENRECON else []
    done = subprocess.run([hadolint, "--no-color", *options, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_pinned_versions_are_of_packages_that_are_wanted_once():
    names = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert len(names) == len({name.lower().replace("_", "-") for name in names})
