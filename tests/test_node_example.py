"""The Node.js example, as its README runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.recon.channels import from_channels
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor

EXAMPLE = Path(__file__).parents[1] / "examples" / "node"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the example with its packages, in a folder of its own."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: the Node.js example is not run")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "reconstruct.mjs"):
        shutil.copy(EXAMPLE / name, folder)
    # The package's own script would fetch GPU libraries, which are not needed.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"onnxruntime-node cannot be installed here: {done.stderr[-300:]}")
    return folder


@pytest.mark.slow
def test_node_reconstructs_pythons_image(installed, simulated, tmp_path):
    problem, image = tmp_path / "problem.safetensors", tmp_path / "image.safetensors"
    python = [sys.executable, EXAMPLE / "problem.py", simulated, problem, "--slice", "1", "--seed", "3"]
    subprocess.run(python, check=True)
    node = ["node", installed / "reconstruct.mjs", DEMO_FOLDER, problem, image]
    done = subprocess.run(node, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = from_channels(load_file(image)["image"])

    with open_kspace(simulated) as kspace:
        prepared = prepare_slice(kspace.read_slice(1), 1, kspace.mask)
    (expected,) = Reconstructor(load_model("demo"), seed=3, graph="score")([prepared])
    difference = got[0] * np.float32(prepared.scale) - expected.image
    assert np.linalg.norm(difference) <= 1e-3 * np.linalg.norm(expected.image)


@pytest.mark.slow
def test_node_without_its_arguments_says_how_it_is_used(installed):
    done = subprocess.run(["node", installed / "reconstruct.mjs"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: node reconstruct.mjs MODEL_DIR" in done.stderr
