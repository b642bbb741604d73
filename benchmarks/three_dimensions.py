"""3-D scans with the network and with BART's wavelets in 3-D: docs/three-dimensional.md.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/three_dimensions.py [--size 64]
        [--partitions 56] [--coils 6] [--patterns poisson caipirinha] [--preset balanced] [--head FILE.nii]
        [--png PICTURE.png]

Simulates a head at R = 2 x 2, and reconstructs it by ``sbim-deploy recon --dimensions 3``, with
``--through-plane`` and without, and by ``bart pics -l1 -R W:7:0:WEIGHT``, both with the simulated maps. BART
has the best of the weights on the very volume that is scored, which favours it; nothing of sbim-deploy is
chosen. Also told are the error of the differences between neighbouring slices (through the plane), and the
seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import scipy.ndimage

from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.pages.panels import Panel, write_montage
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, simulate_volume, volume_magnitude

WEIGHTS = (0.0005, 0.001, 0.002, 0.005, 0.01)
ITERATIONS = 100
OBJECT_SHARE, MARGIN_VOXELS = 0.05, 2


def main() -> None:
    """Print a row for each pattern and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--partitions", type=int, default=56)
    parser.add_argument("--coils", type=int, default=6)
    parser.add_argument("--patterns", nargs="+", default=["poisson", "caipirinha"])
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--own-maps", action="store_true", help="estimate the maps for sbim-deploy")
    parser.add_argument("--without-bart", action="store_true")
    parser.add_argument("--only-together", action="store_true", help="leave slices one by one out")
    parser.add_argument("--slices", default="0:0", help="A:B, those that are scored; all")
    parser.add_argument("--head", type=Path, help="a NIfTI volume in place of the head that ships")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()
    print("| mask | method | NRMSE | PSNR, dB | through the plane, NRMSE | s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for pattern in arguments.patterns:
            _compare(Path(folder), pattern, arguments)


def _compare(folder: Path, pattern: str, arguments: argparse.Namespace) -> None:
    scan = folder / "scan.h5"
    settings = SimulateVolumeSettings(
        arguments.size,
        arguments.partitions,
        arguments.coils,
        4,
        pattern,
        noise=arguments.noise,
        seed=arguments.seed,
    )
    magnitude = None if arguments.head is None else volume_magnitude(arguments.head, settings.shape)
    simulate_volume(scan, settings, force=True, magnitude=magnitude)
    with h5py.File(scan, "r+") as file:
        _end_maps_with_the_object(file)
        truth = np.abs(file["reference"][()]).swapaxes(0, 1)
        kspace, maps = (file[name][()].transpose(2, 3, 0, 1) for name in ("kspace", "s_maps"))
    start, stop = map(int, arguments.slices.split(":"))
    part = slice(start, stop or len(truth))
    images = {}
    if not arguments.only_together:
        images[arguments.preset] = _sbim(folder, scan, part, arguments, [])
    images[f"{arguments.preset} --through-plane"] = _sbim(folder, scan, part, arguments, ["--through-plane"])
    if not arguments.without_bart:
        write_cfl(folder / "ksp.cfl", kspace, force=True)
        write_cfl(folder / "maps.cfl", maps, force=True)
        weight, image, seconds = _bart(folder, truth, part, arguments.weights)
        images[f"bart pics -l1 -R W:7:0:{weight:g}"] = image, seconds
    truth = truth[part]
    for name, (image, seconds) in images.items():
        print(f"| {pattern} | {name} | {_scores(image, truth)} | {seconds:.0f} |", flush=True)
    if arguments.png is not None:
        shown = {"truth": truth, **{name: image for name, (image, _) in images.items()}}
        window = (0.0, float(np.percentile(truth, 99.5)))
        rows = [
            [Panel(volume[len(truth) // 2], name, window) for name, volume in shown.items()],
            [
                Panel(volume[::-1, :, truth.shape[2] // 2], "along the readout", window)
                for volume in shown.values()
            ],
        ]
        caption = f"A simulated head, R = 2 x 2 ({pattern}): a slice along the readout, and across the slices"
        write_montage(arguments.png, rows, caption, force=True)


def _end_maps_with_the_object(file: h5py.File) -> None:
    """Set the maps to zero beside the object, with a margin: where those that are estimated end."""
    magnitude = np.abs(file["reference"][()])
    inside = scipy.ndimage.binary_fill_holes(magnitude > OBJECT_SHARE * magnitude.max())
    inside = scipy.ndimage.binary_dilation(inside, iterations=MARGIN_VOXELS)
    file["s_maps"][...] = file["s_maps"][()] * inside[:, None]


def _sbim(
    folder: Path, scan: Path, part: slice, arguments: argparse.Namespace, more: list[str]
) -> tuple[FloatArray, float]:
    """Return the magnitude (readout, partitions, lines) and the seconds of the command."""
    output = folder / "result.h5"
    words = [sys.executable, "-m", "sbim_deploy", "recon", scan, "-o", output, "--dimensions", "3", "--force"]
    words += ["--preset", arguments.preset] + ([] if arguments.own_maps else ["--maps", scan])
    # Slices that are reconstructed together are so with all others.
    words += more or ["--slices", f"{part.start}:{part.stop}"]
    before = time.perf_counter()
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - before
    if done.returncode:
        sys.exit(done.stderr)
    with open_result(output) as result:
        image = np.stack([np.abs(result.read_image(place)) for place in range(result.n_slices)])
    return image[part] if more else image, seconds


def _bart(
    folder: Path, truth: FloatArray, part: slice, weights: Sequence[float]
) -> tuple[float, FloatArray, float]:
    """Return the best of the weights, the magnitude by it, and the seconds of one of them."""
    best: tuple[float, float, FloatArray] | None = None
    before = time.perf_counter()
    for weight in weights:
        options = ["-S", "-l1", "-i", str(ITERATIONS), "-R", f"W:7:0:{weight}"]
        words = ["bart", "pics", *options, "ksp", "maps", "image"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
        image = np.abs(_read_cfl(folder / "image.cfl", truth.shape))[part]
        error = nrmse(image, truth[part])
        if best is None or error < best[0]:
            best = error, weight, image
    assert best is not None
    return best[1], best[2], (time.perf_counter() - before) / len(weights)


def _read_cfl(path: Path, shape: tuple[int, ...]) -> ComplexArray:
    readout, partitions, lines = shape
    stored = np.fromfile(path, "<c8").reshape((readout, lines, partitions), order="F")
    return stored.swapaxes(1, 2)


def _scores(image: FloatArray, truth: FloatArray) -> str:
    error = np.sqrt(np.mean((image - truth) ** 2))
    psnr = 20 * np.log10(truth.max() / error)
    through = nrmse(np.diff(image, axis=0), np.diff(truth, axis=0))
    return f"{nrmse(image, truth):.4f} | {psnr:.2f} | {through:.4f}"


if __name__ == "__main__":
    main()
