"""The commands, by what they print and the exit codes that they end with."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sbim_deploy import __version__
from sbim_deploy.cli import options
from sbim_deploy.errors import install_command
from sbim_deploy.models.folder import DEMO_FOLDER
from sbim_deploy.results.result_file import open_result
from sbim_deploy.samplers.choice import DEFAULT_SAMPLER, SAMPLERS


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "out.h5"


def copy_with(source: Path, target: Path, **changes: np.ndarray | None) -> Path:
    """Copy an HDF5 file with datasets replaced, or removed where None."""
    shutil.copy(source, target)
    with h5py.File(target, "a") as file:
        for name, value in changes.items():
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value
    return target


def test_the_default_sampler_and_the_list_in_the_help_are_the_samplers(cli):
    assert options.DEFAULT_SAMPLER == DEFAULT_SAMPLER
    # Lines may break at a name's hyphen.
    text = "".join(cli("plan", "--help").out.split())
    assert all(name in text for name in SAMPLERS)


def test_version(cli):
    assert cli("--version").out.startswith("sbim-deploy 0.")


def test_python_m_runs_the_program_too():
    command = [sys.executable, "-m", "sbim_deploy", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"sbim-deploy {__version__}\n"


def test_simulate_recon_evaluate_and_info_in_a_row(cli, tmp_path):
    kspace, result, png = tmp_path / "k.h5", tmp_path / "r.h5", tmp_path / "r.png"
    made = cli("simulate", "-o", kspace, "--slices", 2, "--size", 64, "--coils", 4, "--undersample", 2)
    assert made.code == 0
    assert "1.83 effective" in made.err
    done = cli("recon", kspace, "-o", result, "--steps", 16, "--png", png, "--json")
    assert done.code == 0
    assert json.loads(done.out)["plan"]["sampler"] == "dds"
    assert "2 slices, dds with 16 network calls" in done.err
    assert "Research use only" in done.err
    with Image.open(png) as picture:
        assert picture.width > 900
    scores = json.loads(cli("evaluate", result, "--reference", kspace, "--json").out)
    assert scores["mean_reconstruction"]["psnr"] > scores["mean_zero_filled"]["psnr"] + 3
    table = cli("evaluate", result, "--reference", kspace).out.splitlines()
    assert table[0].split()[0] == "slice"
    assert table[-2].startswith("mean")
    assert "the reference's maximum in each slice" in table[-1]
    described = json.loads(cli("info", result, "--json").out)
    assert (described["kind"], described["slices"]) == ("reconstruction", 2)
    assert "coils: 4" in cli("info", kspace).out
    assert "digest" in cli("info", "demo").out


@pytest.mark.skipif(importlib.util.find_spec("nibabel") is None, reason="nibabel is not installed")
def test_recon_writes_a_nifti_volume_with_the_voxel_size(cli, simulated, out):
    import nibabel

    nifti = out.with_name("r.nii.gz")
    assert cli("recon", simulated, "-o", out, "--steps", 1, "--slices", "0:2", "--nifti", nifti).code == 0
    image = nibabel.load(nifti)
    assert image.shape == (64, 64, 2)
    np.testing.assert_allclose(image.header.get_zooms(), (220 / 64, 220 / 64, 5))


def test_a_plan_is_a_table_or_json(cli):
    plan = json.loads(cli("plan", "--sampler", "sbim-ld", "--steps", 4, "--corrector-steps", 2, "--json").out)
    assert len(plan["rows"]) == 4 * 3 + 1
    assert {"sigma", "step_size", "noise_scale"} <= plan["rows"][0].keys()
    assert plan["rows"][0]["sigma"] == pytest.approx(50)
    assert len(cli("plan", "--steps", 4).out.splitlines()) == 1 + 4 + 1
    assert cli("plan", "--preset", "best").out.splitlines()[-1] == "the image is the mean of 2 samples"


def test_the_demo_model_validates_without_pytorch(cli):
    done = cli("validate", "demo", "--backend", "onnxruntime", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert len(report["parity"]) == 20
    assert max(each["relative_l2"] for each in report["parity"]) <= 1e-5


@pytest.fixture
def clipped(simulated, tmp_path):
    """A scan whose second slice was overdriven."""
    path = tmp_path / "clipped.h5"
    shutil.copy(simulated, path)
    with h5py.File(path, "r+") as file:
        parts = file["kspace"][1].view(np.float32)
        limit = np.abs(parts).max() / 3
        file["kspace"][1] = parts.clip(-limit, limit).view(np.complex64)
    return path


def test_an_image_that_may_be_wrong_is_told_everywhere(cli, clipped, tmp_path):
    out, one = tmp_path / "out.h5", tmp_path / "one.h5"
    with h5py.File(clipped) as source, h5py.File(one, "w") as file:
        file["kspace"] = source["kspace"][1:2]
    done = cli("recon", clipped, "-o", out, "--slices", "0:2", "--steps", 8, "--json")
    assert done.code == 0
    warned = [line for line in done.err.splitlines() if "warning: slice 1: " in line]
    assert warned
    assert "overdriven" in warned[0]
    assert "warning: slice 0" not in done.err
    made = json.loads(done.out)
    assert made["slice_notes"]["0"]["doubts"] == {}
    assert "overdriven" in made["slice_notes"]["1"]["doubts"]["clipped samples"]
    assert any("slice 1: " in warning and "overdriven" in warning for warning in made["warnings"])
    assert any("not on patients" in warning for warning in made["warnings"])
    described = json.loads(cli("info", out, "--json").out)
    assert described["warnings"] == made["warnings"]
    assert described["noise"] == [
        pytest.approx(made["slice_notes"][index]["noise"], rel=1e-3) for index in "01"
    ]
    assert "overdriven" in json.loads(cli("info", one, "--json").out)["faults"]["clipped samples"]


def test_that_the_prior_is_synthetic_is_said_once(cli, simulated, tmp_path):
    done = cli("recon", simulated, "-o", tmp_path / "out.h5", "--slices", "0:3", "--steps", 2)
    assert done.err.count("not on patients") == 1


def test_the_noise_and_the_method_of_the_maps_can_be_given(cli, simulated, tmp_path):
    out = tmp_path / "out.h5"
    options = ("--slices", "0:1", "--steps", 2, "--noise", 0.02, "--map-method", "espirit", "--json")
    made = json.loads(cli("recon", simulated, "-o", out, *options).out)
    notes = made["slice_notes"]["0"]
    assert (notes["noise"], notes["noise_source"], notes["maps"]) == (
        pytest.approx(0.02),
        "given",
        "ESPIRiT",
    )
    assert (made["noise"], made["map_method"]) == (0.02, "espirit")
    for option, value, message in (
        ("--noise", 0, "noise is 0: expected a finite number above 0"),
        ("--noise", "nan", "noise is nan"),
        ("--map-method", "grappa", "unknown map method 'grappa': expected one of auto, espirit, nlinv"),
        ("--map-sets", 3, "map sets is 3: expected 1 or 2"),
    ):
        refused = cli("recon", simulated, "-o", out, option, value)
        assert refused.code == 2
        assert message in refused.error_line


def test_two_sets_of_maps_can_be_asked_for(cli, simulated, tmp_path):
    out = tmp_path / "out.h5"
    options = ("--slices", "0:1", "--steps", 2, "--map-sets", 2)
    made = json.loads(cli("recon", simulated, "-o", out, *options, "--json").out)
    assert (made["slice_notes"]["0"]["maps"], made["map_sets"]) == ("2 sets by ESPIRiT", 2)
    for others, message in (
        (("--map-method", "nlinv"), "map method nlinv estimates one set: take espirit or auto for two"),
        (("--maps", simulated), "maps are given and so is a method to estimate them"),
    ):
        refused = cli("recon", simulated, "-o", out, *options, *others)
        assert refused.code == 2
        assert message in refused.error_line


def test_samples_and_a_report_in_a_row(cli, simulated, tmp_path):
    result, page = tmp_path / "r.h5", tmp_path / "page.html"
    options = ("--steps", 2, "--slices", "0:2", "--samples", 3, "--batch", 2, "--report", page)
    done = cli("recon", simulated, "-o", result, *options, "--json")
    assert json.loads(done.out)["samples"] == 3
    assert "2 slices, 3 samples of dds with 2 network calls" in done.err
    assert "Only" not in done.err
    assert page.read_text().startswith("<!doctype html>")
    described = json.loads(cli("info", result, "--json").out)
    assert (described["samples"], described["standard_deviation"]) == (3, "in the file")
    scores = json.loads(cli("evaluate", result, "--reference", simulated, "--json").out)
    assert scores["calibration"]["samples"] == 3
    assert 0 < scores["calibration"]["mean_coverage"]["within_one"] < 1
    page.unlink()
    again = cli("recon", simulated, "-o", result, *options, "--resume", "--nifti", tmp_path / "v.nii")
    assert again.code == 0
    assert "by an earlier run" in page.read_text()
    assert 'alt="reference, slice 0' in page.read_text()
    assert 'data-name="v.nii"' in page.read_text()


@pytest.mark.parametrize("option", ["--png", "--report"])
def test_a_file_named_twice_is_refused(cli, simulated, out, option):
    for twice in (out, simulated):
        done = cli("recon", simulated, "-o", out, option, twice)
        assert done.code == 2
        assert f"{twice}: is named twice" in done.error_line
    assert list(out.parent.iterdir()) == []


def test_recon_gives_one_image_through_every_graph_and_backend_and_says_which(cli, simulated, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: ONNX Runtime is compared with nothing")
    images = {}
    for backend in ("onnxruntime", "openvino"):
        for graph in ("score", "step", "reconstruct"):
            out = tmp_path / f"{backend}-{graph}.h5"
            options = ("--slices", "0:1", "--graph", graph, "--backend", backend, "--json")
            made = json.loads(cli("recon", simulated, "-o", out, *options).out)
            assert (made["backend"], made["graph"], len(made["plan"]["rows"])) == (backend, graph, 32)
            with open_result(out) as result:
                images[backend, graph] = result.read_image(0)
    reference = images.pop(("onnxruntime", "score"))
    for image in images.values():
        assert np.linalg.norm(image - reference) <= 1e-3 * np.linalg.norm(reference)


def test_the_demo_makes_its_files_and_a_picture(cli, tmp_path):
    done = cli("demo", "-o", tmp_path / "demo")
    assert done.code == 0
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {
        "kspace.h5",
        "reconstruction.h5",
        "montage.png",
    }
    means = done.out.splitlines()[-2].split()
    assert float(means[3]) > float(means[7]) + 6


def bad_kspace(name, source, folder):
    """Return a k-space file with one fault."""
    with h5py.File(source) as file:
        kspace, mask = file["kspace"][:], file["mask"][:]
    target = folder / "bad.h5"
    if name == "missing":
        return folder / "nowhere.h5"
    if name == "truncated":
        target.write_bytes(source.read_bytes()[:20_000])
        return target
    if name == "not HDF5":
        target.write_text("hello")
        return target
    changes = {
        "no kspace": {"kspace": None},
        "real": {"kspace": kspace.real},
        "short mask": {"mask": mask[:-1]},
        "zero mask": {"mask": np.zeros_like(mask)},
        "no calibration lines": {"mask": np.arange(64) % 4 == 1},
    }
    return copy_with(source, target, **changes[name])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "nowhere.h5: no such file"),
        ("truncated", "truncated"),
        ("not HDF5", "is text, which begins 'hello', expected an HDF5 file"),
        ("no kspace", "no dataset 'kspace'"),
        ("real", "float32"),
        ("short mask", "'mask' has shape (63,), expected (64,)"),
        ("zero mask", "'mask' is all zero"),
        ("no calibration lines", "calibration lines"),
    ],
)
def test_recon_refuses_bad_kspace_in_one_line(cli, simulated, tmp_path, out, fault, message):
    done = cli("recon", bad_kspace(fault, simulated, tmp_path), "-o", out, "--steps", 1)
    assert done.code == 2
    assert message in done.error_line
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "values that are not finite"), (0, "zero everywhere it was sampled")]
)
def test_a_bad_slice_is_told_at_once_and_left_out_on_request(cli, simulated, tmp_path, out, value, reason):
    with h5py.File(simulated) as file:
        kspace = file["kspace"][:2]
    kspace[1] = value
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["kspace"] = kspace
    done = cli("recon", tmp_path / "bad.h5", "-o", out, "--steps", 1)
    assert done.code == 2
    assert done.err.count(reason) == 2
    assert "bad.h5: 1 of 2 slices cannot be read (slice 1" in done.error_line
    assert not out.exists()
    again = cli("recon", tmp_path / "bad.h5", "-o", out, "--steps", 1, "--resume")
    assert again.code == 0
    assert "out.h5: 0 slices, without 1, dds" in again.err
    with h5py.File(out) as file:
        assert file["slice_index"][:].tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sampler", "sbmi"), "unknown sampler 'sbmi': expected one of dds, daps, sbim"),
        (("--steps", 0), "steps is 0"),
        (("--sampler", "sbim", "--steps", 500), "500 noise levels"),
        (("--batch", 0), "batch is 0"),
        (("--samples", 0), "samples is 0"),
        (("--seed", -1), "seed is -1"),
        (("--threads", 0), "threads is 0"),
        (("--slices", "3"), "--slices is '3': expected A:B"),
        (("--slices", "2:9"), "expected a range within 0:4"),
        (("--undersample", "equispaced"), "--undersample is 'equispaced'"),
        (("--undersample", "spiral:4"), "unknown pattern 'spiral'"),
        (("--undersample", "random:400"), "expected 1 to the number of lines, 64"),
        (
            ("--undersample", "random:4", "--mask-convention", "jalal"),
            "unknown mask convention 'jalal': expected one of centred, published",
        ),
        (("--mask-convention", "published"), "--mask-convention published is of --undersample"),
        (("--backend", "tpu"), "unknown backend 'tpu'"),
        (("--graph", "loop"), "unknown graph 'loop': expected one of step, score, reconstruct"),
        (("--model", "nowhere"), "nowhere: no such folder"),
        (("--maps", "nowhere.h5"), "nowhere.h5: no such file"),
        (("--png", "/nowhere/x.png"), "/nowhere does not exist"),
        (("--nifti", "x.img"), "x.img: the name must end in .nii"),
        (("--report", "/nowhere/x.html"), "/nowhere does not exist"),
    ],
)
def test_recon_refuses_bad_options_before_any_work(cli, simulated, out, arguments, message):
    done = cli("recon", simulated, "-o", out, *arguments)
    assert done.code == 2
    assert message in done.error_line
    assert list(out.parent.iterdir()) == []


def test_recon_without_a_network_says_so_and_takes_no_sampler(cli, simulated, tmp_path):
    out, page = tmp_path / "l1.h5", tmp_path / "l1.html"
    done = cli(
        "recon", simulated, "-o", out, "--method", "l1-wavelet", "--slices", "0:1", "--report", page, "--json"
    )
    assert done.code == 0
    assert "l1-wavelet without a network" in done.err
    assert json.loads(done.out)["method"] == "l1-wavelet"
    assert "without a network" in page.read_text()
    refused = cli("recon", simulated, "-o", out, "--method", "cg-sense", "--preset", "fast")
    assert refused.error_line.endswith("--method cg-sense takes no sampler: leave --preset out")
    unknown = cli("recon", simulated, "-o", out, "--method", "l1")
    assert "expected one of sampler, zero-filled, cg-sense, l1-wavelet" in unknown.error_line


def test_maps_that_do_not_fit_are_refused_with_both_shapes(cli, simulated, tmp_path, out):
    with h5py.File(simulated) as file:
        maps = file["s_maps"][:]
    wrong = copy_with(simulated, tmp_path / "maps.h5", s_maps=maps[:, :3])
    done = cli("recon", simulated, "-o", out, "--maps", wrong)
    assert done.code == 2
    assert "(4, 3, 64, 64)" in done.error_line
    assert "(4, 4, 64, 64)" in done.error_line


@pytest.mark.parametrize("output", ["nowhere/out.h5", "."])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(cli, simulated, tmp_path, output):
    done = cli("recon", simulated, "-o", tmp_path / output)
    assert done.code == 2
    assert str(tmp_path / output) in done.error_line


def test_a_changed_byte_in_a_model_is_exit_6(cli, simulated, tmp_path, out):
    model = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, model)
    weights = bytearray((model / "weights.bin").read_bytes())
    weights[1234] ^= 1
    (model / "weights.bin").write_bytes(weights)
    for done in (cli("recon", simulated, "-o", out, "--model", model), cli("validate", model)):
        assert done.code == 6
        assert "weights.bin: got SHA-256" in done.error_line
    assert list(out.parent.iterdir()) == []


def test_a_graph_that_computes_something_else_is_exit_3(cli, tmp_path):
    from sbim_deploy.models.folder import describe_file, read_manifest, write_manifest

    model = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, model)
    weights = np.fromfile(model / "weights.bin", dtype=np.float32)
    weights[5000:5100] *= 1.01
    weights.tofile(model / "weights.bin")
    manifest = read_manifest(model)
    manifest.files["weights.bin"] = describe_file(model / "weights.bin")  # type: ignore[index]
    write_manifest(model, manifest)
    done = cli("validate", model, "--backend", "onnxruntime")
    assert done.code == 3
    assert "comparisons failed: score, sigma " in done.error_line
    assert "checksums match" in done.out
    assert "FAILED" in done.out


@pytest.mark.parametrize(
    ("backend", "package", "message"),
    [
        ("onnxruntime", "onnxruntime", install_command("cpu")),
        ("openvino", "openvino", install_command("openvino")),
        ("onnxruntime-cuda", "onnxruntime", install_command("cpu")),
        ("trt", "tensorrt", install_command("trt")),
        ("rtx", "tensorrt_rtx", install_command("rtx")),
    ],
)
def test_a_missing_backend_is_exit_4(cli, simulated, out, monkeypatch, backend, package, message):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    done = cli("recon", simulated, "-o", out, "--backend", backend)
    assert done.code == 4
    assert message in done.error_line
    assert list(out.parent.iterdir()) == []


def test_no_backend_at_all_is_exit_4(cli, simulated, out, monkeypatch):
    import sys

    for package in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    done = cli("recon", simulated, "-o", out)
    assert done.code == 4
    assert f"no backend is here: {install_command('cpu')}" in done.error_line


def test_recon_says_which_engine_runs_and_why_where_that_is_asked(cli, simulated, out):
    arguments = ("recon", simulated, "-o", out, "--steps", 1, "--slices", "0:1", "--json")
    done = cli(*arguments, "--backend", "onnxruntime")
    assert [line for line in done.err.splitlines() if line.startswith("engine: ")] == [
        f"engine: onnxruntime {json.loads(done.out)['engine']['version']}"
    ]
    assert "(auto" in cli(*arguments, "--force", "-v").err


@pytest.mark.usefixtures("export_forgotten")
def test_export_without_pytorch_is_exit_4(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = cli("export", "c.pth", "--config", "c.yaml", "-o", tmp_path / "model")
    assert done.code == 4
    assert install_command("export") in done.error_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "nowhere.h5", "--reference", "k.h5"), "nowhere.h5: no such file"),
        (("info", "nowhere"), "nowhere: no such file"),
        (("plan", "--sampler", "ddpm"), "unknown sampler 'ddpm'"),
        (("validate", "nowhere"), "nowhere: no such folder"),
        (("validate", "demo", "--checkpoint", "c.pth"), "go together"),
        (("simulate", "-o", "/nowhere/k.h5"), "/nowhere does not exist"),
        (("simulate", "-o", "k.h5", "--undersample", 0), "acceleration is 0"),
        (("demo", "-o", "/dev/null/x"), "cannot make the folder"),
    ],
)
def test_other_commands_end_with_one_line_too(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert done.code == 2
    assert message in done.error_line
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_are_exit_2(cli):
    assert cli("recon").code == 2
    assert cli("reconstruct").code == 2


def test_a_stopped_run_says_how_to_go_on(cli, simulated, out, monkeypatch):
    from sbim_deploy.recon.reconstruct import Reconstructor

    original = Reconstructor.__call__

    def stopped(self, problems, *hooks):
        if problems[0].index == 2:
            raise KeyboardInterrupt
        return original(self, problems, *hooks)

    monkeypatch.setattr(Reconstructor, "__call__", stopped)
    done = cli("recon", simulated, "-o", out, "--steps", 1)
    assert done.code == 130
    assert "kept 2 finished slices, go on with --resume" in done.err
    monkeypatch.setattr(Reconstructor, "__call__", original)
    resumed = cli("recon", simulated, "-o", out, "--steps", 1, "--resume")
    assert "resuming: 2 of 4 slices done" in resumed.err
    assert resumed.code == 0


def test_starting_over_is_said(cli, simulated, out):
    (out.parent / f".{out.name}.partial").mkdir()
    (out.parent / f".{out.name}.partial" / "slice_000001.npz").write_bytes(b"")
    (out.parent / f".{out.name}.partial" / "run.json").write_text("{}")
    arguments = ("recon", simulated, "-o", out, "--steps", 1, "--slices", "0:1")
    done = cli(*arguments)
    assert done.code == 2
    assert "has 1 finished slice of a stopped run;" in done.error_line
    done = cli(*arguments, "--force")
    assert done.code == 0
    assert "starting over without 1 finished slice of a stopped run (--resume" in done.err
