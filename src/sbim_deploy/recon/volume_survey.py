"""What the slices of a 3-D scan share: the level of their noise, one scale, and the phase of their maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.mri.combine import combine_sets
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.mri.map_choice import AUTO, ESPIRIT, MIN_ESPIRIT_LINES, NLINV, count_calibration_lines
from sbim_deploy.mri.masks import calibration_block, compact_mask, sampled_mask
from sbim_deploy.mri.volume_maps import principal_coil
from sbim_deploy.recon.prepare import (
    GIVEN,
    NOISE_READOUTS,
    OfVolume,
    check_magnitude,
    measure_image_noise,
    measured_mask,
    prepare_slice,
)
from sbim_deploy.records import BoolArray, ComplexArray

N_SURVEYED = 16  # slices, evenly chosen
# Where a slice's outermost samples hold some of the object its noise is measured too high: 1.6 times in the
# middle of a head of 64 voxels, 18 times in ellipsoids with sharp edges. In the quietest fifth of the slices
# of both it is right within 5 %.
QUIET_SHARE = 0.2


class VolumeSlices(Protocol):
    """The slices of a volume; :class:`sbim_deploy.kspace.volume.VolumeKspace` says what each part is."""

    n_slices: int
    n_coils: int
    recon_shape: tuple[int, int] | None

    def read_slice(self, index: int) -> ComplexArray:
        """Read the k-space of one slice, complex64 (coils, rows, columns)."""

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Read the lines to estimate its maps from, of the same shape, or None where its own will do."""

    def read_noise(self, index: int) -> float | None:
        """Return the standard deviation of each part of k-space, or None where nothing tells it."""

    def read_whitening(self, index: int) -> ComplexArray | None:
        """Return the (coil, coil) matrix that mixed the coils as they were read; None where none did."""


@dataclass(frozen=True, eq=False)
class WholeVolume:
    """What was found out of all slices of a volume.

    ``noise`` is the standard deviation of each part of k-space and ``noise_source`` where it is from, in
    words; ``map_method`` that of all slices, so that neighbours do not differ by it; ``shared`` what each of
    them is prepared with.
    """

    noise: float
    noise_source: str
    map_method: str
    shared: OfVolume


def survey_volume(
    volume: VolumeSlices,
    read_maps: Callable[[int], ComplexArray | None],
    mask: BoolArray | None,
    noise: float | None,
    map_method: str,
    map_sets: int,
) -> WholeVolume:
    """Find out of up to 16 slices of a volume what all of its slices share.

    The noise is what readouts tell, else that of the quietest fifth of the slices. The scale is the 99th
    percentile of |MVUE| over all of these slices. Whether k-space is sound the slice of most energy tells
    alone: others may lie beside the object.

    Raises:
        InputError: no slice can be read, or nothing was measured.
    """
    chosen = np.unique(np.linspace(0, volume.n_slices - 1, min(volume.n_slices, N_SURVEYED)).round())
    indices = [int(index) for index in chosen]
    covariance = np.zeros((volume.n_coils, volume.n_coils), np.complex128)
    levels, n_lines, energies = [], [], []
    for index in indices:
        kspace, lines, calibration = _read(volume, index, mask)
        check_magnitude(kspace, index)
        block = calibration_block(lines, kspace.shape[-2:])
        samples = calibration[:, block[0], block[1]].reshape(volume.n_coils, -1).astype(np.complex128)
        covariance += samples @ samples.conj().T
        energies.append(float(np.linalg.norm(kspace)))
        n_lines.append(count_calibration_lines(lines, kspace.shape[-2:]))
        if noise is None and volume.read_noise(index) is None:
            measured = measured_mask(kspace, index, mask)
            found = measure_image_noise(
                kspace * measured, measured, (volume.recon_shape or kspace.shape[-2:])[0]
            )
            levels.append((found.sd, found.source))
    level, source = noise, GIVEN
    if level is None:
        level, source = volume.read_noise(indices[0]), NOISE_READOUTS
    if level is None:
        level, source = sorted(levels)[int(QUIET_SHARE * len(levels))]
    if map_method == AUTO:
        map_method = ESPIRIT if min(n_lines) >= MIN_ESPIRIT_LINES else NLINV
    coil, brightest = principal_coil(covariance), indices[int(np.argmax(energies))]
    pixels, kinds = [], frozenset[str]()
    for index in indices:
        kspace, _, _ = _read(volume, index, mask)
        given = read_maps(index)
        try:
            problem = prepare_slice(
                kspace,
                index,
                mask,
                given,
                volume.recon_shape,
                volume.read_calibration(index) if given is None else None,
                level,
                map_method,
                source,
                map_sets,
                volume=OfVolume(coil=coil, is_checked=index != brightest),
                whitening=None if given is None else volume.read_whitening(index),
            )
        except InputError:
            if index == brightest:
                raise
            continue  # where it is wanted, the run says so
        if index == brightest:
            kinds = frozenset(fault.kind for fault in problem.faults)
        image = combine_sets(problem.mvue) if problem.n_sets > 1 else problem.mvue
        pixels.append(np.abs(centre_crop(image, problem.image_shape)).ravel())
    scale = float(np.percentile(np.concatenate(pixels), 99)) or None
    return WholeVolume(level, source, map_method, OfVolume(scale, coil, is_checked=True, kinds=kinds))


def _read(
    volume: VolumeSlices, index: int, mask: BoolArray | None
) -> tuple[ComplexArray, BoolArray, ComplexArray]:
    """Return a slice's k-space, and the mask and k-space of what its maps are estimated from."""
    kspace, calibration = volume.read_slice(index), volume.read_calibration(index)
    if calibration is None:
        return kspace, measured_mask(kspace, index, mask), kspace
    return kspace, compact_mask(sampled_mask(calibration)), calibration
