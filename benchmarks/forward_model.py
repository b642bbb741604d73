"""What the noise and the coil maps that `recon` measures cost in the image, on anatomy with a known truth.

    python benchmarks/forward_model.py HEAD [HEAD ...] [--base SRC] [--size 128] [--only maps|noise|cuts]

HEAD is a volume (NIfTI, or .npz with `vol`) or `synthetic`. SRC is the `src` folder of another version, which
reconstructs the same k-space beside this one. Needs the extras cpu and nifti, and BART for L1-wavelet, whose
weight is the best of a grid, by the truth. Coils are a birdcage's or loops of unlike size; noise is 0.01 of
the 99th percentile of the image unless a table says another. Figures are dB of PSNR, means over the scans.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from real_scans import coil_maps, full_kspace, head_slice
from sbim_deploy import load_model
from sbim_deploy.experiment.peers import PEERS, bart_version
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centred_fft, centred_ifft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.noise_level import measure_noise
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.runs.evaluate import score

N_COILS = 8
FRACTIONS = (0.5, 0.62)
L1_WEIGHTS = (0.001, 0.003, 0.01, 0.03)
OWN, TRUE_MAPS, TRUE_NOISE, BASE, L1 = "own", "true maps", "true noise", "other version", "L1-wavelet"


@dataclass
class Case:
    """A scan: what `reconstruct` is called with, and the truth.

    ``ways`` are other ways to call it, and ``shading`` what their images are divided by.
    """

    row: str
    truth: np.ndarray
    kspace: np.ndarray
    given: dict[str, Any] = field(default_factory=dict)
    ways: dict[str, dict[str, Any]] = field(default_factory=dict)
    l1: bool = False
    noise: float = 0.01
    shading: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


def scans(heads: list[str], size: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.random.Generator]]:
    """Yield the family of the coils, the magnitude and the maps of each scan, and its random numbers."""
    volumes: dict[str, np.ndarray] = {}
    for number, head in enumerate(heads):
        for fraction in FRACTIONS:
            for family in ("birdcage", "loops"):
                rng = np.random.default_rng([number, int(100 * fraction), family == "loops"])
                magnitude = head_slice(head, fraction, size, volumes)
                yield family, magnitude, coil_maps(family, N_COILS, magnitude.shape, rng), rng


def map_cases(heads: list[str], size: int) -> Iterator[Case]:
    """Maps from few and from many calibration lines."""
    settings = [(8, 5), (4, 4), (4, 6), (2, 8), (3, 12), (4, 10), (6, 8), (2, 24), (6, 16)]
    for family, magnitude, maps, rng in scans(heads, size):
        full = full_kspace(magnitude, maps, 0.01, rng)
        for acceleration, lines in settings:
            mask = line_mask(size, acceleration, calib_width=lines)
            row = f"R = {acceleration}, {lines} lines, {family}"
            few = lines <= 6
            yield Case(row, magnitude, full * mask, {"mask": mask}, {TRUE_MAPS: {"maps": maps}}, few)


def windows(size: int) -> dict[str, np.ndarray]:
    """Return the windows that scanners multiply k-space with, along one direction, by name."""
    place = np.abs(2 * (np.arange(size) - size // 2) / size)
    return {
        "Fermi": 1 / (1 + np.exp((place - 0.9) / 0.05)),
        "Hamming": 0.54 + 0.46 * np.cos(np.pi * place),
        "Tukey": np.where(place < 0.5, 1, 0.5 * (1 + np.cos(np.pi * (place - 0.5) / 0.5))),
    }


def noise_cases(heads: list[str], size: int) -> Iterator[Case]:
    """Windowed k-space, zero-padding and no window at all."""
    shapes = {"none": (1.0, 1.0)}
    for name, window in windows(size).items():
        shapes[f"{name}, columns"] = (1.0, window)
        shapes[f"{name}, both"] = (window[:, None], window)
    padded = np.abs(np.arange(size) - size // 2) < 0.4 * size
    shapes["zero-padded, both"] = (padded[:, None], padded)
    for number, (_, magnitude, maps, rng) in enumerate(scans(heads, size)):
        if number % 4 not in (0, 3):  # each slice with one family of coils
            continue
        for noise in (0.01, 0.03):
            full = full_kspace(magnitude, maps, noise, rng)
            for name, (along_rows, along_columns) in shapes.items():
                acceleration = (2, 4)[number % 4 == 3]
                mask = line_mask(size, acceleration, calib_width=16)
                window = along_rows * along_columns * np.ones((size, size))
                truth = np.abs(centred_ifft(centred_fft(magnitude.astype(np.complex64)) * window))
                kspace = (full * window * mask).astype(np.complex64)
                ways = {TRUE_NOISE: {"noise": noise}}
                yield Case(f"window {name}, noise {noise}", truth, kspace, {"mask": mask}, ways, False, noise)


def cut_cases(heads: list[str], size: int) -> Iterator[Case]:
    """What goes past a cut, a coil that is noisy, and calibration from all of k-space."""
    for _, magnitude, maps, rng in scans(heads, size):
        mask = line_mask(size, 3, calib_width=16)
        full = full_kspace(magnitude, maps, 0.01, rng)
        rows = 5 * size // 8
        cut = (rows, size)
        # The reference's maps come from the whole field of view, its k-space from the rows that are kept.
        whole = prepare_slice(full * mask, mask=mask).maps
        way = {"maps": centre_crop(whole, cut)}
        truth = centre_crop(magnitude, cut)
        given = {"mask": mask, "image_shape": cut}
        yield Case("readout cut", truth, full * mask, given, {"maps of all rows": way})

        noisy = full.copy()
        noisy[2] += 10 * (full_kspace(np.zeros_like(magnitude), maps[:1], 0.01, rng)[0])
        gains = np.ones(N_COILS, np.float32)
        gains[2] = 101**-0.5
        scale = gains[:, None, None]
        # Whitened, with the true maps, the image has the shading of the weighted coils.
        by_hand = {"kspace": noisy * mask * scale, "maps": maps * scale, "noise": 0.01}
        case = Case("a coil of ten times the noise", magnitude, noisy * mask, {"mask": mask})
        case.ways["whitened, true maps"] = by_hand
        case.shading["whitened, true maps"] = root_sum_of_squares(maps * scale)
        yield case

        everything = np.ones(size, dtype=bool)
        few = {"calibration": full * (np.abs(np.arange(size) - size // 2) < 12)}
        yield Case("all of k-space sampled", magnitude, full, {"mask": everything}, {"maps of 24 lines": few})


TABLES = {"maps": map_cases, "noise": noise_cases, "cuts": cut_cases}


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the PSNR of an image's magnitude."""
    return score(np.abs(image), truth).psnr


