"""The example that makes open k-space ready, on small scans in the layouts that are published."""

import importlib.util
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft, centred_ifft
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from simulated_mrd import make_scan, write_mrd

ROOT = Path(__file__).parents[1]
PATH = ROOT / "examples" / "open_data" / "to_fastmri.py"
spec = importlib.util.spec_from_file_location("to_fastmri", PATH)
assert spec is not None
assert spec.loader is not None
to_fastmri = importlib.util.module_from_spec(spec)
sys.modules["to_fastmri"] = to_fastmri  # where dataclasses look for the names of their annotations
spec.loader.exec_module(to_fastmri)


@pytest.fixture
def convert(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["to_fastmri.py", *map(str, arguments)])
        code = to_fastmri.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def coil_images(shape, n_slices=3, n_coils=3):
    """An object of another phase and height in every slice, complex64 (slices, coils, rows, columns)."""
    rng = np.random.default_rng(5)
    maps = birdcage_maps(n_coils, shape)
    image = shepp_logan(shape)
    return np.stack([(1 + index) * maps * image * smooth_phase(shape, rng) for index in range(n_slices)])


def interleaved(kspace):
    """Real and imaginary parts of the coils in turn, as the Calgary-Campinas set has them."""
    moved = np.moveaxis(kspace, 1, -1)
    return np.stack([moved.real, moved.imag], axis=-1).reshape(*moved.shape[:-1], -1).astype(np.float32)


def write_kspace(path, values, **others):
    with h5py.File(path, "w") as file:
        for name, each in {"kspace": values, **others}.items():
            file[name] = each
    return path


def calgary_campinas(shape):
    """Return k-space as stored: the uncentred transform, with its centre then moved to the middle."""
    stored = np.fft.fftshift(np.fft.fft2(coil_images(shape)), axes=(-2, -1))
    stored[..., int(np.ceil(0.85 * shape[1])) :] = 0
    return stored


# The published matrix is even in both directions (218 x 170); the others are there for the shift.
@pytest.mark.parametrize("shape", [(54, 42), (48, 35), (51, 40)])
def test_a_calgary_campinas_file_becomes_k_space_of_the_published_images(convert, tmp_path, shape):
    stored = calgary_campinas(shape)
    source, output = write_kspace(tmp_path / "e14.h5", interleaved(stored)), tmp_path / "out.h5"
    code, out, err = convert(source, output)
    assert code == 0, err
    never_measured = shape[1] - int(np.ceil(0.85 * shape[1]))
    assert f"3 slices of 3 coils, {shape[0]} x {shape[1]}, {never_measured} lines at the edges" in out
    # Modules/zero_filled_rec.py of the challenge: root-sum-of-squares of ifft2, of no shift at all.
    published = np.linalg.norm(np.fft.ifft2(stored), axis=1) * np.sqrt(shape[0] * shape[1])
    expected = np.fft.ifft2(np.fft.ifftshift(stored, axes=(-2, -1)), norm="ortho")
    with open_kspace(output) as file:
        assert (file.n_slices, file.n_coils, file.n_rows, file.n_columns) == (3, 3, *shape)
        assert (file.reference_name, file.voxel_mm, file.recon_shape) == (
            "reconstruction_rss",
            (1.0, 1.0, 1.0),
            shape,
        )
        for index in range(3):
            images = centred_ifft(file.read_slice(index))
            reference = file.read_reference(index)
            largest = reference.max()
            np.testing.assert_allclose(images, expected[index], atol=1e-5 * largest)
            np.testing.assert_allclose(reference, published[index], atol=1e-5 * largest)
            np.testing.assert_allclose(np.linalg.norm(images, axis=0), reference, atol=1e-5 * largest)
    with h5py.File(output) as file:
        assert file["kspace"].dtype == np.complex64
        assert file.attrs["max"] == file["reconstruction_rss"][()].max()
        assert json.loads(file.attrs["provenance"])["made_from"] == "e14.h5"


def test_some_slices_of_a_file_are_those_slices(convert, tmp_path):
    stored = calgary_campinas((54, 42))
    source = write_kspace(tmp_path / "e14.h5", interleaved(stored))
    assert convert(source, tmp_path / "all.h5")[0] == 0
    assert convert(source, tmp_path / "some.h5", "--slices", "1:3")[0] == 0
    with h5py.File(tmp_path / "all.h5") as whole, h5py.File(tmp_path / "some.h5") as part:
        for name in ("kspace", "reconstruction_rss"):
            np.testing.assert_array_equal(part[name][()], whole[name][1:3])


