"""The API for other programs: light to import, safe to share, with the same images as ``recon``."""

import inspect
import io
import json
import pickle
import pydoc
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import sbim_deploy
from array_samples import compound
from bfloat16_processor import needs_bfloat16
from sbim_deploy import LoadedModel, SamplerChoice, load_model
from sbim_deploy.errors import CancelledError, InputError
from sbim_deploy.models.folder import load_model as read_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file, simulate_slice
from sbim_deploy.runs.simulate_mrd import simulate_mrd
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, simulate_volume
from sbim_deploy.samplers.plan import plan_as_dict
from sbim_deploy.samplers.presets import PRESETS

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


@pytest.fixture(scope="module")
def model():
    return load_model("demo", SamplerChoice(steps=3))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    simulate_file(path, SimulateSettings(3, 4, 48, 2.0))
    return path


def test_the_public_names_are_seen_before_they_are_used():
    code = "import sbim_deploy; print(*dir(sbim_deploy)); import pydoc; print(pydoc.render_doc(sbim_deploy))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.partition("\n")[0].split()
    assert {name for name in names if not name.startswith("__")} == {*sbim_deploy.__all__} - {"__version__"}
    assert "__version__" in names
    assert "reconstruct_volume(" in pydoc.plain(done.stdout)
    assert "progress: is called with" in pydoc.plain(done.stdout)


def test_the_signatures_are_those_that_programs_rely_on():
    assert list(inspect.signature(load_model).parameters) == [
        *("folder", "sampler", "seed", "backend", "threads", "samples", "preset", "plan", "precision"),
    ]
    assert list(inspect.signature(LoadedModel.reconstruct).parameters) == [
        *("self", "kspace", "mask", "maps", "index", "image_shape", "calibration", "noise", "map_method"),
        *("map_sets", "layout", "samples", "start", "progress", "cancel"),
    ]
    assert list(inspect.signature(LoadedModel.reconstruct_volume).parameters) == [
        *("self", "kspace", "mask", "maps", "slices", "noise", "map_method", "map_sets", "layout"),
        *("samples", "start", "progress", "cancel", "dimensions", "through_plane"),
    ]


def test_a_volume_of_a_file_is_what_recon_writes(model, file, tmp_path):
    settings = ReconSettings(choice=SamplerChoice(steps=3), slices=(1, 3))
    reconstruct_file(file, tmp_path / "out.h5", settings)
    for given in (file, str(file)):
        volume = model.reconstruct_volume(given, slices=(1, 3))
        assert volume.indices == (1, 2)
        with open_result(tmp_path / "out.h5") as result:
            for place in range(2):
                np.testing.assert_array_equal(volume.image[place], result.read_image(place))
    assert volume.image.shape == volume.zero_filled.shape == (2, 48, 48)
    assert volume.standard_deviation is None
    assert volume.residual.shape == (2,)


def test_a_volume_along_a_trajectory_is_reconstructed(model, tmp_path):
    pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
    path = tmp_path / "radial.h5"
    simulate_mrd(path, SimulateSettings(1, 4, 32, 2.0, trajectory="golden"))
    volume = model.reconstruct_volume(path)
    assert volume.image.shape == (1, 32, 32)
    assert volume.residual[0] < 0.2
    assert volume.slices[0].prior_orientations == 8


def test_a_3d_scan_is_reconstructed_as_recon_does_it_one_by_one_and_together(tmp_path):
    path, steps = tmp_path / "volume.h5", SamplerChoice(steps=2)
    simulate_volume(path, SimulateVolumeSettings(32, 24, 4, 4, "poisson"))
    loaded, images = load_model("demo", steps, threads=1), {}
    for together in (False, True):
        out, heard = tmp_path / f"{together}.h5", []
        settings = ReconSettings(choice=steps, maps=path, dimensions=3, through_plane=together, threads=1)
        reconstruct_file(path, out, settings)
        volume = loaded.reconstruct_volume(
            path,
            maps=path,
            dimensions=3,
            through_plane=together,
            progress=lambda *told, heard=heard: heard.append(told),
        )
        with open_result(out) as result:
            images[together] = np.stack([result.read_image(place) for place in range(32)])
        np.testing.assert_array_equal(volume.image, images[together])
        assert heard[-1] == ((96, 96) if together else (64, 64))
        assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    with h5py.File(path) as file:
        kspace, maps = file["kspace"][()], file["s_maps"][()]
    for given in (path, kspace):
        middle = loaded.reconstruct_volume(given, maps=maps, slices=(15, 17), dimensions=3)
        np.testing.assert_array_equal(middle.image, images[False][15:17])


