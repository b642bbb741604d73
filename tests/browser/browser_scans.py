"""Scans that the page is given, files of them, and where the page is."""

from pathlib import Path

import h5py
import numpy as np

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.runs.simulate import brain_slice

TRY = Path(__file__).parents[2] / "docs" / "try"
HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{0}</x><y>{1}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{2}</x><y>{3}</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{4}</x><y>{5}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{6}</x><y>{7}</y><z>5</z></fieldOfView_mm></reconSpace></encoding></ismrmrdHeader>"""


def write_fastmri(path, kspace, **datasets):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        for name, values in datasets.items():
            file[name] = values
    return path


def scan(shape=(96, 80), n_coils=6, mask=None, noise=0.01, noise_of_coil=()):
    """k-space of a head, (coil, rows, columns), and its mask on the grid."""
    side = max(shape)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    head = brain_slice(1, side)[top : top + shape[0], left : left + shape[1]]
    rng = np.random.default_rng(7)
    image = head / np.percentile(head, 99) * np.exp(1j * np.linspace(0, 1, shape[1]))
    kspace = centred_fft(birdcage_maps(n_coils, shape) * image)
    levels = np.full(n_coils, noise)
    for coil, level in dict(noise_of_coil).items():
        levels[coil] = level
    drawn = rng.standard_normal((2, *kspace.shape))
    kspace = kspace + levels[:, None, None] * (drawn[0] + 1j * drawn[1])
    return (kspace * (1 if mask is None else mask)).astype(np.complex64)


def lines(n, acceleration, width, pattern="equispaced"):
    return line_mask(n, acceleration, pattern, width)[None]


def both_directions(rows, columns):
    mask = np.random.default_rng(3).random((rows, columns)) < 0.4
    mask[rows // 2 - 10 : rows // 2 + 10, columns // 2 - 10 : columns // 2 + 10] = True
    return mask


CASES = {
    "another size": {"mask": lines(80, 3, 10)},
    "odd sizes": {"shape": (75, 63), "mask": lines(63, 3, 9)},
    "few lines": {"mask": lines(80, 3, 5, "random")},
    "many lines": {"shape": (64, 64), "mask": lines(64, 2, 24)},
    "all lines": {"shape": (48, 56), "n_coils": 4},
    "one coil": {"n_coils": 1, "mask": lines(80, 2, 12)},
    "one coil without calibration lines": {"n_coils": 1, "mask": lines(80, 2, 0, "random")},
    "unlike coils": {"mask": lines(80, 3, 10), "noise_of_coil": ((2, 0.08),)},
    "skipped rows": {"shape": (72, 88), "mask": lines(72, 3, 10).T},
    "both directions": {"shape": (72, 64), "n_coils": 4, "mask": both_directions(72, 64)},
    "many coils": {"shape": (48, 48), "n_coils": 18, "mask": lines(48, 3, 10)},
}


def distance(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)
