"""Each kind of network that MRI priors are published in, from its checkpoint to an image and to engines."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from public_networks import CONFIGS, loaded, write_checkpoint

from sbim_deploy.export.model import export_model, scores_of
from sbim_deploy.export.scores import in_runtime_units
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model

SCALE = 0.5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=CONFIGS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(once, kind):
    return once(f"{kind}.pt", lambda path: write_checkpoint(path, kind))


@pytest.fixture(scope="module")
def model(once, kind, checkpoint):
    def export(folder: Path) -> None:
        export_model(checkpoint, checkpoint.with_suffix(".json"), folder, image_scale=SCALE)

    return load_model(once(f"{kind}-model", export))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_is_exported_and_validated_beside_its_checkpoint(cli, kind, model, checkpoint, backend):
    manifest = model.manifest
    assert (manifest.architecture, manifest.channels, manifest.image_scale) == (kind, 2, SCALE)
    options = ("--checkpoint", checkpoint, "--config", checkpoint.with_suffix(".json"), "--backend", backend)
    done = cli("validate", model.folder, *options)
    # Its weights are drawn: the graphs are right, and it is no prior.
    assert "the network leaves the noise" in done.error_line
    assert done.out.count(" ok") == 35
    assert "image scale: 0.5" in done.out


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_its_graph_is_the_network_in_the_runtimes_units(kind, model, backend):
    scaled = in_runtime_units(loaded(kind), SCALE)
    sigmas = [2 * sigma for sigma in (0.02, 0.7, 40.0)]
    x, sigma, expected = scores_of(scaled.network, sigmas, 2, (48, 32), seed=5)
    got = open_engine(model, "score", backend).run({"x": x, "sigma": sigma})["score"]
    for one, other in zip(got, expected, strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


@pytest.mark.parametrize(
    ("sampler", "backend"), [("dds", "onnxruntime"), ("dds", "openvino"), ("sbim", "openvino")]
)
def test_a_scan_is_reconstructed_with_it_and_doubted(cli, model, simulated, tmp_path, sampler, backend):
    arguments = ("--model", model.folder, "--sampler", sampler, "--steps", 4, "--slices", "0:1")
    done = cli("recon", simulated, "-o", tmp_path / "out.h5", "--backend", backend, *arguments)
    if sampler != "dds":
        # From noise drawn weights come to nothing, which is said.
        assert "the image does not explain its data at all" in done.err
        return
    assert done.code == 0, done.err
    assert "it is no prior for images" in done.err
    with h5py.File(tmp_path / "out.h5") as file:
        image = file["image"][:]
    assert image.shape == (1, 64, 64)
    assert np.isfinite(image).all()
    assert np.abs(image).max() > 0


def test_engines_are_built_for_the_gpus_of_two_generations(cli, model, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: no engine is built")
    options = ("--backend", "rtx", "--sm", 89, "--sm", 120, "--size", "64x64", "-o", tmp_path)
    for graph in ("score", "step-proximal", "reconstruct-proximal"):
        done = cli("build", model.folder, "--graph", graph, *options)
        assert done.code == 0, done.err
        assert "compute capability 8.9" in done.err
        assert "compute capability 12.0" in done.err
    assert len(list(tmp_path.glob("*.engine"))) == 6