def test_a_volume_of_an_array_a_dataset_or_a_list_is_that_of_the_file(model, file):
    with h5py.File(file) as opened:
        kspace, mask = opened["kspace"], opened["mask"][()]
        maps = np.stack([scan(index).maps for index in range(3)])
        expected = model.reconstruct_volume(file).image
        for given in (kspace, kspace[()], list(kspace[()])):
            np.testing.assert_array_equal(model.reconstruct_volume(given, mask).image, expected)
        other = kspace[()].transpose(2, 3, 1, 0)
        volume = model.reconstruct_volume(other, mask, layout="row,column,coil,slice")
        np.testing.assert_array_equal(volume.image, expected)
        with_maps = model.reconstruct_volume(kspace, mask, maps, slices=(2, 3))
        alone = model.reconstruct(kspace[2], mask, maps[2], index=2)
        np.testing.assert_array_equal(with_maps.image[0], alone.image)
        each_its_own = model.reconstruct_volume(kspace, np.stack([mask] * 3))
        np.testing.assert_array_equal(each_its_own.image, expected)


def test_a_slice_that_cannot_be_reconstructed_is_left_out_and_said(model, file):
    with h5py.File(file) as opened:
        kspace, mask = opened["kspace"][()], opened["mask"][()]
    kspace[1] = 0
    volume = model.reconstruct_volume(kspace, mask)
    assert volume.indices == (0, 2)
    assert volume.left_out.keys() == {1}
    assert "zero everywhere" in volume.left_out[1]
    assert "zero everywhere" in volume._repr_html_()
    with pytest.raises(InputError, match="zero everywhere"):
        model.reconstruct_volume(kspace, mask, slices=(1, 2))


def test_what_is_left_out_is_said_in_python_s_words(model, file):
    with h5py.File(file) as opened:
        kspace, mask = opened["kspace"][()], opened["mask"][()]
    masks = np.stack([mask] * 3)
    masks[1] = np.arange(mask.size) % 4 == 0  # without calibration lines
    left_out = model.reconstruct_volume(kspace, masks).left_out
    assert left_out.keys() == {1}
    assert "give them with maps=..." in left_out[1]


def test_progress_counts_every_network_call(model, file):
    heard = []
    model.reconstruct_volume(file, progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (9, 9)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    heard.clear()
    model.reconstruct(scan(0).kspace, MASK, samples=2, progress=lambda *count: heard.append(count))
    assert heard[-1] == (9, 9)  # two samples, and the image that tells the model's error


@pytest.mark.parametrize("kind", ["event", "function"])
def test_a_reconstruction_can_be_ended_between_network_calls(model, kind):
    event = threading.Event()
    heard = []

    def progress(done, total):
        heard.append(done)
        if done == 1:
            event.set()

    with pytest.raises(CancelledError, match="was cancelled"):
        model.reconstruct(
            scan(0).kspace, MASK, progress=progress, cancel=event if kind == "event" else event.is_set
        )
    assert heard[-1] == 1
    assert model.reconstruct(scan(0).kspace, MASK).image.any()


def test_samples_and_the_start_are_those_of_a_model_loaded_with_them(model):
    kspace = scan(0).kspace
    two = load_model("demo", SamplerChoice(steps=3), samples=2).reconstruct(kspace, MASK)
    got = model.reconstruct(kspace, MASK, samples=2)
    np.testing.assert_array_equal(got.image, two.image)
    np.testing.assert_array_equal(got.standard_deviation, two.standard_deviation)
    warm = load_model("demo", SamplerChoice(steps=3, start="l1-wavelet")).reconstruct(kspace, MASK)
    np.testing.assert_array_equal(model.reconstruct(kspace, MASK, start="l1-wavelet").image, warm.image)


def test_a_preset_is_a_sampler_with_its_samples():
    assert load_model("demo", preset="fast").plan == load_model("demo", PRESETS["fast"].choice).plan
    assert repr(load_model("demo", preset="thesis")).startswith("<demo: sbim-ld, 257 network calls, on ")


def test_a_plan_and_its_file_run_as_the_sampler_that_made_it(model, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_as_dict(model.plan)))
    expected = model.reconstruct(scan(0).kspace, MASK).image
    for plan in (model.plan, path, str(path)):
        loaded = load_model("demo", plan=plan)
        assert loaded.plan == model.plan
        np.testing.assert_array_equal(loaded.reconstruct(scan(0).kspace, MASK).image, expected)


