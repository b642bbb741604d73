from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sbim_deploy.errors import ChecksumError, InputError
from sbim_deploy.models.folder import (
    FileEntry,
    GraphEntry,
    ModelManifest,
    NoiseLevels,
    SamplingDefaults,
    TensorEntry,
    describe_file,
    model_digest,
    read_manifest,
    verify_files,
    write_manifest,
)

X = TensorEntry("float32", ["batch", 2, "8*h", "8*w"])
FILES = {"model.onnx": b"graph", "weights.bin": b"weights" * 1000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, manifest_of(folder))
    return folder


def manifest_of(folder: Path) -> ModelManifest:
    return ModelManifest(
        format_version=5,
        name="brain",
        architecture="NCSNv2Deepest",
        ngf=128,
        channels=2,
        size_multiple=32,
        noise_levels=NoiseLevels(sigma_begin=232, sigma_end=0.0066, n_levels=2311),
        sampling=SamplingDefaults(step_lr=9e-7, n_steps_each=3, data_weight=5.0, start_level=0),
        normalisation="99th percentile of the magnitude",
        ema=True,
        dtype="float32",
        opset=18,
        n_cg=6,
        precision_cost={"image NRMSE": 0.001},
        checkpoint_sha256="0" * 64,
        training_data="synthetic",
        intended_use="research",
        anatomy="brain",
        exported_with={"torch": "2.9.0"},
        files={name: describe_file(folder / name) for name in FILES},
        graphs={"model": GraphEntry({"x": X}, {"score": X})},
        noise_left={"sigma 1": 0.5},
    )


def edit(folder: Path, keys: tuple[str, ...], value: object) -> None:
    path = folder / "manifest.json"
    stored = json.loads(path.read_text())
    inner = stored
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(stored))


def refuse(folder: Path, *fragments: str) -> None:
    with pytest.raises(InputError) as caught:
        read_manifest(folder)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in (str(folder), *fragments):
        assert message.count(fragment) >= 1


def test_manifest_reads_back(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest == manifest_of(folder)
    verify_files(folder, manifest)


def test_a_manifest_from_before_bfloat16_was_measured_is_read(folder: Path) -> None:
    path = folder / "manifest.json"
    stored = json.loads(path.read_text())
    del stored["bfloat16_cost"]
    path.write_text(json.dumps(stored))
    assert read_manifest(folder) == manifest_of(folder)
    assert read_manifest(folder).bfloat16_cost == {}


def test_missing_folder_and_manifest_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "none", "no such folder")
    refuse(tmp_path, "not a model folder")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ('{"name": NaN}', "NaN"),
        ("{}", "format_version is None"),
        ('{"format_version": 1}', "format_version is 1, expected 5"),
        ('{"format_version": 4}', "format_version is 4, expected 5; export the model again or update"),
        ('{"format_version": 5}', "lacks name"),
        (b"\xff\xfe\x00", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (" " * (1024**2 + 1), "1048576"),
    ],
)
def test_damaged_manifest_is_refused(folder: Path, text: str | bytes, fragment: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode() if isinstance(text, str) else text)
    refuse(folder, "manifest.json", fragment)


