"""Nothing is replaced in silence, raw data never, and names are those of what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.overwriting import FOLDER, HDF5, PAGE, PICTURE, check_name, check_new, new_file


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with new_file(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(InputError, match=r"is there already; give --force"), new_file(path):
        pass
    with new_file(path, force=True) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_raw_data_is_not_replaced_by_force(tmp_path: Path) -> None:
    path = tmp_path / "k.npy"
    np.save(path, np.ones(4, np.complex64))
    with pytest.raises(InputError, match="holds an array of NumPy, k-space perhaps, which nothing replaces"):
        check_new(path, force=True)


def test_a_link_to_raw_data_counts_as_raw_data(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.ones(4, np.complex64))
    (tmp_path / "out.h5").symlink_to("k.npy")
    with pytest.raises(InputError, match="k-space perhaps"):
        check_new(tmp_path / "out.h5", force=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("report.h5", PAGE), ("report", PAGE), ("scan.cfl", PAGE), ("page.png", PAGE)),
        *(("picture.h5", PICTURE), ("picture.jpg", PICTURE), ("picture", PICTURE)),
        *(("out.nii", HDF5), ("out.nii.gz", HDF5), ("k.NPY", HDF5), ("out.png", HDF5), ("meas.dat", HDF5)),
        *(("out.dcm", FOLDER), ("scan.h5", FOLDER), ("out.png", FOLDER)),
    ],
)
def test_a_name_of_another_kind_is_refused(name: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"{kind} is written: expected"):
        check_name(Path(name), kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("r.html", PAGE), ("r.HTM", PAGE), ("p.png", PICTURE), ("p.PNG", PICTURE)),
        *(("out.h5", HDF5), ("out", HDF5), ("out.v2", HDF5), ("out.hdf5", HDF5), ("images.mrd", HDF5)),
        *(("dicom", FOLDER), ("scan.2026", FOLDER)),
    ],
)
def test_a_name_of_its_kind_is_taken(name: str, kind: str) -> None:
    check_name(Path(name), kind)
