"""No command that writes destroys a scan, or anything else that is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from simulated_mrd import make_scan, write_mrd
from volume_scans import make_volume, write_h5_volume

ROOT = Path(__file__).parents[2]
ONE_STEP = ("--steps", 1, "--slices", "0:1", "--backend", "onnxruntime")
STACK = ("--dimensions", 3, "--slices", 16, "--size", 16, "--trajectory", "spiral")
SAMPLE = ("--size", 32, "-n", 1, "--steps", 1, "--backend", "onnxruntime")


@pytest.fixture
def scan(simulated: Path, tmp_path: Path) -> Path:
    """Another scan, which no record says to be simulated."""
    path = tmp_path / "raw_b.h5"
    shutil.copy(simulated, path)
    with h5py.File(path, "a") as file:
        del file.attrs["provenance"]
    return path


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    "command",
    [
        ("recon", "{simulated}", "-o", "{scan}", *ONE_STEP),
        ("recon", "{simulated}", "-o", "{scan}", *ONE_STEP, "--resume"),
        ("recon", "{simulated}", "-o", "{scan}", *ONE_STEP, "--format", "mrd"),
        ("recon", "{simulated}", "-o", "{other}", *ONE_STEP, "--report", "{scan}"),
        ("recon", "{simulated}", "-o", "{other}", *ONE_STEP, "--png", "{scan}"),
        ("recon", "{simulated}", "-o", "{other}", *ONE_STEP, "--nifti", "{scan}"),
        ("recon", "{simulated}", "-o", "{scan}", *ONE_STEP, "--format", "dicom"),
        ("simulate", "-o", "{scan}", "--slices", 1, "--size", 32),
        ("simulate", "-o", "{scan}", "--slices", 1, "--size", 32, "--format", "mrd"),
        ("simulate", "-o", "{scan}", "--slices", 1, "--size", 32, "--trajectory", "radial"),
        ("simulate", "-o", "{scan}", "--dimensions", 3, "--slices", 16, "--size", 16),
        ("simulate", "-o", "{scan}", *STACK),
        ("recon", "{volume}", "-o", "{scan}", "--dimensions", 3, *ONE_STEP),
        ("recon", "{volume}", "-o", "{scan}", "--dimensions", 3, "--through-plane", "--steps", 1),
        ("recon", "{volume}", "-o", "{other}", "--dimensions", 3, *ONE_STEP, "--nifti", "{scan}"),
        ("recon", "{mrd}", "-o", "{scan}", *ONE_STEP, "--format", "mrd2"),
        ("recon", "{simulated}", "{mrd}", "-o", "{scan}", *ONE_STEP),
        ("export", "--module", "colorsys:rgb_to_hsv", "-o", "{scan}"),
        ("triton", "demo", "-o", "{scan}"),
        ("train", "--config", "{recipe}", "-o", "{scan}", "--iterations", 1),
        ("experiment", "{experiment}", "-o", "{scan}"),
        ("sample", "demo", "-o", "{scan}", *SAMPLE),
        ("sample", "demo", "-o", "{other}", *SAMPLE, "--png", "{scan}"),
        ("replay", "{mrd}", "-o", "{scan}", "--server", "127.0.0.1:1"),
    ],
)
def test_a_scan_survives_every_command_that_is_given_its_name(
    cli, simulated, scan, tmp_path, command, force
) -> None:
    names = {"simulated": simulated, "scan": scan, "other": tmp_path / "other.h5", "mrd": tmp_path / "mrd.h5"}
    names |= {"recipe": ROOT / "recipes" / "brain-ngf16.yaml", "volume": tmp_path / "volume.h5"}
    names["experiment"] = ROOT / "experiments" / "quick.yaml"
    write_mrd(names["mrd"], make_scan())
    volume = make_volume()
    write_h5_volume(names["volume"], volume.kspace)
    before = scan.read_bytes()
    takes_force = command[0] != "experiment"  # it goes on with its folder, and replaces none
    done = cli(*(str(each).format(**names) for each in command), *(force if takes_force else ()))
    assert done.code == 2
    assert str(scan) in done.error_line
    assert scan.read_bytes() == before
    assert not names["other"].exists()


def test_a_bart_array_survives(cli, simulated, tmp_path) -> None:
    np.ones(4, np.complex64).tofile(tmp_path / "k.cfl")
    (tmp_path / "k.hdr").write_text("# Dimensions\n4 1\n")
    for force in ((), ("--force",)):
        assert cli("recon", simulated, "-o", tmp_path / "k.cfl", *ONE_STEP, *force).code == 2
    assert (tmp_path / "k.hdr").read_text() == "# Dimensions\n4 1\n"


@pytest.mark.parametrize("name", ["out.h5", "out.nii.gz", "out.cfl", "dicom"])
def test_a_result_is_replaced_by_force_alone_in_every_format(cli, simulated, tmp_path, name) -> None:
    out = tmp_path / name
    format_option = ("--format", "dicom") if name == "dicom" else ()
    command = ("recon", simulated, "-o", out, *ONE_STEP, *format_option)
    assert cli(*command).code == 0
    files = [each for each in (out, *out.glob("*")) if each.is_file()]
    before = [each.stat().st_mtime_ns for each in files]
    done = cli(*command)
    assert done.code == 2
    assert "is there already" in done.error_line
    assert [each.stat().st_mtime_ns for each in files] == before
    if out.is_dir():
        (out / "note.txt").write_text("kept")
    done = cli(*command, "--force")
    assert done.code == 0, done.err
    assert [each.stat().st_mtime_ns for each in files] != before
    assert not out.is_dir() or (out / "note.txt").read_text() == "kept"
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_another_program_s_dicom_image_is_not_replaced(cli, simulated, tmp_path) -> None:
    (tmp_path / "dicom").mkdir()
    theirs = tmp_path / "dicom" / "S1_IM00001.dcm"
    theirs.write_bytes(b"\0" * 128 + b"DICM of a scanner")
    done = cli("recon", simulated, "-o", tmp_path / "dicom", *ONE_STEP, "--format", "dicom", "--force")
    assert done.code == 2
    assert "another program's" in done.error_line
    assert theirs.read_bytes().endswith(b"DICM of a scanner")


def test_pictures_of_an_earlier_run_are_replaced_by_force_alone(cli, simulated, tmp_path) -> None:
    out, png, page = (tmp_path / name for name in ("out.h5", "out.png", "out.html"))
    command = ("recon", simulated, "-o", out, *ONE_STEP, "--png", png, "--report", page)
    assert cli(*command).code == 0
    out.unlink()
    done = cli(*command)
    assert done.code == 2
    assert "out.png: is there already" in done.error_line
    assert not out.exists()
    assert cli(*command, "--force").code == 0


def test_demo_replaces_nothing_unasked_and_spares_a_scan(cli, scan, tmp_path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "montage.png").write_text("of an earlier run")
    done = cli("demo", "-o", folder)
    assert done.code == 2
    assert "is there already" in done.error_line
    shutil.copy(scan, folder / "kspace.h5")
    done = cli("demo", "-o", folder, "--force")
    assert done.code == 2
    assert "holds k-space" in done.error_line
    assert (folder / "kspace.h5").read_bytes() == scan.read_bytes()


def test_a_study_replaces_no_result_and_no_stranger_s_report(cli, simulated, tmp_path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in ("a.h5", "b.h5"):
        shutil.copy(simulated, scans / name)
    command = ("recon", scans, "-o", out, "--workers", 1, *ONE_STEP)
    out.mkdir()
    (out / "study.json").write_text('{"mine": 1}')
    for option in ((), ("--force",), ("--resume",)):
        done = cli(*command, *option)
        assert done.code == 2
        assert "no study's report" in done.error_line
    assert json.loads((out / "study.json").read_text()) == {"mine": 1}
    (out / "study.json").unlink()
    shutil.copy(simulated, out / "b.h5")
    for option, words in (((), "is there already or was begun"), (("--force",), "holds k-space")):
        done = cli(*command, *option)
        assert done.code == 2
        assert words in done.error_line
        assert not (out / "a.h5").exists()