def test_a_model_pickles_and_closes(model):
    again = pickle.loads(pickle.dumps(model))
    expected = model.reconstruct(scan(0).kspace, MASK).image
    with again:
        assert again.engine == model.engine
        assert again.manifest.name == "demo"
        np.testing.assert_array_equal(again.reconstruct(scan(0).kspace, MASK).image, expected)
    with pytest.raises(InputError, match="the model is closed"):
        again.reconstruct(scan(0).kspace, MASK)


def test_a_notebook_shows_pictures(model):
    result = model.reconstruct(scan(0).kspace, MASK)
    with Image.open(io.BytesIO(result._repr_png_())) as picture:
        assert picture.size == (96, 48)
        assert picture.getextrema()[1] == 255
    assert "data:image/png;base64," in result._repr_html_()
    assert "Not for diagnosis" in result._repr_html_()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: load_model("demo", preset="slow"), "unknown preset 'slow': expected one of fast"),
        (lambda m: load_model("demo", "fast"), "sampler is 'fast': expected a SamplerChoice"),
        (lambda m: load_model("demo", SamplerChoice(), preset="fast"), "sampler and preset are given"),
        (lambda m: load_model("demo", seed="1"), "seed is '1': expected a whole number"),
        (lambda m: load_model("demo", plan="none.json"), "none.json: cannot be read"),
        (lambda m: m.reconstruct_volume("none.h5"), "none.h5: no such file"),
        (lambda m: m.reconstruct_volume(scan(0).kspace), r"expected \(slice, coil, rows, columns\).*layout="),
        (lambda m: m.reconstruct_volume(np.ones((1, 2, 8, 8))), "holds no complex array"),
        (lambda m: m.reconstruct_volume(scan(0).kspace[None], dimensions=4), "dimensions is 4: expected 2"),
        (
            lambda m: m.reconstruct_volume(scan(0).kspace[None], through_plane=True),
            "give dimensions=3 too",
        ),
        (
            lambda m: m.reconstruct_volume(scan(0).kspace[None], samples=2, dimensions=3, through_plane=True),
            r"leave samples=\.\.\. out",
        ),
        (lambda m: m.reconstruct_volume(scan(0).kspace[None], slices=3), "got 3: expected two whole numbers"),
        (lambda m: m.reconstruct_volume(scan(0).kspace[None], slices=(0, 2)), "slices 0:2 asked for"),
        (lambda m: m.reconstruct_volume(scan(0).kspace[None], np.ones(7)), "mask"),
        (
            lambda m: m.reconstruct_volume(scan(0).kspace[None], maps=np.ones((2, 4, 48, 48))),
            "maps has shape",
        ),
        (lambda m: m.reconstruct(scan(0).kspace, image_shape=48), "got 48: expected two whole numbers"),
        (lambda m: m.reconstruct(scan(0).kspace, noise="much"), "noise is 'much': expected a number"),
        (lambda m: m.reconstruct(scan(0).kspace, noise=-1), "noise is -1: expected a finite number above 0"),
        (lambda m: m.reconstruct(scan(0).kspace, index=0.5), "index is 0.5: expected a whole number"),
        (lambda m: m.reconstruct(scan(0).kspace, samples=0), "samples is 0"),
        (lambda m: m.reconstruct(scan(0).kspace, start="best"), "unknown start 'best'"),
        (lambda m: m.reconstruct(scan(0).kspace * (np.arange(48) % 4 == 0)), "give them with maps=..."),
    ],
)
def test_what_python_gets_wrong_is_said_in_its_words(model, call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)
