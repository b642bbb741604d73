"""The methods without a network that samplers are compared with, and whether they are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sbim_deploy import __version__
from sbim_deploy.errors import BackendMissingError, install_command
from sbim_deploy.kspace.cfl import new_cfl, write_cfl
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.plugins import check_new_name
from sbim_deploy.recon.classical import Classical, solve_classically
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.through_plane import KeptSlices

PROGRAM = "bart"
MEMORY = "/dev/shm"  # noqa: S108  a private folder is made in it

WEIGHTS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# Of BART's wavelets along a trajectory: for 25 of 101 golden-angle spokes 0.0003 to 0.001 were best. Those
# of L2, 0.03 to 0.1, are within the grid of lines.
TRAJECTORY_WEIGHTS = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
# Of wavelets in 3-D: docs/three-dimensional.md.
VOLUME_WEIGHTS = (0.001, 0.002, 0.005, 0.01, 0.02)
# BART's own 30 are too few: at R = 8 its wavelets lost 1.7 dB by it on two held-out slices.
CG_ITERATIONS, WAVELET_ITERATIONS = 100, 200
VOLUME_ITERATIONS = 100

_BART = "apt-get install bart"


@dataclass(frozen=True)
class VolumePeer:
    """How a peer reconstructs a volume whose slices wait on disk: images (slice, rows, columns).

    The rest is as :class:`Peer` has it.
    """

    label: str
    solve: Callable[[KeptSlices, float, int], ComplexArray]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Peer:
    """A method of another package, or one of this package's own without the network.

    ``solve`` takes a slice, the weight of its regularisation and the threads, and returns the image (rows,
    columns) in the units of k-space. ``weights`` is the grid that the weight is chosen from, empty where
    nothing is tuned, and ``trajectory_weights`` that of samples along a trajectory; None takes none of
    these. ``volume`` is how it takes volumes, or None. ``version`` is None where the peer is not installed.
    """

    label: str
    solve: Callable[[SliceProblem, float, int], ComplexArray]
    weights: tuple[float, ...]
    version: Callable[[], str | None]
    install: str
    trajectory_weights: tuple[float, ...] | None = None
    volume: VolumePeer | None = None


def bart_version() -> str | None:
    """Return the version of the program on the PATH, or None where there is none."""
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "unknown"


def pics(problem: SliceProblem, options: tuple[str, ...], threads: int = 1) -> ComplexArray:
    """Return BART's reconstruction (rows, columns) of a slice with its own k-space and maps.

    ``-S`` returns it in the units of k-space: BART regularises an image that it has scaled to about 1.

    Raises:
        BackendMissingError: BART is not installed, or failed.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        if problem.trajectory is None:
            _write_coils(Path(folder) / "kspace", problem.kspace)
        else:
            _write_samples(Path(folder), problem.kspace, problem.trajectory.places)
            options = (*options, "-t", "trajectory")
        _write_coils(Path(folder) / "maps", problem.maps)
        image = _run_pics(Path(folder), options, threads)
    return image.reshape(problem.mvue.shape, order="F")


def pics_volume(slices: KeptSlices, options: tuple[str, ...], threads: int = 1) -> ComplexArray:
    """Return BART's reconstruction (slice, rows, columns) of a volume with its own k-space and maps.

    BART has columns, rows and slices on its axes 0, 1 and 2. A coil's k-space is in memory at a time here,
    and all of it in BART.

    Raises:
        BackendMissingError: see :func:`pics`.
    """
    first = slices.read_kept(0)
    n_coils, *shape = first.kspace.shape
    sizes = (*shape[::-1], slices.n_slices, n_coils)
    with tempfile.TemporaryDirectory(dir=slices.folder) as folder:
        kspace, maps = (new_cfl(Path(folder) / f"{name}.cfl", sizes) for name in ("kspace", "maps"))
        for place in range(slices.n_slices):
            problem = slices.read_kept(place)
            for stored, coils in ((kspace, problem.kspace), (maps, problem.maps)):
                stored[:, :, place] = coils.transpose(2, 1, 0)
        for coil in range(n_coils):
            kspace[..., coil] = centred_fft(kspace[..., coil], axes=(2,))
        image = _run_pics(Path(folder), options, threads)
    return image.reshape(slices.n_slices, *shape)


def _run_pics(folder: Path, options: tuple[str, ...], threads: int) -> ComplexArray:
    """Run BART on the files kspace and maps of a folder, and return its image as it lies in the file."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise BackendMissingError("BART is not on the PATH: install it (apt-get install bart)")
    done = subprocess.run(  # noqa: S603  no shell, and no name in it comes from a file
        [program, "pics", "-S", *options, "kspace", "maps", "image"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = " ".join(done.stderr.split())[:200]
        raise BackendMissingError(f"bart pics {' '.join(options)} failed: {reason}")
    return np.fromfile(folder / "image.cfl", dtype=np.complex64)


def _write_coils(path: Path, coils: ComplexArray) -> None:
    """Write (coil, rows, columns) with BART's axes: read, phase, slice, coil."""
    write_cfl(path.with_suffix(".cfl"), np.moveaxis(coils, 0, -1)[:, :, None, :])