def test_an_mrd_file_is_cropped_and_has_its_voxels(convert, tmp_path):
    scan = make_scan(n_slices=2, size=32, oversampling=2)
    source, output = write_mrd(tmp_path / "scan.mrd", scan), tmp_path / "out.h5"
    code, _, err = convert(source, output)
    assert code == 0, err
    with open_kspace(output) as file:
        assert (file.n_rows, file.n_columns, file.recon_shape) == (64, 32, (32, 32))
        assert file.voxel_mm == pytest.approx((8, 8, 5))
        for index in range(2):
            truth = np.abs(scan.images[0, index])  # the maps are of unit root-sum-of-squares
            scale = file.read_reference(index).max() / truth.max()
            np.testing.assert_allclose(
                file.read_reference(index), scale * truth, atol=0.02 * scale * truth.max()
            )


def test_bart_s_array_and_one_s_own_get_a_reference(convert, tmp_path):
    images = coil_images((40, 30), n_slices=1)
    kspace = centred_fft(images).astype(np.complex64)
    write_cfl(tmp_path / "k.cfl", np.moveaxis(kspace[0], 0, -1)[:, :, None, :])
    write_kspace(tmp_path / "own.h5", kspace)
    for name in ("k.cfl", "own.h5"):
        output = tmp_path / f"{name}.out.h5"
        code, _, err = convert(tmp_path / name, output)
        assert code == 0, err
        code, _, err = convert(tmp_path / name, output)
        assert code != 0
        assert "is there already" in err
        with open_kspace(output) as file:
            np.testing.assert_array_equal(file.read_slice(0), kspace[0])
            np.testing.assert_allclose(file.read_reference(0), np.linalg.norm(images[0], axis=0), atol=1e-5)
            assert file.recon_shape is None


def undersampled(kspace):
    kspace[..., 1::4] = 0
    return kspace


def scattered(kspace):
    kspace *= np.random.default_rng(0).random(kspace.shape[-2:]) < 0.4
    return kspace


STORED = calgary_campinas((54, 42))


@pytest.mark.parametrize(
    ("values", "others", "arguments", "message"),
    [
        (interleaved(STORED)[..., :5], {}, [], "expected an even last axis"),
        (interleaved(STORED)[0], {}, [], "expected (slices, phase encodes, slice encodes"),
        (interleaved(undersampled(STORED.copy())), {}, [], "9 of 36 lines are zero"),
        (
            interleaved(scattered(STORED.copy())),
            {},
            [],
            "of the samples are zero; expected a fully sampled scan",
        ),
        (interleaved(np.fft.fft2(coil_images((54, 42)))), {}, [], "in.h5: slice 1: the energy is spread"),
        (interleaved(0 * STORED), {}, [], "slice 0 is zero everywhere; leave it out with --slices"),
        (interleaved(STORED), {}, ["--slices", "1:4"], "--slices is 1:4, expected a range within 0:3"),
        (interleaved(STORED), {}, ["--slices", "1-3"], "--slices is '1-3': expected A:B"),
        (np.complex64(STORED), {"reference": np.zeros((3, 54, 42), np.float32)}, [], "give the file itself"),
        (np.complex64(STORED), {"mask": np.arange(42) % 2}, [], "was undersampled, by its mask"),
    ],
)
def test_what_will_not_do_is_named_and_nothing_is_left(convert, tmp_path, values, others, arguments, message):
    source = write_kspace(tmp_path / "in.h5", values, **others)
    code, out, err = convert(source, tmp_path / "out.h5", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


def test_the_input_is_never_overwritten(convert, tmp_path):
    source = write_kspace(tmp_path / "in.h5", interleaved(STORED))
    before = source.read_bytes()
    code, _, err = convert(source, tmp_path / "." / "in.h5")
    assert code == 2
    assert "is the input; name another output" in err
    assert source.read_bytes() == before


def test_the_experiment_on_real_k_space_takes_a_converted_file(convert, cli, tmp_path):
    yaml = pytest.importorskip("yaml")
    source = write_kspace(tmp_path / "e14.h5", interleaved(calgary_campinas((64, 64))))
    assert convert(source, tmp_path / "kspace.h5")[0] == 0
    document = yaml.safe_load((ROOT / "experiments" / "real.yaml").read_text())
    document |= {"accelerations": [2], "slices": [1], "tuning_slices": [], "shown_slices": [1]}
    document |= {
        "methods": [{"sampler": "dds", "steps": 2}],
        "peers": ["zero-filled"],
        "baseline": "zero-filled",
    }
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(document))
    done = cli("experiment", tmp_path / "real.yaml", "-o", tmp_path / "real")
    assert done.code == 0, done.err
    assert "kspace.h5, slice 1" in (tmp_path / "real" / "index.html").read_text()
