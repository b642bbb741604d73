"""requirements.lock is what pyproject.toml and constraints.txt say, with a hash for every file."""

import re
import tomllib

from scripts import ROOT, load_script

normalised = load_script("sbom").normalised
LOCK = (ROOT / "requirements.lock").read_text()
ENTRIES = re.findall(
    r"^([\w.-]+)==([^\s;]+)(?: ;.*?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", LOCK, re.M
)
LOCKED = {name: version for name, version, _ in ENTRIES}


def test_every_package_has_its_hashes():
    lines = [line for line in LOCK.splitlines() if not line.startswith((" ", "#"))]
    assert len(lines) == len(ENTRIES) > 50


def test_all_that_a_release_needs_is_locked_and_neither_pytorch_nor_nvidia():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^RELEASE_EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    wanted = [
        *project["dependencies"],
        *(each for name in extras for each in project["optional-dependencies"][name]),
    ]
    assert {normalised(re.match(r"[\w.-]+", each)[0]) for each in wanted} <= set(LOCKED)
    left_out = {"export", "vp", "train", "peers", "gpu", "rtx", "trt", "dev", "docs"}
    assert set(extras) | left_out == set(project["optional-dependencies"])
    assert not {name for name in LOCKED if name.startswith(("torch", "nvidia", "tensorrt", "cuda"))}


def test_the_versions_are_those_that_are_tested():
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    tested = {normalised(name): version for name, version in pinned}
    assert {name: version for name, version in LOCKED.items() if tested.get(name, version) != version} == {}
    assert len(set(tested) & set(LOCKED)) > 15
