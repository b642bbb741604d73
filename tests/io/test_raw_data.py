"""What is raw data, by its bytes, and so is never replaced."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from sbim_deploy.errors import InputError
from sbim_deploy.io.raw_data import is_simulated, raw_data_in
from sbim_deploy.kspace.cfl import write_cfl_images
from sbim_deploy.mrd.messages import IMAGE_HEADER
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file
from simulated_mrd import make_scan, write_mrd

COMPLEX = np.ones((2, 4, 4), np.complex64)


def hdf5(path: Path, name: str, values: object, record: dict[str, object] | None = None) -> Path:
    with h5py.File(path, "w") as file:
        file[name] = values
        if record is not None:
            file.attrs["provenance"] = json.dumps(record)
    return path


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, COMPLEX)
    return stream.getvalue()


def matlab() -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"k": COMPLEX})
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, COMPLEX)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("k.npy", npy()),
        ("k", npy()),
        ("k.npz", npz()),
        ("k.mat", matlab()),
        ("meas_MID00042.dat", b"anything"),
        ("scan.RAW", b"anything"),
        ("scan.mrd", b"yardl\x01\x00"),
        ("scan.ndjson", b'{"yardl":{"version":1}}'),
        ("20261130T120000-1.mrd", b"\x01\x00default" + b"\0" * 1017),
        ("meas", b"\0\0\0\0\x02\0\0\0" + b"\x07" * 64),
        ("k.cfl", b"\0" * 8),
    ],
)
def test_raw_data_of_every_kind_is_recognised(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert raw_data_in(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("kspace", np.ones((1, 2, 4, 4), np.float32)),
        ("scan/raw/KSpace", np.ones((2, 2))),
        ("anything", COMPLEX),
        ("parts", np.zeros((4, 4), [("real", "f4"), ("imag", "f4")])),
        ("dataset/data", np.zeros(3, [("head", "u1", (8,)), ("data", "f4")])),
    ],
)
def test_raw_data_in_hdf5_is_recognised_wherever_it_lies(
    tmp_path: Path, name: str, values: np.ndarray
) -> None:
    assert raw_data_in(hdf5(tmp_path / "scan", name, values))


def test_an_mrd_scan_and_a_simulated_one_are_raw_data(tmp_path: Path, simulated: Path) -> None:
    assert "k-space" in (raw_data_in(simulated) or "")
    assert is_simulated(simulated)
    scan = write_mrd(tmp_path / "scan.h5", make_scan())
    assert "MRD raw data" in (raw_data_in(scan) or "")
    assert not is_simulated(scan)


def test_results_and_other_files_are_no_raw_data(tmp_path: Path) -> None:
    write_cfl_images(tmp_path / "image.cfl", COMPLEX)
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "empty").touch()
    (tmp_path / "volume.nii").write_bytes((348).to_bytes(4, "little") + bytes(344))
    (tmp_path / "image.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    hdf5(tmp_path / "result.h5", "image", COMPLEX, {"software": {}})
    hdf5(tmp_path / "magnitudes.h5", "reconstruction", np.ones((2, 4, 4)))
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["dataset/image_0/header"] = np.zeros(1, IMAGE_HEADER)
        file["dataset/image_0/data"] = COMPLEX[None, None]
    for path in tmp_path.iterdir():
        assert raw_data_in(path) is None, path


def test_what_cannot_be_read_is_not_taken_for_nothing(tmp_path: Path, simulated: Path) -> None:
    path = tmp_path / "cut.h5"
    path.write_bytes(simulated.read_bytes()[:4000])
    with pytest.raises(InputError, match="is damaged, and nothing tells that it is no raw data"):
        raw_data_in(path)


def test_a_record_alone_makes_no_scan_a_result(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "scan.h5", "kspace", COMPLEX, {"software": {}})
    assert raw_data_in(path)


def test_a_simulated_scan_is_replaced_by_another_alone_and_only_by_force(
    tmp_path: Path, simulated: Path
) -> None:
    path = tmp_path / "scan.h5"
    settings = SimulateSettings(1, 2, 32, 2.0)
    simulate_file(path, settings)
    with pytest.raises(InputError, match="is there already"):
        simulate_file(path, settings)
    simulate_file(path, SimulateSettings(1, 3, 32, 2.0), force=True)
    with h5py.File(path) as file:
        assert file["kspace"].shape[1] == 3
    with h5py.File(path, "a") as file:
        del file.attrs["provenance"]
    with pytest.raises(InputError, match="holds k-space"):
        simulate_file(path, settings, force=True)


def test_an_array_beside_a_header_that_is_no_image_s_is_raw_data(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "scan.h5", "data", COMPLEX)
    with h5py.File(path, "a") as file:
        file["header"] = "<ismrmrdHeader/>"
    assert raw_data_in(path) == "a complex array ('data'), k-space perhaps"


def test_an_array_beside_mrd_images_is_raw_data(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "images.h5", "dataset/image_0/measured", COMPLEX)
    with h5py.File(path, "a") as file:
        file["dataset/image_0/header"] = np.zeros(1, IMAGE_HEADER)
    assert raw_data_in(path) == "a complex array ('dataset/image_0/measured'), k-space perhaps"