@pytest.mark.parametrize(
    ("keys", "value", "fragment"),
    [
        (("format_version",), True, "format_version"),
        (("name",), 3, "name is 3, expected one line of text"),
        (("ema",), 1, "ema is 1, expected true or false"),
        (("ngf",), True, "ngf is True, expected a whole number"),
        (("ngf",), 128.0, "ngf is 128.0, expected a whole number"),
        (("size_multiple",), 0, "size_multiple is 0"),
        (("size_multiple",), 10**9, "size_multiple is 1000000000, expected a whole number from 1 to 512"),
        (("ngf",), 10**6, "ngf is 1000000, expected a whole number from 1 to 1024"),
        (("noise_levels", "n_levels"), 10**9, "n_levels is 1000000000, expected"),
        (("name",), "brain\nsbim-deploy: all is well", "expected one line of text"),
        (("name",), "\x1b[2J", "expected one line of text"),
        (("name",), "", "name is '', expected"),
        (("name",), "\ud800", "half a surrogate pair"),
        (("training_data",), "a\u2028b", "expected one line of text"),
        (("exported_with",), {"torch\n": "2"}, "exported_with"),
        (("architecture",), "NCSNv2\nall is well", "expected one line of text"),
        (("dtype",), "float8", "dtype is 'float8', expected one of float32, float16, bfloat16"),
        (("checkpoint_sha256",), "A" * 64, "checkpoint_sha256"),
        (("colour",), "red", "colour"),
        (("noise_levels",), [1, 2], "noise_levels is [1, 2], expected a mapping"),
        (("noise_levels", "sigma_begin"), 0.001, "sigma_begin > sigma_end"),
        (("noise_levels", "sigma_end"), 0, "sigma_end is 0, expected a finite number above 0"),
        (
            ("noise_levels", "sigma_end"),
            1e-320,
            "sigma_end is 1e-320, expected a finite number above 0, 1e-16",
        ),
        (("sampling", "n_steps_each"), 10_000, "is 23110000 steps of a plan, expected at most 1000000"),
        (("noise_levels", "sigma_begin"), 10**400, "sigma_begin"),
        (("noise_levels", "n_levels"), 1, "from 2 to 100000"),
        (("noise_levels", "distribution"), "uniform", "geometric"),
        (("noise_levels", "distribution"), "variance-preserving", "lists 0 levels, expected n_levels, 2311"),
        (("noise_levels", "vp_sigmas"), [232.0, 0.0066], "vp_sigmas lists levels, expected none"),
        (("noise_levels", "vp_sigmas"), 3, "vp_sigmas is 3, expected a list"),
        (("sampling", "step_lr"), -1.0, "step_lr is -1.0, expected a finite number above 0"),
        (("sampling", "start_level"), 2311, "start_level is 2311, expected less than 2311"),
        (("sampling", "more"), 1, "more"),
        (("exported_with",), {"torch": 2}, "exported_with"),
        (("files",), {}, "files is {}, expected the files"),
        (("graphs",), {}, "graphs are [], expected those of the files, ['model']"),
        (
            ("graphs", "other"),
            {"inputs": {"x": asdict(X)}, "outputs": {"x": asdict(X)}},
            "graphs are ['model', 'other'], expected those of the files, ['model']",
        ),
        (("graphs", "model", "inputs"), {}, "graphs['model'].inputs is {}, expected at least one tensor"),
        (("graphs", "model", "inputs", "x", "dtype"), "text", "dtype is 'text', expected 'float16' or"),
        (("graphs", "model", "outputs", "score", "shape"), ["batch", 0], "shape[1] is 0, expected a whole"),
        (("graphs", "model", "outputs", "score", "shape"), ["batch", True], "shape[1] is True, expected"),
        (("noise_left",), {"sigma 1": None}, "noise_left['sigma 1'] is None, expected a finite number"),
        (("files", "model.onnx"), "abc", "model.onnx"),
        (("files", "model.onnx", "sha256"), "abc", "sha256"),
        (("files", "model.onnx", "bytes"), -1, "bytes is -1"),
    ],
)
def test_wrong_values_are_refused(folder: Path, keys: tuple[str, ...], value: object, fragment: str) -> None:
    edit(folder, keys, value)
    refuse(folder, "manifest.json", fragment)


def test_weights_that_the_manifest_does_not_vouch_for_are_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    stored = json.loads(path.read_text())
    del stored["files"]["weights.bin"]
    path.write_text(json.dumps(stored))
    refuse(folder, "expected weights.bin among them")


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/b", "a\\b", "..", ".", "", ".hidden", "manifest.json", "a\n", "C:x"],
)
def test_file_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    edit(folder, ("files", name), asdict(FileEntry("0" * 64, 1)))
    refuse(folder, "plain file name")


def test_changed_byte_is_noticed(folder: Path) -> None:
    path = folder / "weights.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    manifest = read_manifest(folder)
    with pytest.raises(ChecksumError) as caught:
        verify_files(folder, manifest)
    assert caught.value.exit_code == 6
    for fragment in (
        str(path),
        manifest.files["weights.bin"].sha256[:12],
        describe_file(path).sha256[:12],
    ):
        assert fragment in str(caught.value)


def test_missing_and_shorter_files_are_noticed(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "model.onnx").write_bytes(b"grap")
    with pytest.raises(ChecksumError, match="got 4 bytes, expected 5"):
        verify_files(folder, manifest)
    (folder / "model.onnx").unlink()
    with pytest.raises(ChecksumError, match=r"model\.onnx: is missing"):
        verify_files(folder, manifest)


def test_model_digest_changes_with_a_file_and_not_with_the_order(folder: Path) -> None:
    manifest = read_manifest(folder)
    backwards = replace(manifest, files=dict(reversed(manifest.files.items())), name="other")
    assert model_digest(backwards) == model_digest(manifest)
    changed: dict[str, Any] = {**manifest.files, "model.onnx": FileEntry("1" * 64, 5)}
    assert model_digest(replace(manifest, files=changed)) != model_digest(manifest)


def test_missing_folder_is_refused_on_writing(folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_manifest(folder / "none", read_manifest(folder))
