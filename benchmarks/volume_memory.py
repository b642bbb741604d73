"""What memory and disk a 3-D scan takes: docs/three-dimensional.md.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/volume_memory.py [--readout 384] [--lines 384]
        [--coils 32] [--partitions 16 32 64] [--method zero-filled] [--folder FOLDER]

Writes .cfl files of a smooth object and noise at R = 2 x 2, one after another, and reconstructs a slice of
each in a process of its own. The readout, the lines and the coils are those of a large scan. Only the
number of partitions is scaled down.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sbim_deploy.mri.plane_masks import plane_mask
from sbim_deploy.records import ComplexArray

PEAK = (
    "import resource, sys; from sbim_deploy.cli.app import main; "
    "sys.argv = ['sbim-deploy', *sys.argv[1:]]\n"
    "try: main()\n"
    "finally: sys.stderr.write(f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}')"
)


def main() -> None:
    """Print a row for each number of partitions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--readout", type=int, default=384)
    parser.add_argument("--lines", type=int, default=384)
    parser.add_argument("--coils", type=int, default=32)
    parser.add_argument("--partitions", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--method", default="zero-filled", help="of recon, or sampler: fast")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    print("| readout x lines x partitions x coils | k-space, GB | bytes a voxel and coil | peak, GB | s |")
    print("|---|---|---|---|---|")
    for n_partitions in arguments.partitions:
        shape = (arguments.readout, arguments.lines, n_partitions, arguments.coils)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            _write(Path(folder) / "scan.cfl", shape)
            peak, seconds = _run(Path(folder), shape[0] // 2, arguments.method)
        size = np.prod(shape, dtype=float) * 8
        each = peak / np.prod(shape, dtype=float)
        name = " x ".join(map(str, shape))
        print(f"| {name} | {size / 1e9:.2f} | {each:.2f} | {peak / 1e9:.2f} | {seconds:.0f} |", flush=True)


def _write(path: Path, shape: tuple[int, int, int, int]) -> None:
    """Write k-space of a Gaussian, which is one, times smooth random weights of the coils."""
    readout, lines, partitions, coils = shape
    rng = np.random.default_rng(0)
    mask = plane_mask((partitions, lines), (2, 2), calib_width=min(24, partitions // 2))
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, shape)) + "\n")
    bells = [np.exp(-((np.arange(n) - n // 2) ** 2) / 18.0) for n in (readout, lines, partitions)]
    with path.open("wb") as file:
        for _ in range(coils):
            shift = rng.normal(0, 1.5, 3)
            along = [np.roll(bell, round(step)) for bell, step in zip(bells, shift, strict=True)]
            for partition in range(partitions):
                part: ComplexArray = 1e3 * np.outer(along[0], along[1]) * along[2][partition]
                part = (
                    part + rng.standard_normal((readout, lines)) + 1j * rng.standard_normal((readout, lines))
                )
                (part * mask[partition]).astype("<c8").ravel(order="F").tofile(file)


def _run(folder: Path, middle: int, method: str) -> tuple[float, float]:
    words = ["recon", folder / "scan.cfl", "-o", folder / "out.h5", "--dimensions", "3"]
    words += ["--preset", "fast"] if method == "sampler" else ["--method", method]
    words += ["--slices", f"{middle}:{middle + 1}"]
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, words)], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - before
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stderr.rsplit("peak ", 1)[1]) * 1024, seconds


if __name__ == "__main__":
    main()
