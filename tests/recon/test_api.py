"""The API for other programs: light to import, and safe to share between threads."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

import sbim_deploy
from array_samples import compound
from bfloat16_processor import needs_bfloat16
from sbim_deploy import SamplerChoice, load_model
from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import load_model as read_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice

EMBEDDING = Path(__file__).parents[2] / "docs" / "embedding.md"
MASK = line_mask(48, 2.0)
LIGHT = """
import sys
import sbim_deploy
assert not {"numpy", "scipy", "onnxruntime", "msgspec"} & set(sys.modules), sys.modules
"""


def scan(index):
    return simulate_slice(SimulateSettings(4, 4, 48, 2.0), MASK, index)


@needs_bfloat16
def test_a_loaded_model_computes_in_the_precision_that_is_asked_for():
    choice = SamplerChoice(steps=2)
    fp32, bf16 = (
        load_model("demo", choice, backend="openvino", precision=precision).reconstruct(scan(0).kspace).image
        for precision in (None, "bf16")
    )
    assert 1e-5 < np.linalg.norm(bf16 - fp32) / np.linalg.norm(fp32) < 1e-2
    with pytest.raises(InputError, match="backend onnxruntime computes this model in float32"):
        load_model("demo", choice, backend="onnxruntime", precision="bf16")


def test_threads_that_share_a_model_get_the_images_of_one_thread_alone():
    model = load_model("demo", SamplerChoice(steps=3))
    alone = Reconstructor(read_model("demo"), SamplerChoice(steps=3))
    expected = [alone([prepare_slice(scan(index).kspace, index)])[0].image for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: model.reconstruct(scan(i % 4).kspace, index=i % 4).image, range(12)))
    for place, image in enumerate(got):
        np.testing.assert_array_equal(image, expected[place % 4])


def test_maps_come_from_calibration_lines_that_were_measured_apart():
    model = load_model("demo", SamplerChoice(steps=3))
    full = scan(0).kspace
    undersampled = full * (np.arange(full.shape[-1]) % 2 == 0)
    with pytest.raises(InputError, match="calibration lines"):
        model.reconstruct(undersampled)
    image = model.reconstruct(undersampled, calibration=full).image
    maps = prepare_slice(full).maps
    expected = model.reconstruct(undersampled, maps=maps).image
    assert np.linalg.norm(image - expected) < 1e-3 * np.linalg.norm(expected)


def test_calibration_of_another_shape_is_refused():
    with pytest.raises(InputError, match="calibration has shape"):
        load_model("demo", SamplerChoice(steps=3)).reconstruct(scan(0).kspace, calibration=scan(0).kspace[:3])


def test_the_package_alone_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_no_other():
    for name in sbim_deploy.__all__:
        assert getattr(sbim_deploy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sbim_deploy.nothing


def test_the_python_of_the_page_reconstructs():
    (code,) = re.findall(r"```python\n(.*?)```", EMBEDDING.read_text(), re.S)
    simulated = scan(0)
    names = {"kspace": simulated.kspace, "mask": MASK, "maps": simulated.maps}
    exec(code, names)
    assert names["image"].shape == (48, 48)
    assert 0 < names["residual"] < 0.1


def test_any_array_that_numpy_can_read_is_taken(tmp_path):
    model, kspace = load_model("demo", SamplerChoice(steps=2)), scan(0).kspace
    expected = model.reconstruct(kspace, MASK).image
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"], file["matlab"] = kspace, compound(kspace)
        for given in (file["kspace"], file["matlab"]):
            np.testing.assert_array_equal(model.reconstruct(given, MASK.astype(int)).image, expected)
    np.save(tmp_path / "k.npy", kspace)
    mapped = np.load(tmp_path / "k.npy", mmap_mode="r")
    np.testing.assert_array_equal(model.reconstruct(mapped, MASK.tolist()).image, expected)
    doubled = kspace.astype(np.complex128)
    np.testing.assert_array_equal(model.reconstruct(doubled, MASK[None]).image, expected)


def test_other_axes_are_said_by_the_layout():
    model, kspace = load_model("demo", SamplerChoice(steps=2)), scan(0).kspace
    expected = model.reconstruct(kspace, MASK).image
    got = model.reconstruct(kspace.transpose(1, 2, 0), MASK, layout="row,column,coil").image
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(InputError, match="4 slices by slice,row,column: give them one by one"):
        model.reconstruct(kspace, layout="slice,row,column")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kspace": np.zeros((2, 4, 48, 48), np.complex64)}, r"shape \(2, 4, 48, 48\).*one slice at a time"),
        ({"kspace": np.zeros((4, 48, 48))}, "dtype float64, expected complex"),
        ({"kspace": np.full((4, 48, 48), np.nan, np.complex64)}, "9216 of 9216 values that are not finite"),
        ({"kspace": "text"}, "expected complex"),
        ({"kspace": [[1j], [1j, 2j]]}, "NumPy cannot read"),
        ({"mask": np.ones(40)}, r"mask has shape \(40,\).*expected bool \(48,\)"),
        ({"maps": np.ones((4, 48, 48))}, "maps has dtype float64, expected complex"),
    ],
)
def test_arrays_that_will_not_do_are_refused_in_one_line(given, message):
    arguments = {"kspace": scan(0).kspace, **given}
    with pytest.raises(InputError, match=message) as caught:
        load_model("demo", SamplerChoice(steps=2)).reconstruct(**arguments)
    assert "\n" not in str(caught.value)
