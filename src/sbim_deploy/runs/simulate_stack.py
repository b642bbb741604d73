"""A simulated stack of stars or of spirals: a head, its partitions sampled along one trajectory, noise.

The file is one of raw data as :mod:`sbim_deploy.runs.simulate_mrd` writes it, with the truth and the maps of
the slices that partitions become, from above to below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import write_json_attribute, writing
from sbim_deploy.io.overwriting import HDF5, check_name
from sbim_deploy.mrd.file import MrdWriter
from sbim_deploy.mri.coils import loop_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.nonuniform import import_finufft
from sbim_deploy.mri.trajectories import GOLDEN, full_readouts
from sbim_deploy.records import ComplexArray
from sbim_deploy.runs.simulate import (
    MIN_SIZE,
    SimulateSettings,
    Truth,
    check_ranges,
    simulated_provenance,
    simulated_trajectory,
)
from sbim_deploy.runs.simulate_mrd import Scanner, keep_truth, make_room_for_truth, mrd_header
from sbim_deploy.runs.simulate_volume import FIELD_OF_VIEW_MM, MAX_VOLUME_SIZE, head_magnitude, with_phase


@dataclass(frozen=True)
class SimulateStackSettings:
    """A stack to simulate: ``n_partitions`` axial partitions, which become as many slices.

    The others are those of :class:`sbim_deploy.runs.simulate.SimulateSettings`: the acceleration is that of
    each partition's readouts, and ``noise`` is by the 99th percentile of the volume.
    """

    size: int = 96
    n_partitions: int = 96
    n_coils: int = 8
    acceleration: float = 4.0
    trajectory: str = GOLDEN
    noise: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(
            {
                "size": (self.size, MIN_SIZE, MAX_VOLUME_SIZE),
                "partitions": (self.n_partitions, MIN_SIZE, MAX_VOLUME_SIZE),
            }
        )
        _ = self.slices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(partitions, rows, columns)."""
        return self.n_partitions, self.size, self.size

    @property
    def slices(self) -> SimulateSettings:
        """The same as a scan of slices."""
        return SimulateSettings(
            n_slices=self.n_partitions,
            n_coils=self.n_coils,
            size=self.size,
            acceleration=self.acceleration,
            noise=self.noise,
            seed=self.seed,
            trajectory=self.trajectory,
        )


def simulate_stack(
    path: Path,
    settings: SimulateStackSettings,
    on_partition: Callable[[float], None] | None = None,
    force: bool = False,
) -> float:
    """Write an MRD file of a stack with its truth and return the effective acceleration.

    ``on_partition`` hears how many partitions are done: half of each is sampling its slice. Units, noise and
    ``force`` are those of :func:`sbim_deploy.runs.simulate_mrd.simulate_mrd`. All samples and maps are in
    memory together.

    Raises:
        BackendMissingError: finufft is not installed.
        InputError: the file cannot be written, or may not be replaced.
    """
    check_name(path, HDF5)
    import_finufft()
    slices, n = settings.slices, settings.n_partitions
    places = simulated_trajectory(slices)
    tell = on_partition or (lambda _done: None)
    with writing(path, force, over_simulated=True) as file:
        writer = MrdWriter(file, mrd_header(slices, FIELD_OF_VIEW_MM).encode())
        n_numbers = (
            settings.n_coils * len(places) * places.shape[1] + (settings.n_coils + 1) * settings.size**2
        )
        n_bytes = places.nbytes + n_numbers * np.dtype(np.complex64).itemsize  # of a partition and its slice
        check_free_space(path.parent, n * n_bytes)
        make_room_for_truth(file, slices)
        scanner = Scanner(writer, slices, is_stack=True)
        truths = stack_truth(settings)
        samples: ComplexArray = np.empty((n, settings.n_coils, *places.shape[:2]), np.complex64)
        for index, truth in enumerate(truths):
            samples[index] = scanner.samples_of(truth)
            keep_truth(file, truth, index, scanner.unit)
            tell((index + 1) / 2)
        for readout in range(len(places)):
            samples[:, :, readout] = centred_fft(samples[:, :, readout], axes=(0,))
        scanner.send_noise()
        for index, truth in enumerate(truths):
            check_free_space(path.parent, (n - index) * n_bytes)
            scanner.send_along(samples[index], index, truth.rng)
            tell((n + index + 1) / 2)
        write_json_attribute(file, "provenance", simulated_provenance({"dimensions": 3, **asdict(settings)}))
    return full_readouts(settings.trajectory, settings.size) / len(places)


def stack_truth(settings: SimulateStackSettings) -> list[Truth]:
    """Return what the slices of a stack are of; each draws the noise of the partition of its number.

    Slices follow each other along ``SLICE_DIR`` of :mod:`sbim_deploy.runs.simulate_mrd`, from above to below,
    and the head that ships lies from below to above.
    """
    image = with_phase(head_magnitude(settings.shape)[::-1], settings.seed)
    maps = loop_maps(settings.n_coils, settings.shape)[:, ::-1]
    return [
        Truth(image[index], maps[:, index], np.random.default_rng([settings.seed, index]))
        for index in range(settings.n_partitions)
    ]
