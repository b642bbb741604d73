"""Looks for known vulnerabilities in what is pinned, where an index of advisories can be reached.

    python release/audit.py [--osv-url URL] FILE...      requirements.lock, constraints.txt

It asks PyPI by pip-audit, else OSV, or an OSV server of your own. An index is believed only where it knows
an advisory that has long been there: mirrors of packages answer too, and pip-audit calls what they do not
know "no known vulnerabilities". Where no index is to be had it says so and ends with 0. A vulnerability, or
a package that was not looked up, ends with 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KNOWN = "pyyaml==5.3"  # CVE-2020-1747 and others


@dataclass(frozen=True)
class Index:
    """An index of advisories: its name, and pip-audit's arguments for it."""

    name: str
    arguments: tuple[str, ...]


class NotReachedError(Exception):
    """pip-audit came to no result."""


def ask(index: Index, requirements: Path) -> list[dict[str, Any]]:
    """Return what pip-audit says of each pinned package.

    Raises:
        NotReachedError: it came to no result.
    """
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options, *index.arguments, "-r", requirements],
        capture_output=True,
        text=True,
    )
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise NotReachedError(last[:200]) from None
    return packages


def why_not_believed(index: Index) -> str | None:
    """Return why an index tells nothing, or None where it knows what is long known."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder, "known.txt")
        known.write_text(KNOWN + "\n", encoding="utf-8")
        try:
            (package,) = ask(index, known)
        except NotReachedError as error:
            return str(error)
    return None if package.get("vulns") else f"it answers, but knows no advisory for {KNOWN}"


def report_findings(index: Index, requirements: Path) -> bool:
    """Print what is known of a file's packages; return whether there was nothing to say."""
    packages = ask(index, requirements)
    for package in packages:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            print(f"audit: {requirements}: {name} was not looked up: {package['skip_reason']}")
        for found in package.get("vulns", []):
            fixed = ", ".join(found["fix_versions"]) or "no version"
            print(f"audit: {requirements}: {name} has {found['id']}, mended in {fixed}")
    bad = [each for each in packages if each.get("vulns") or "skip_reason" in each]
    print(
        f"audit: {requirements}: {len(packages)} packages looked up at {index.name}, {len(bad)} with findings"
    )
    return not bad


def main() -> None:
    """Audit the files of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument(
        "--osv-url", help="the query address of an OSV server to ask in place of the public ones"
    )
    asked = parser.parse_args()
    indexes = [Index("PyPI", ("-s", "pypi")), Index("OSV", ("-s", "osv"))]
    if asked.osv_url is not None:
        indexes = [Index(asked.osv_url, ("-s", "osv", "--osv-url", asked.osv_url))]
    for index in indexes:
        if (why := why_not_believed(index)) is not None:
            print(f"audit: {index.name}: {why}")
            continue
        # Each file is looked up, and its findings are printed, whatever the one before it had.
        try:
            sound = [report_findings(index, path) for path in asked.files]
        except NotReachedError as error:
            raise SystemExit(f"audit: {index.name} was reached, but then gave no result: {error}") from None
        raise SystemExit(0 if all(sound) else 1)
    print("audit: no index of advisories can be had here: known vulnerabilities were NOT looked for")


if __name__ == "__main__":
    main()
