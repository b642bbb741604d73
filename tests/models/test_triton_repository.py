import hashlib
import os
import shutil

import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import model_config_pb2 as pb

from kserve_server import read_config
from linked_models import LAYOUTS
from sbim_deploy.errors import ChecksumError, InputError
from sbim_deploy.io.locks import owning_file
from sbim_deploy.models.backends import identity
from sbim_deploy.models.engine_folder import EngineRecord, write_engine
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.models.triton_config import ServingSettings
from sbim_deploy.models.triton_repository import write_repository

CPU = ServingSettings("cpu", size=(32, 24), coils=2)
SHAPES = {
    "batch": [1, 2, 4],
    "8*h": [64, 64, 64],
    "8*w": [64, 64, 64],
    "coil": [1, 8, 8],
    "line": [1, 16, 64],
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(load_model("demo"), folder, CPU)
    return folder


@pytest.fixture
def small_model(tmp_path):
    """A model folder with a place for engines."""
    folder = tmp_path / "small"
    shutil.copytree(DEMO_FOLDER, folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def sessions(repository):
    """Each model's configuration, and its graph in ONNX Runtime from where the server would load it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    folders = sorted(path.parent for path in repository.glob("*/config.pbtxt"))
    return [(read_config(f), onnxruntime.InferenceSession(f / "1" / "model.onnx", options)) for f in folders]


def test_a_repository_that_another_run_writes_is_left_alone_by_any_name(small_model, tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "link").symlink_to("repository")
    with owning_file(tmp_path / "repository"):
        for name in ("repository", "link"):
            with pytest.raises(InputError, match="is being written by another run"):
                write_repository(small_model, tmp_path / name, CPU)


def test_every_configuration_is_what_onnx_runtime_says_of_the_graph_beside_it(sessions):
    assert len(sessions) == 9
    for config, session in sessions:
        assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.onnx")
        nodes = {node.name: node for node in session.get_inputs() + session.get_outputs()}
        batched = all(node.shape[0] == "batch" for node in nodes.values())
        assert config.max_batch_size == (8 if batched else 0)
        tensors = {tensor.name: tensor for tensor in (*config.input, *config.output)}
        assert tensors.keys() == nodes.keys()
        for name, tensor in tensors.items():
            shape = [size if isinstance(size, int) else -1 for size in nodes[name].shape[batched:]]
            assert list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims) == shape
            assert tensor.data_type == pb.TYPE_FP32


def test_slices_are_joined_where_they_are_the_first_axis(repository):
    config = read_config(repository / "demo-step-proximal")
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert list(config.version_policy.specific.versions) == [1]
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (pb.ModelInstanceGroup.KIND_CPU, 1)
    ]
    whole = read_config(repository / "demo-reconstruct-proximal")
    assert not whole.HasField("dynamic_batching")
    assert (
        "max_batch_size is 0: slices are the second axis"
        in (repository / "demo-reconstruct-proximal" / "config.pbtxt").read_text()
    )


def test_the_warm_up_runs_and_stays_finite(repository, sessions):
    for config, session in sessions:
        (sample,) = config.model_warmup
        assert sample.batch_size == 1
        feed = {}
        for tensor in config.input:
            warm = sample.inputs[tensor.name]
            shape = [1, *warm.dims] if config.max_batch_size else list(warm.dims)
            if warm.input_data_file:
                data = (repository / config.name / "warmup" / warm.input_data_file).read_bytes()
                array = np.frombuffer(data, "<f4").reshape(shape)
            else:
                array = np.zeros(shape, np.float32)
            feed[tensor.name] = array[..., 0] if tensor.HasField("reshape") else array
        (output,) = session.run(None, feed)
        assert output.shape[-2:] == (32, 24)
        assert np.all(np.isfinite(output))


def test_a_gpu_is_warmed_up_for_the_preferred_batches(small_model, tmp_path):
    write_repository(small_model, tmp_path / "r", ServingSettings(max_batch=4, instances=2))
    config = read_config(tmp_path / "r" / "demo-step-guided")
    assert [sample.batch_size for sample in config.model_warmup] == [1, 2, 4]
    assert [(g.kind, g.count) for g in config.instance_group] == [(pb.ModelInstanceGroup.KIND_GPU, 2)]
    assert [s.batch_size for s in read_config(tmp_path / "r" / "demo-reconstruct-guided").model_warmup] == [1]


def test_the_sums_are_those_of_the_files(repository):
    lines = (repository / "SHA256SUMS").read_text().splitlines()
    sums = {path: sha256 for sha256, path in (line.split("  ") for line in lines)}
    files = {str(p.relative_to(repository)) for p in repository.glob("*/**/*") if p.is_file()}
    assert sums.keys() == files
    for path, sha256 in sums.items():
        assert hashlib.sha256((repository / path).read_bytes()).hexdigest() == sha256


def test_the_weights_are_one_file_of_the_repository_alone(repository):
    files = list(repository.glob("*/1/weights.bin"))
    assert len(files) == 9
    assert {os.stat(path).st_nlink for path in files} == {9}
    assert (DEMO_FOLDER / "weights.bin").stat().st_ino not in {path.stat().st_ino for path in files}


def test_without_hard_links_they_are_copies_and_it_says_so(small_model, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    written = write_repository(small_model, tmp_path / "r", CPU)
    assert not written.weights_shared
    assert "are copies" in (tmp_path / "r" / "README.md").read_text()
    assert {path.stat().st_nlink for path in (tmp_path / "r").glob("*/1/weights.bin")} == {1}


def test_the_page_says_how_to_start(repository):
    text = (repository / "README.md").read_text()
    assert "tritonserver --model-repository=/models" in text
    assert "--load-model=demo-step-proximal" in text
    assert "Research use only" in text
    assert "--gpus" not in text


def test_what_is_there_is_not_replaced_unasked(small_model, tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is no repository of sbim-deploy"):
        write_repository(small_model, folder, CPU, force=True)
    (folder / "mine.txt").unlink()
    write_repository(small_model, folder, CPU)
    with pytest.raises(InputError, match="--force"):
        write_repository(small_model, folder, CPU)
    (folder / "mine.txt").write_text("mine")
    write_repository(small_model, folder, ServingSettings("cpu", max_batch=2), force=True)
    assert read_config(folder / "demo-score").max_batch_size == 2
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_failure_leaves_the_older_repository_and_nothing_else(small_model, tmp_path):
    folder = tmp_path / "r"
    write_repository(small_model, folder, CPU)
    before = sorted(tmp_path.iterdir())
    (small_model.folder / "weights.bin").write_bytes(b"damaged after it was checked")
    with pytest.raises(ChecksumError, match=r"weights\.bin: its copy"):
        write_repository(small_model, folder, CPU, force=True)
    assert sorted(tmp_path.iterdir()) == before
    assert (folder / "demo-score" / "1" / "model.onnx").is_file()


def add_engine(model, capability=89, version="10.10.0", backend="trt", graph="step-proximal", **changes):
    hashes = identity(model.folder, model.manifest, graph)
    record = EngineRecord(
        format_version=1,
        graph=graph,
        onnx_sha256=hashes["sbim_deploy.onnx_sha256"],
        weights_sha256=hashes["sbim_deploy.weights_sha256"],
        backend=backend,
        backend_version=version,
        precision="float32",
        compute_capability=capability,
        inputs={"x": ["batch", 2, "8*h", "8*w"]},
        shapes=SHAPES,
        settings={},
        built_with={},
    )
    record = EngineRecord(**{**record.__dict__, **changes})
    (model.folder / "engines").mkdir(exist_ok=True)
    content = f"{backend} {version} sm{capability}".encode()
    return write_engine(model.folder / "engines", record, lambda path: path.write_bytes(content))


def test_engines_of_tensorrt_are_a_model_of_their_own(small_model, tmp_path):
    add_engine(small_model, 89)
    add_engine(small_model, 90, shapes={**SHAPES, "batch": [1, 3, 3]})
    written = write_repository(small_model, tmp_path / "r", ServingSettings())
    config = read_config(tmp_path / "r" / "demo-step-proximal-trt")
    assert config.backend == "tensorrt"
    assert dict(config.cc_model_filenames) == {"8.9": "model-sm89.plan", "9.0": "model-sm90.plan"}
    assert (tmp_path / "r" / config.name / "1" / "model-sm90.plan").read_bytes() == b"trt 10.10.0 sm90"
    # What both take: batches of at most 3.
    assert config.max_batch_size == 3
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 3]
    assert list(config.model_warmup[0].inputs["x"].dims) == [2, 64, 64]
    assert config.parameters["sbim_deploy.tensorrt_version"].string_value == "10.10.0"
    assert not written.left_out
    assert "TensorRT 10.10.0: they run in no other" in (tmp_path / "r" / "README.md").read_text()


def test_engines_that_a_server_cannot_load_are_left_out_and_named(small_model, tmp_path):
    add_engine(small_model, 89, "10.9.0")
    add_engine(small_model, 90, "10.10.0")
    add_engine(small_model, 89, "1.7.1", backend="rtx")
    add_engine(small_model, 80, "10.10.0", weights_sha256="0" * 64)
    written = write_repository(small_model, tmp_path / "r", ServingSettings())
    reasons = " | ".join(written.left_out)
    assert len(written.left_out) == 3
    assert "none of TensorRT-RTX" in reasons
    assert "other weights" in reasons
    assert "one version of TensorRT" in reasons
    assert dict(read_config(tmp_path / "r" / "demo-step-proximal-trt").cc_model_filenames) == {
        "9.0": "model-sm90.plan"
    }
    on_cpu = write_repository(small_model, tmp_path / "cpu", CPU)
    assert "needs a GPU" in " ".join(on_cpu.left_out)
    assert not (tmp_path / "cpu" / "demo-step-proximal-trt").exists()


def test_a_damaged_engine_is_not_served(small_model, tmp_path):
    add_engine(small_model).write_bytes(b"other")
    with pytest.raises(ChecksumError):
        write_repository(small_model, tmp_path / "r", ServingSettings())
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"max_batch": 0}, "max-batch is 0"),
        ({"instances": 65}, "instances is 65"),
        ({"queue_delay_us": -1}, "queue-delay-us is -1"),
        ({"size": (8, 320)}, "size is 8x320"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ServingSettings(**changes)


def test_a_size_that_the_model_does_not_take_is_refused(small_model, tmp_path):
    with pytest.raises(InputError, match="expected multiples of 8"):
        write_repository(small_model, tmp_path / "r", ServingSettings("cpu", size=(100, 100)))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("make", LAYOUTS)
def test_a_model_of_links_becomes_a_repository_of_files(tmp_path, repository, make):
    folder = tmp_path / "repository"
    write_repository(load_model(make(tmp_path)), folder, CPU)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert (folder / "SHA256SUMS").read_bytes() == (repository / "SHA256SUMS").read_bytes()
