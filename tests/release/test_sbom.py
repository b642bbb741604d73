"""The bill of materials keeps to CycloneDX's schema, and is in the wheel."""

import hashlib
import json
import re
import subprocess
import sys
import zipfile

import pytest
from scripts import ROOT, load_script

import sbim_deploy

sbom = load_script("sbom")
SHA = "ab" * 32


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with two small packages, one of which needs the other, and pip's report of it."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name, fields in {
        "numpy": "License: as they say\nRequires-Dist: Some_Other",
        "Some_Other": "License-Expression: MIT",
    }.items():
        info = packages / f"{name}-1.0.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{fields}\n")
    report = {
        "environment": {
            "python_full_version": "3.11.7",
            "sys_platform": "linux",
            "platform_machine": "x86_64",
        },
        "install": [
            {"metadata": {"name": name}, "download_info": {"archive_info": {"hashes": {"sha256": SHA}}}}
            for name in ("numpy", "some-other")
        ],
    }
    return folder, report


@pytest.fixture(scope="module")
def bill(environment):
    import cyclonedx  # noqa: F401  # skipped where it is not installed

    return sbom.make_bill(*environment)


def test_the_bill_keeps_to_the_schema_and_a_changed_one_is_refused(bill):
    sbom.check_schema(json.dumps(bill))
    with pytest.raises(SystemExit, match=r"not valid CycloneDX 1\.6"):
        sbom.check_schema(json.dumps({**bill, "components": [{"type": "package", "name": "numpy"}]}))


def test_packages_have_their_licences_hashes_and_needs(bill):
    packages = {each["name"]: each for each in bill["components"]}
    assert set(packages) == {"numpy", "Some_Other"}
    assert all(each["hashes"] == [{"alg": "SHA-256", "content": SHA}] for each in packages.values())
    assert packages["Some_Other"]["licenses"][0]["license"]["id"] == "MIT"
    assert packages["numpy"]["licenses"][0]["license"]["name"] == "as they say"
    needs = {each["ref"]: each.get("dependsOn") for each in bill["dependencies"]}
    assert needs["numpy==1.0"] == ["Some_Other==1.0"]
    assert "numpy==1.0" in needs["root-component"]


def test_the_program_and_its_assets_are_named_with_hashes_and_licences(bill):
    program = bill["metadata"]["component"]
    assert (program["name"], program["version"]) == ("sbim-deploy", sbim_deploy.__version__)
    assets = {each["name"]: each for each in program["components"]}
    weights = assets["sbim_deploy/assets/demo/weights.bin"]
    held = (ROOT / "src/sbim_deploy/assets/demo/weights.bin").read_bytes()
    assert weights["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(held).hexdigest()}]
    assert "LicenseRef-ICBM-152" in weights["licenses"][0]["expression"]


def test_a_package_that_was_not_installed_by_its_hash_is_refused(environment, monkeypatch):
    folder, report = environment
    monkeypatch.setattr(sbom, "list_packages", lambda *_: {"components": [{"name": "numpy"}]})
    with pytest.raises(SystemExit, match="has numpy, which pip's report does not name"):
        sbom.make_bill(folder, {**report, "install": report["install"][1:]})


def build_wheel(folder, **environment):
    import hatchling  # noqa: F401

    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
    )


def test_the_wheel_has_the_bill_the_notices_and_every_asset(tmp_path):
    bill = tmp_path / "sbim-deploy.cdx.json"
    bill.write_text("{}")
    built = build_wheel(tmp_path, SBIM_DEPLOY_SBOM=str(bill))
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    info = f"sbim_deploy-{sbim_deploy.__version__}.dist-info"
    assert {f"{info}/sboms/{bill.name}", f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= set(names)
    assets = {name for name in names if not re.search(r"\.py$|py\.typed$|\.dist-info/", name)}
    assert assets == {name.removeprefix("src/") for name in sbom.shipped_assets(ROOT)}


def test_a_wheel_without_a_bill_is_built_and_one_whose_bill_is_missing_is_not(tmp_path):
    built = build_wheel(tmp_path)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert not [name for name in wheel.namelist() if "/sboms/" in name]
    missing = build_wheel(tmp_path, SBIM_DEPLOY_SBOM=str(tmp_path / "nowhere.json"))
    assert missing.returncode != 0
    assert "nowhere.json" in missing.stderr + missing.stdout
