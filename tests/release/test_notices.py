"""Every file that is not source code has its licence and its origin in NOTICE."""

import re

import pytest
from scripts import ROOT, load_script

sbom = load_script("sbom")
NOTICE = (ROOT / "NOTICE").read_text()
NOTICES = sbom.read_notices(NOTICE)
FOLDERS = ["src", "docs", "examples", "experiments", "priors", "recipes", "release", "tests", "benchmarks"]
# Source code and text, which are the project's own: the first lines of NOTICE speak of them.
OURS = {".py", ".md", ".yaml", ".toml", ".txt", ".conf", ".service", ".xml"}
OUR_NAMES = {"py.typed", "Dockerfile"}
MADE_HERE = {"__pycache__", "node_modules", "engines", "packages", ".hypothesis"}


def files_of_the_repository():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT)
            if path.is_file() and not MADE_HERE & set(name.parts[:-1]):
                yield name


def test_every_asset_of_the_package_has_a_line():
    assets = sbom.shipped_assets(ROOT)
    assert len(assets) > 10
    for name in assets:
        sbom.asset_component(ROOT, name, NOTICES)


def test_every_other_file_that_is_neither_source_nor_text_has_one():
    names = [name for name in files_of_the_repository() if name.suffix not in OURS]
    wanted = [name.as_posix() for name in names if name.name not in OUR_NAMES]
    assert [name for name in wanted if not any(notice.covers(name) for notice in NOTICES)] == []


def test_an_asset_without_a_line_ends_the_bill(tmp_path):
    asset = tmp_path / sbom.PACKAGE / "assets" / "new.npz"
    asset.parent.mkdir(parents=True)
    asset.write_bytes(b"data")
    (name,) = sbom.shipped_assets(tmp_path)
    with pytest.raises(SystemExit, match=r"NOTICE has no line for src/sbim_deploy/assets/new\.npz"):
        sbom.asset_component(tmp_path, name, NOTICES)


def test_every_line_is_of_files_that_are_here_and_names_where_they_come_from():
    names = [name.as_posix() for name in files_of_the_repository()]
    for notice in NOTICES:
        assert any(notice.covers(name) for name in names), notice.pattern
        assert len(notice.origin) > 8


def test_the_text_of_every_licence_is_in_the_notice_or_the_licence_file():
    named = {licence for notice in NOTICES for licence in notice.licence.split(" AND ")}
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    told = {
        "MIT": "the MIT licence (LICENSE)",
        "LicenseRef-ICBM-152": "(LicenseRef-ICBM-152)",
        "Apache-2.0": "http://www.apache.org/licenses/LICENSE-2.0",
        "BSD-2-Clause": "BSD 2-Clause License:",
        "BSD-3-Clause": "BSD 3-Clause License: the conditions and the disclaimer above, and neither",
        "ISC": "ISC License: permission to use, copy, modify, and/or distribute it",
    }
    assert named == set(told)
    for words in told.values():
        assert words in NOTICE


def test_the_container_has_the_notices_and_all_that_the_build_needs():
    lines = (ROOT / "examples" / "serving" / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"(.*?)"', re.search(r"license-files = \[(.*)\]", project)[1])
    assert {*named, "pyproject.toml", "README.md", "src", "release", "requirements.lock"} <= copied