def l1_wavelet(case: Case) -> float:
    """Return the PSNR of BART's L1-wavelet image with our maps and the best weight."""
    problem = prepare_slice(case.kspace, **case.given)
    peer = PEERS["bart-l1"]
    return max(psnr(peer.solve(problem, weight, 2), case.truth) for weight in L1_WEIGHTS)


def add_other_version(cases: list[Case], source: Path) -> None:
    """Reconstruct the cases with the package of another source folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, case in enumerate(cases):
            options = {**case.given, "kspace": case.kspace}
            np.savez(folder / f"case{index:04d}.npz", **options)
        here = Path(__file__).parent
        paths = os.pathsep.join((str(source), str(here)))
        command = [sys.executable, str(here / "reconstruct_cases.py"), name]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
        for index, case in enumerate(cases):
            image = folder / f"image{index:04d}.npy"
            case.scores[BASE] = psnr(np.load(image), case.truth) if image.exists() else np.nan


def print_table(name: str, cases: list[Case]) -> None:
    """Print the means of the rows, and the least and largest difference from the other ways."""
    columns = list(dict.fromkeys(way for case in cases for way in case.scores))
    rows = list(dict.fromkeys(case.row for case in cases))
    print(f"\n| {name} | scans | {' | '.join(columns)} | least of {columns[0]} - {columns[1]} |")
    print("|---" * (len(columns) + 3) + "|")
    for row in [*rows, "mean"]:
        chosen = [case for case in cases if row in (case.row, "mean")]
        means = [
            f"{np.nanmean([case.scores.get(column, np.nan) for case in chosen]):.1f}"
            if any(column in case.scores for case in chosen)
            else ""
            for column in columns
        ]
        worst = min(
            (
                case.scores[columns[0]] - case.scores[columns[1]]
                for case in chosen
                if columns[1] in case.scores
            ),
            default=np.nan,
        )
        print(f"| {row} | {len(chosen)} | {' | '.join(means)} | {worst:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--only", choices=TABLES)
    arguments = parser.parse_args()
    model = load_model("demo")
    for name, make in TABLES.items():
        if arguments.only not in (None, name):
            continue
        cases, ratios = [], []
        for case in make(arguments.heads, arguments.size):
            case.scores[OWN] = psnr(model.reconstruct(case.kspace, **case.given).image, case.truth)
            for way, options in case.ways.items():
                called = {"kspace": case.kspace, **case.given, **options}
                image = model.reconstruct(**called).image / case.shading.get(way, 1)
                case.scores[way] = psnr(image, case.truth)
            if case.l1 and bart_version() is not None:
                case.scores[L1] = l1_wavelet(case)
            if name == "noise":
                ratios.append(
                    (case.row, measure_noise(case.kspace, case.given["mask"][None]).sd / case.noise)
                )
            cases.append(case)
            print(f"\r{name}: {len(cases)} scans", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        if arguments.base is not None:
            add_other_version(cases, arguments.base)
        print_table(name, cases)
        if ratios:
            print("\n| noise, measured over true | least | median | largest |\n|---|---|---|---|")
            for row in dict.fromkeys(row for row, _ in ratios):
                found = [ratio for other, ratio in ratios if other == row]
                print(f"| {row} | {min(found):.2f} | {np.median(found):.2f} | {max(found):.2f} |")


if __name__ == "__main__":
    main()
