"""A k-space array goes through recon and info as the fastMRI file with the same samples does."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from array_samples import write_matlab_73, write_npy, write_npz

FAST = ("--steps", "3", "--threads", "1")


@pytest.fixture
def kspace(simulated):
    """The first slice of the simulated scan, (coil, rows, columns)."""
    with h5py.File(simulated) as file:
        return file["kspace"][0]


def images(path):
    with h5py.File(path) as file:
        return file["image"][:]


def test_an_array_gives_the_image_of_the_same_samples_in_a_fastmri_file(cli, simulated, kspace, tmp_path):
    assert cli("recon", simulated, "-o", tmp_path / "expected.h5", "--slices", "0:1", *FAST).code == 0
    for number, (path, *options) in enumerate(
        [
            (write_npy(tmp_path, kspace=kspace),),
            (write_matlab_73(tmp_path, x=kspace.transpose(1, 2, 0)), "--layout", "row,column,coil"),
            (write_npz(tmp_path, a=0 * kspace, b=kspace), "--variable", "b"),
        ]
    ):
        out = tmp_path / f"{number}.h5"
        done = cli("recon", path, "-o", out, *options, *FAST)
        assert done.code == 0, done.err
        np.testing.assert_array_equal(images(out), images(tmp_path / "expected.h5"))
        is_guess = "--layout" not in options
        assert ("are taken to be" in done.err) == is_guess
        told = json.loads(cli("info", out, "--json").out)
        assert told["measured"]["scan"]["layout"].count(",") == 2
        assert bool(told["measured"]["scan"]["assumed"]) == is_guess
        assert told["layout"] == (None if is_guess else "row,column,coil")


def test_resuming_with_another_layout_begins_another_run(cli, kspace, tmp_path):
    path, out = write_npy(tmp_path, kspace=kspace), tmp_path / "out.h5"
    assert cli("recon", path, "-o", out, "--layout", "coil,row,column", *FAST).code == 0
    done = cli("recon", path, "-o", out, "--layout", "coil,column,row", *FAST, "--resume")
    assert done.code != 0
    assert "layout" in done.error_line


def test_info_says_the_axes_and_that_they_were_guessed(cli, kspace, tmp_path):
    path = write_npy(tmp_path, kspace=kspace)
    done = cli("info", path)
    assert done.code == 0, done.err
    assert "layout: coil,row,column" in done.out
    assert "assumed: the axes of 4 x 64 x 64 are taken to be coil, row, column" in done.out
    named = cli("info", path, "--layout", "slice,row,column")
    assert "slices: 4" in named.out
    assert "assumed" not in named.out


def test_what_cannot_be_told_is_refused_in_one_line_with_the_way_out(cli, kspace, tmp_path):
    cube = write_npy(tmp_path, kspace=np.ones((64, 64, 64), np.complex64))
    for command in (("info", cube), ("recon", cube, "-o", tmp_path / "out.h5")):
        done = cli(*command)
        assert done.code != 0
        assert "--layout" in done.error_line
    assert "such as coil,row,column" in cli("info", cube, "--layout", "a,b").error_line


def test_six_coils_in_hdf5_are_not_read_as_six_slices(cli, kspace, tmp_path):
    path = tmp_path / "coils.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
    done = cli("recon", path, "-o", tmp_path / "out.h5", *FAST)
    assert "4 coils of one slice or 4 slices of one coil" in done.error_line
    done = cli("recon", path, "-o", tmp_path / "out.h5", "--layout", "coil,row,column", *FAST)
    assert done.code == 0, done.err
    assert images(tmp_path / "out.h5").shape == (1, 64, 64)