def _write_samples(folder: Path, kspace: ComplexArray, places: FloatArray) -> None:
    """Write samples (coil, readout, sample) as BART's (1, sample, readout, coil), and where they lie."""
    write_cfl(folder / "kspace.cfl", kspace.transpose(2, 1, 0)[None])
    components = np.zeros((3, *places.shape[1::-1]), np.complex64)
    components[:2] = places.transpose(2, 1, 0)
    write_cfl(folder / "trajectory.cfl", components)


def _bart_l2(problem: SliceProblem, weight: float, threads: int) -> ComplexArray:
    return pics(problem, ("-l2", "-i", str(CG_ITERATIONS), "-r", f"{weight:g}"), threads)


def _bart_l1(problem: SliceProblem, weight: float, threads: int) -> ComplexArray:
    """Return BART's image with wavelets. Its steps are for maps of unit norm, and diverge with larger ones.

    Those of coils that were whitened are larger: the image is solved for in another unit then.
    """
    unit = max(np.float32(1), root_sum_of_squares(problem.maps).max())
    scaled = replace(problem, maps=problem.maps / unit)
    options: tuple[str, ...] = ("-l1", "-i", str(WAVELET_ITERATIONS), "-r", f"{weight:g}")
    if problem.trajectory is not None:
        # Steps by the largest eigenvalue, which is 1 on a grid alone: without it they diverge.
        options = ("-e", *options)
    image: ComplexArray = pics(scaled, options, threads) / unit
    return image


def _bart_l2_volume(slices: KeptSlices, weight: float, threads: int) -> ComplexArray:
    return pics_volume(slices, ("-l2", "-i", str(CG_ITERATIONS), "-r", f"{weight:g}"), threads)


def _bart_l1_volume(slices: KeptSlices, weight: float, threads: int) -> ComplexArray:
    """Return BART's image with wavelets along all three axes."""
    options = ("-l1", "-i", str(VOLUME_ITERATIONS), "-R", f"W:7:0:{weight:g}")
    return pics_volume(slices, options, threads)


def _sigpy_sense(problem: SliceProblem, weight: float, _threads: int) -> ComplexArray:
    """Return SigPy's image. SigPy does not scale the data, so they are given in the samplers' unit."""
    along = {} if problem.trajectory is None else {"coord": problem.trajectory.places}
    app = importlib.import_module("sigpy.mri.app")
    scale = np.float32(problem.scale)
    solver = app.SenseRecon(
        problem.kspace / scale, problem.maps, lamda=weight, max_iter=CG_ITERATIONS, show_pbar=False, **along
    )
    image: ComplexArray = solver.run().astype(np.complex64) * scale
    return image


def _sigpy_version() -> str | None:
    try:
        return importlib.metadata.version("sigpy")
    except importlib.metadata.PackageNotFoundError:
        return None


def _own(label: str, method: Classical) -> Peer:
    def solve(problem: SliceProblem, _weight: float, _threads: int) -> ComplexArray:
        return solve_classically(problem, method)

    def solve_volume(slices: KeptSlices, _weight: float, _threads: int) -> ComplexArray:
        places = range(slices.n_slices)
        return np.stack([solve_classically(slices.read_kept(place), method) for place in places])

    volume = VolumePeer(f"{label}, slice by slice", solve_volume, ())
    return Peer(label, solve, (), _own_version, "", (), volume)


def _own_version() -> str:
    return __version__


PEERS = {
    "zero-filled": _own("the measured data alone", Classical.ZERO_FILLED),
    "cg-sense": _own("CG-SENSE of this package", Classical.CG_SENSE),
    "l1-wavelet": _own("L1-wavelet of this package, its weight from the noise", Classical.L1_WAVELET),
    "bart-l2": Peer(
        f"BART pics -l2, {CG_ITERATIONS} iterations",
        _bart_l2,
        WEIGHTS,
        bart_version,
        _BART,
        WEIGHTS,
        VolumePeer(f"BART pics -l2 in 3-D, {CG_ITERATIONS} iterations", _bart_l2_volume, WEIGHTS),
    ),
    "bart-l1": Peer(
        f"BART pics -l1, wavelets, {WAVELET_ITERATIONS} iterations",
        _bart_l1,
        WEIGHTS,
        bart_version,
        _BART,
        TRAJECTORY_WEIGHTS,
        VolumePeer(
            f"BART pics -l1 -R W:7:0, wavelets in 3-D, {VOLUME_ITERATIONS} iterations",
            _bart_l1_volume,
            VOLUME_WEIGHTS,
        ),
    ),
    "sigpy-sense": Peer(
        f"SigPy SenseRecon, {CG_ITERATIONS} iterations",
        _sigpy_sense,
        WEIGHTS,
        _sigpy_version,
        install_command("peers"),
        WEIGHTS,
    ),
}


def register_method(name: str, method: Peer) -> None:
    """Add a method without this package's samplers, which ``experiment`` then knows as one of its peers.

    Raises:
        InputError: the name is taken, or is no name.
    """
    check_new_name(name, PEERS, "method")
    PEERS[name] = method
