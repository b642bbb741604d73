"""A scan that another program made, served: the network halves the error of zero-filling at least."""

import shutil
import subprocess

import h5py
import numpy as np
import pytest
from mrd_client import pixels, run_session, serving

from sbim_deploy.mrd.file import open_mrd

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    if shutil.which(GENERATOR) is None:
        pytest.skip(f"{GENERATOR} is not installed (Debian: ismrmrd-tools): no scan of another program's")
    path = tmp_path_factory.mktemp("generated") / "scan.h5"
    command = [GENERATOR, "-m", "128", "-c", "4", "-O", "2", "-a", "4", "-w", "24", "-n", "0.01", "-C"]
    subprocess.run([*command, "-o", path], check=True, capture_output=True)
    return path


def truth(path):
    with h5py.File(path) as file:
        phantom, maps = (np.squeeze(file[f"dataset/{name}"][...]) for name in ("phantom", "csm"))
    norm = np.sqrt((maps["real"] ** 2 + maps["imag"] ** 2).sum(axis=0))
    return (np.abs(phantom["real"] + 1j * phantom["imag"]) * norm).T  # y, x to rows, columns


def error(image, expected):
    got = pixels(image).astype(float)
    return np.linalg.norm(got * np.vdot(got, expected) / np.vdot(got, got) - expected)


def test_every_repetition_comes_back_with_half_of_zero_fillings_error_or_less(generated):
    with open_mrd(generated) as scan:
        xml, readouts = scan.xml.decode(), list(scan.readouts())
    with serving() as server:
        modelled = run_session(server, readouts, "fast", None, xml)
        zero_filled = run_session(server, readouts, "zero-filled", None, xml)
    assert [int(image.header["repetition"]) for image in modelled] == [0, 1, 2, 3]
    # The generator names no directions, but the field of view is known all the same.
    assert all(image.header["field_of_view"].tolist() == [300.0, 300.0, 6.0] for image in modelled)
    expected = truth(generated)
    for ours, theirs in zip(modelled, zero_filled, strict=True):
        assert error(ours, expected) < 0.5 * error(theirs, expected)
