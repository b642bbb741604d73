"""Time ESPIRiT calibration against ``bart ecalib -m1``, and compare the maps on the object.

Both work on the same simulated scan, with the threads that OMP_NUM_THREADS allows (all cores without it).
BART's time includes starting the program and reading and writing its files, which lie in memory where there
is /dev/shm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.espirit import espirit_maps
from sbim_deploy.mri.fourier import centre_crop, centred_fft
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase

Array = NDArray[Any]


def simulate(n_coils: int, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return (true maps, support, noisy k-space) of a phantom in a ring of coils."""
    rng = np.random.default_rng(0)
    phantom = shepp_logan(shape)
    maps = birdcage_maps(n_coils, shape)
    kspace = centred_fft(maps * phantom * smooth_phase(shape, rng))
    kspace += 0.02 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return maps, phantom > 0, kspace.astype(np.complex64)


def fastest(function: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def time_bart(bart: str, kspace: Array, calib: int, repeats: int) -> tuple[float, Array]:
    """Return BART's fastest time and its maps. A .cfl file is column-major: row, column, slice, coil."""
    n_coils, *shape = kspace.shape
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = Path(folder)
        sizes = [*shape, 1, n_coils, *[1] * 12]
        (path / "kspace.hdr").write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n")
        kspace.transpose(1, 2, 0).ravel(order="F").tofile(path / "kspace.cfl")
        command = [bart, "ecalib", "-m1", f"-r{calib}", "-c0", "kspace", "maps"]
        seconds = fastest(lambda: subprocess.run(command, cwd=path, check=True, capture_output=True), repeats)
        maps = np.fromfile(path / "maps.cfl", np.complex64).reshape(*shape, n_coils, order="F")
    return seconds, maps.transpose(2, 0, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; ``arguments`` are the command line's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coils", type=int, default=16)
    parser.add_argument("--shape", default="384x320", help="rows x columns (default 384x320)")
    parser.add_argument("--calib", type=int, default=24, help="side of the calibration block")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the fastest counts")
    options = parser.parse_args(arguments)
    rows, columns = map(int, options.shape.split("x"))
    true_maps, support, kspace = simulate(options.coils, (rows, columns))
    calibration = centre_crop(kspace, (options.calib, options.calib))

    def agreement(maps: Array, other: Array) -> str:
        return f"{np.abs((maps.conj() * other).sum(axis=0))[support].mean():.6f}"

    maps = espirit_maps(calibration, (rows, columns))
    ours = fastest(lambda: espirit_maps(calibration, (rows, columns)), options.repeats)
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    print(f"{options.coils} coils, {rows} x {columns}, calibration {options.calib}, {threads} threads")
    print(f"{'':12}{'seconds':>10}{'mean |<a, true>|':>20}")
    print(f"{'sbim-deploy':12}{ours:10.3f}{agreement(maps, true_maps):>20}")
    bart = shutil.which("bart")
    if bart is None:
        print("bart is not installed: nothing to compare with")
        return
    theirs, bart_maps = time_bart(bart, kspace, options.calib, options.repeats)
    print(f"{'bart ecalib':12}{theirs:10.3f}{agreement(bart_maps, true_maps):>20}")
    print(f"ratio ours / bart {ours / theirs:.3f}, mean |<ours, bart>| {agreement(maps, bart_maps)}")


if __name__ == "__main__":
    main()
