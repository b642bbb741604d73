"""A folder as the input of a study: k-space of every format, and nothing else."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest

from mrd_samples import sample_image
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.cfl import write_cfl, write_cfl_images
from sbim_deploy.kspace.sources import SUFFIXES, open_source
from sbim_deploy.mrd.images import MrdImageFile
from sbim_deploy.results.result_file import ResultWriter
from sbim_deploy.runs.simulate import SimulateSettings
from sbim_deploy.runs.simulate_mrd import simulate_mrd
from sbim_deploy.study.folders import list_folder


@pytest.fixture
def folder(simulated, tmp_path):
    """k-space in five formats, and what lies beside it: results, images, maps, notes."""
    with h5py.File(simulated) as file:
        kspace, image, maps = file["kspace"][0], file["reference"][0], file["s_maps"][0]
    shutil.copy(simulated, tmp_path / "a.h5")
    simulate_mrd(tmp_path / "b.mrd", SimulateSettings(1, 4, 32, 2.0))
    write_cfl(tmp_path / "c.cfl", np.moveaxis(kspace, 0, -1)[:, :, None])
    np.save(tmp_path / "d.npy", kspace)
    np.savez(tmp_path / "e.npz", kspace=kspace, reference=np.abs(image))
    (tmp_path / "f.h5").write_bytes(simulated.read_bytes()[:20_000])
    with ResultWriter(tmp_path / "result.h5", {}, range(1), resume=False) as writer:
        writer.write(0, image, image, 0.1)
        writer.finish({})
    with h5py.File(tmp_path / "fastmri.h5", "w") as file:
        file["reconstruction"] = np.abs(image)[None]
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["s_maps"] = maps[None]
    with h5py.File(tmp_path / "images.h5", "w") as file:
        MrdImageFile(file).append(sample_image(2, (1, 1, 8, 8)))
    write_cfl_images(tmp_path / "images.cfl", image[None])
    write_cfl(tmp_path / "maps.cfl", np.moveaxis(maps, 0, -1)[:, :, None])
    two_sets = np.stack([np.moveaxis(maps, 0, -1)[:, :, None]] * 2, axis=-1)
    write_cfl(tmp_path / "sets.cfl", two_sets)
    np.save(tmp_path / "truth.npy", np.abs(image))
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / ".hidden.h5").touch()
    (tmp_path / "folder.h5").mkdir()
    return tmp_path


def test_every_format_of_kspace_is_read_once_and_what_is_none_is_left_out_with_the_reason(folder):
    found = list_folder(folder)
    # The truncated one stays: the study tells why it cannot be read.
    assert [path.name for path in found.paths] == ["a.h5", "b.mrd", "c.cfl", "d.npy", "e.npz", "f.h5"]
    assert {path.name: reason for path, reason in found.left_out.items()} == {
        "fastmri.h5": "holds images (fastMRI result)",
        "images.cfl": "holds images or maps (BART .cfl)",
        "images.h5": "holds images (MRD images)",
        "maps.cfl": "holds images or maps (BART .cfl)",
        "maps.h5": "holds no k-space: its datasets are s_maps",
        "result.h5": "is a result of recon",
        "sets.cfl": "holds 2 sets of coil maps",
        "truth.npy": "holds images (NumPy .npy)",
    }


def test_recon_reads_what_is_listed(folder):
    for path in list_folder(folder).paths[:-1]:
        with open_source(path) as source:
            assert source.n_coils == 4


def test_the_suffixes_are_those_of_the_readers(folder):
    assert {path.suffix for path in list_folder(folder).paths} <= set(SUFFIXES)


def test_a_folder_of_results_is_refused_with_the_reason(folder):
    for path in list_folder(folder).paths:
        path.unlink()
    with pytest.raises(InputError, match=r"holds no files of k-space \(.h5, .*fastmri.h5 holds images"):
        list_folder(folder)
