"""Writes the bill of materials of a release, in CycloneDX JSON.

    python release/sbom.py ENVIRONMENT REPORT OUTPUT      what "make dist" does

ENVIRONMENT is one that holds what requirements.lock names and nothing else, REPORT what ``pip install
--report`` wrote when it was made. The bill lists these packages with their licences, the SHA-256 of the
files that they came in and what needs what (by cyclonedx-py), and the files of our own wheel that are not
source code, with the licence and the origin that NOTICE gives them. It is checked against the schema before
it is written.
"""

import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = "src/sbim_deploy"
SPEC = "1.6"
NOT_SHIPPED = ("__pycache__", "engines")  # engines are built on the machine that uses them


@dataclass(frozen=True)
class Notice:
    """A line of NOTICE: the files of a pattern, their licence (an SPDX expression), where they come from."""

    pattern: str
    licence: str
    origin: str

    def covers(self, name: str) -> bool:
        """Tell whether a file, by its path from the repository's root, is one of these."""
        return fnmatch.fnmatchcase(name, self.pattern)


def read_notices(text: str) -> list[Notice]:
    """Read the table of NOTICE: lines of a pattern, a licence and an origin, parted by bars."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.count("|") == 2]
    return [Notice(*cells) for cells in rows]


def shipped_assets(root: Path) -> list[str]:
    """Return the files of the package that are not source code, by their paths from the root."""
    files = [path.relative_to(root) for path in (root / PACKAGE).rglob("*") if path.is_file()]
    kept = [path for path in files if not set(NOT_SHIPPED) & set(path.parts)]
    return sorted(path.as_posix() for path in kept if path.suffix != ".py" and path.name != "py.typed")


def asset_component(root: Path, name: str, notices: list[Notice]) -> dict[str, Any]:
    """Return the component of one asset.

    Raises:
        SystemExit: NOTICE has no line for it.
    """
    notice = next((each for each in notices if each.covers(name)), None)
    if notice is None:
        raise SystemExit(f"sbom: NOTICE has no line for {name}: add its licence and its origin")
    shipped = name.removeprefix("src/")
    return {
        "type": "file",
        "bom-ref": shipped,
        "name": shipped,
        "description": notice.origin,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256((root / name).read_bytes()).hexdigest()}],
        "licenses": [{"expression": notice.licence}],
    }


def package_version(root: Path) -> str:
    """Return the version that the package gives itself."""
    text = (root / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', text, re.M)
    return version


def list_packages(environment: Path, root: Path) -> dict[str, Any]:
    """Return cyclonedx-py's bill of an environment whose root is this project."""
    options = ["--mc-type", "application", "--output-reproducible", "--of", "JSON", "--sv", SPEC]
    command = [sys.executable, "-m", "cyclonedx_py", "environment", *options, "-o", "-"]
    # Its packages are no part of the release.
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listed = subprocess.run(
        [*command, "--pyproject", root / "pyproject.toml", environment],
        check=True,
        stdout=subprocess.PIPE,
        env=alone,
    )
    bill: dict[str, Any] = json.loads(listed.stdout)
    return bill


def normalised(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_hashes(report: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of the file that each package was installed from, by pip's report."""
    return {
        normalised(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in report["install"]
    }


def plain_licences(environment: Path) -> dict[str, str]:
    """Return the licences that packages give in the old field, in words of their own."""
    paths = [str(path) for path in environment.glob("lib*/python*/site-packages")]
    found = {each.name: each.metadata.get("License") for each in distributions(path=paths)}
    return {normalised(name): text.splitlines()[0] for name, text in found.items() if text}


def make_bill(environment: Path, report: dict[str, Any], root: Path = ROOT) -> dict[str, Any]:
    """Return the whole bill.

    Raises:
        SystemExit: a package was not installed by its hash, or an asset has no line in NOTICE.
    """
    bill = list_packages(environment, root)
    hashes, licences = installed_hashes(report), plain_licences(environment)
    for component in bill["components"]:
        name = normalised(component["name"])
        if name not in hashes:
            raise SystemExit(
                f"sbom: {environment} has {name}, which pip's report does not name: make it anew"
            )
        component["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
        if "licenses" not in component and name in licences:
            component["licenses"] = [{"license": {"name": licences[name], "acknowledgement": "declared"}}]
    notices = read_notices((root / "NOTICE").read_text(encoding="utf-8"))
    metadata = bill["metadata"]
    metadata["component"]["version"] = package_version(root)
    metadata["component"]["components"] = [
        asset_component(root, name, notices) for name in shipped_assets(root)
    ]
    platform = report["environment"]
    metadata["properties"] += [
        {"name": "sbim-deploy:python", "value": platform["python_full_version"]},
        {
            "name": "sbim-deploy:platform",
            "value": f"{platform['sys_platform']} {platform['platform_machine']}",
        },
    ]
    return bill


def check_schema(text: str) -> None:
    """Compare a bill with the schema of CycloneDX.

    Raises:
        SystemExit: it does not keep to it.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if error := JsonStrictValidator(SchemaVersion.from_version(SPEC)).validate_str(text):
        raise SystemExit(f"sbom: not valid CycloneDX {SPEC}: {error}")


def main() -> None:
    """Write the bill."""
    environment, report, output = map(Path, sys.argv[1:])
    bill = make_bill(environment, json.loads(report.read_text(encoding="utf-8")))
    text = json.dumps(bill, indent=1) + "\n"
    check_schema(text)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    n_assets = len(bill["metadata"]["component"]["components"])
    print(f"{output}: {len(bill['components'])} packages and {n_assets} assets")


if __name__ == "__main__":
    main()
