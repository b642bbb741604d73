import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import yaml
from random_checkpoints import CONFIG, random_weights, write_random_checkpoint

from sbim_deploy import export
from sbim_deploy.errors import InputError
from sbim_deploy.export import parity
from sbim_deploy.export.model import export_model
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.io.locks import owning_file
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model, model_folder, read_manifest, write_manifest
from sbim_deploy.samplers.choice import DDS_N_CG


@pytest.fixture(scope="module")
def model(once, checkpoint_path, config_path):
    return load_model(once("model", lambda folder: export_model(checkpoint_path, config_path, folder)))


def test_a_published_checkpoint_becomes_a_folder_that_gives_the_ema_weights_output(model):
    network = ScoreNetwork(ARCHITECTURES["NCSNv2Deepest"], ngf=4, channels=2).eval()
    network.load_state_dict(random_weights("NCSNv2Deepest", 2))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 40, 24), dtype=np.float32)
    sigma = np.array([232, 1.2, 0.0066], np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x), torch.from_numpy(sigma)).numpy()
    got = open_engine(model, "score").run({"x": x, "sigma": sigma})["score"]
    for i in range(3):
        assert np.linalg.norm(got[i] - expected[i]) <= 1e-5 * np.linalg.norm(expected[i])


def test_the_command_validates_it_with_the_checkpoint_beside_on_the_backend_that_was_asked_for(
    cli, model, checkpoint_path, config_path, monkeypatch
):
    opened = []
    open_one = parity.open_engine

    def recorded(model, graph, backend="auto", threads=None):
        opened.append(backend)
        return open_one(model, graph, backend, threads)

    monkeypatch.setattr(parity, "open_engine", recorded)
    options = ("--checkpoint", checkpoint_path, "--config", config_path, "--backend", "onnxruntime", "--json")
    done = cli("validate", model.folder, *options)
    # Its weights are random: the graphs are right, and it is no prior.
    assert done.code == 3
    assert "the network leaves the noise in brain slices (sigma 0.03: " in done.error_line
    assert opened == ["onnxruntime"] * 5
    results = json.loads(done.out)["parity"]
    assert len(results) == 35
    beside = [result for result in results if result["name"].endswith(", PyTorch")]
    beside = [result for result in beside if "stored" not in result["name"]]
    assert len(beside) == 15
    assert max(result["relative_l2"] for result in beside) <= 1e-5


def test_the_manifest_says_what_the_model_is(model):
    manifest = model.manifest
    assert (manifest.architecture, manifest.ngf, manifest.channels) == ("NCSNv2Deepest", 4, 2)
    assert manifest.ema
    assert (manifest.noise_levels.sigma_begin, manifest.noise_levels.n_levels) == (232, 2311)
    assert (manifest.sampling.data_weight, manifest.size_multiple, manifest.opset) == (5.0, 8, 20)
    kinds = ("guided", "proximal", "guided-2d", "proximal-2d")
    fused = {f"{graph}-{kind}.onnx" for graph in ("step", "reconstruct") for kind in kinds}
    assert set(manifest.files) == {"score.onnx", "weights.bin", "reference.npz", *fused}
    assert manifest.n_cg == DDS_N_CG
    assert manifest.exported_with["torch"] == torch.__version__


def test_the_graphs_share_one_weights_file_and_hold_no_paths(model):
    weights = (model.folder / "weights.bin").stat().st_size
    n_bytes = 4 * sum(tensor.numel() for tensor in random_weights("NCSNv2Deepest", 1).values())
    assert weights < 1.1 * n_bytes
    for path in model.folder.glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False)
        external = {
            entry.value
            for tensor in graph.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert external == {"weights.bin"}
        assert b".py" not in path.read_bytes()


def test_another_checkpoint_is_not_compared(cli, model, config_path, tmp_path):
    torch.save([random_weights("NCSNv2Deepest", 3), {}, 0, 0], tmp_path / "other.pth")
    done = cli("validate", model.folder, "--checkpoint", tmp_path / "other.pth", "--config", config_path)
    assert done.code == 2
    assert "was exported from another checkpoint" in done.error_line


def test_validate_names_what_of_the_configuration_is_not_the_models(cli, model, checkpoint_path, tmp_path):
    other = {**CONFIG, "model": {**CONFIG["model"], "sigma_begin": 50, "sigma_end": 0.05}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(other))
    options = ("--checkpoint", checkpoint_path, "--config", tmp_path / "c.yaml", "--backend", "onnxruntime")
    done = cli("validate", model.folder, *options)
    assert done.code == 2, done.err
    assert (
        "sigma_begin is 50, in the model 232; sigma_end is 0.05, in the model 0.0066; name" in done.error_line
    )


@pytest.mark.parametrize(("dtype", "proposes"), [("float16", True), ("float32", False)])
def test_validate_tells_an_overflow_of_half_precision_and_proposes_bf16(
    cli, model, tmp_path, monkeypatch, dtype, proposes
):
    """A CPU computes the graph in single precision: an infinity is put in, as a GPU leaves it."""
    folder = shutil.copytree(model.folder, tmp_path / "model")
    write_manifest(folder, replace(model.manifest, dtype=dtype))

    class Overflowing:
        def __init__(self, engine):
            self.engine, self.description = engine, engine.description

        def run(self, inputs):
            score = self.engine.run(inputs)["score"].copy()
            score[0, 0, 0, 0] = np.inf
            return {"score": score}

    def opened(*arguments):
        engine = open_engine(*arguments)
        return Overflowing(engine) if arguments[1] == "score" else engine

    monkeypatch.setattr("sbim_deploy.recon.parity.open_engine", opened)
    monkeypatch.setattr("sbim_deploy.recon.parity.fused_kinds", lambda manifest: [])
    done = cli("validate", folder, "--backend", "onnxruntime")
    assert done.code == 3, done.err
    assert "1 of 3 comparisons failed" in done.error_line
    assert (
        "float16 ends at 65504, which the network exceeds: export it with --dtype bf16" in done.err
    ) == proposes


@pytest.fixture
def untraced(monkeypatch):
    """Fail a test whose export begins to trace."""

    def trace(*_arguments):
        raise AssertionError("traced")

    monkeypatch.setattr("sbim_deploy.export.graphs.trace", trace)


@pytest.fixture
def refused(cli, untraced, tmp_path):
    """Export a checkpoint of the smallest network, with changes, to a line of error and nothing else."""

    def export_one(section=None, changes=(), spoil=lambda weights: None, arguments=(), name="model"):
        document = CONFIG if section is None else {**CONFIG, section: {**CONFIG[section], **dict(changes)}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
        write_random_checkpoint(tmp_path / "c.pth", "NCSNv2")
        content = torch.load(tmp_path / "c.pth", weights_only=True)
        spoil(content[4])
        torch.save(content, tmp_path / "c.pth")
        given = ("--config", tmp_path / "c.yaml", "-o", tmp_path / name, *arguments)
        done = cli("export", tmp_path / "c.pth", *given)
        assert done.code == 2, done.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "c.yaml"]
        return done.error_line

    return export_one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"section": "sampling", "changes": {"n_steps_each": 20_000}},
            "n_steps_each is 20000, expected a whole",
        ),
        ({"section": "sampling", "changes": {"start_iter": 2311}}, "start_iter is 2311: expected less than"),
        ({"section": "model", "changes": {"ngf": 8}}, "begin_conv.weight has shape (4, 2, 3, 3)"),
        ({"name": "a\nb"}, "the model cannot be described: name is 'a\\nb', expected one line"),
        ({"spoil": lambda weights: weights.pop("end_conv.bias")}, "1 parameters missing ['end_conv.bias']"),
        (
            {"spoil": lambda weights: weights["end_conv.weight"].mul_(1e37)},
            "values of its scores are NaN or infinite: check that the checkpoint is a trained one",
        ),
        (
            {
                "spoil": lambda weights: weights["res2.0.conv1.weight"].mul_(1e6),
                "arguments": ("--dtype", "fp16"),
            },
            "are NaN or infinite: float16 ends at 65504, which the network exceeds: export it with --dtype",
        ),
    ],
    ids=["steps", "start", "width", "name", "missing", "infinite", "overflow"],
)
def test_what_cannot_become_a_model_is_refused_before_it_is_traced(refused, options, message):
    assert message in refused(**options)


def test_a_folder_that_is_no_model_is_not_replaced(checkpoint_path, config_path, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is there already and is no model folder"):
        export_model(checkpoint_path, config_path, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_model_is_replaced_by_force_alone_and_its_folder_keeps_what_is_not_the_model_s(
    checkpoint_path, config_path, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("demo"), folder)
    older = read_manifest(folder)
    others = {"engines/score.engine": "an hour of building", "note.txt": "mine", "results/a.h5": "hours"}
    for name, text in others.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    def write(_loaded, made, *_others):
        (made / "score.onnx").write_text("new")
        (made / "weights.bin").write_text("new")
        write_manifest(made, replace(older, files={"weights.bin": older.files["weights.bin"]}, graphs={}))

    monkeypatch.setattr(export.model, "_write", write)
    with pytest.raises(InputError, match="is a model already; give --force"):
        export_model(checkpoint_path, config_path, folder)
    assert load_model(folder).manifest == older
    export_model(checkpoint_path, config_path, folder, force=True)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"manifest.json", "score.onnx", "weights.bin", "MODEL_CARD.md", *others}
    assert {name: (folder / name).read_text() for name in others} == others
    assert (folder / "score.onnx").read_text() == "new"


def test_a_model_that_another_run_writes_is_left_alone_by_any_name(checkpoint_path, config_path, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    with owning_file(tmp_path / "model"):
        for name in ("model", "link"):
            with pytest.raises(InputError, match="is being written by another run"):
                export_model(checkpoint_path, config_path, tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--opset", 11), "opset is 11: expected 18 to"),
        (("--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("-o", "/nowhere/model"), "/nowhere does not exist"),
    ],
)
def test_export_refuses_bad_input(cli, checkpoint_path, config_path, tmp_path, arguments, message):
    options = {"--config": config_path, "-o": tmp_path / "model"}
    options.update([arguments])
    done = cli("export", checkpoint_path, *(item for pair in options.items() for item in pair))
    assert done.code == 2
    assert message in done.error_line
    assert list(tmp_path.iterdir()) == []
