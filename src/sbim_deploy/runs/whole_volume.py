"""3-D scans and their maps, opened as a run's settings say."""

from __future__ import annotations

from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.sources import KspaceSource, open_source, open_source_maps
from sbim_deploy.kspace.volume import VolumeKspace, VolumeMaps
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.recon.through_plane import plane_directions
from sbim_deploy.runs.settings import ReconSettings


def open_input(path: Path, output: Path, settings: ReconSettings) -> KspaceSource:
    """Open a k-space file as its settings say; the temporary store of a volume stands beside the output.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.sources.open_source` and
            :func:`sbim_deploy.kspace.volume_sources.open_volume`; or its slices are to be reconstructed
            together and cannot be: :func:`plane_directions_of`.
    """
    if settings.dimensions == 2:
        return open_source(path, settings.reading, settings.orientation)
    volume = open_volume(path, output.parent, settings.reading, settings.orientation, settings.volume)
    try:
        if settings.through_plane:
            plane_directions_of(volume, len(slice_indices(settings.slices, volume)))
    except BaseException:
        volume.__exit__(None, None, None)
        raise
    return volume


def slice_indices(bounds: tuple[int, int] | None, kspace: KspaceSource) -> range:
    """Return the slices of a half-open range, or all of them.

    Raises:
        InputError: k-space has no such range.
    """
    start, stop = bounds or (0, kspace.n_slices)
    if not 0 <= start < stop <= kspace.n_slices:
        raise InputError(
            f"{kspace.path}: slices {start}:{stop} asked for, expected a range within 0:{kspace.n_slices}"
        )
    return range(start, stop)


def plane_directions_of(kspace: KspaceSource, n_slices: int) -> tuple[int, ...]:
    """Return the axes of (slice, row, column) that planes through so many slices of a volume lie across.

    Raises:
        InputError: see :func:`sbim_deploy.recon.through_plane.plane_directions`; or it is no Cartesian one.
    """
    if not isinstance(kspace, VolumeKspace):
        raise InputError(
            f"{kspace.path}: is no Cartesian volume, which slices that are reconstructed together are of: "
            "leave --through-plane out"
        )
    voxel_mm = None if kspace.voxel_mm is None else (kspace.voxel_mm[2], *kspace.voxel_mm[:2])
    try:
        return plane_directions(voxel_mm, n_slices)
    except InputError as error:
        raise InputError(f"{kspace.path}: {error}") from error


def open_volume_maps(path: Path, volume: VolumeKspace) -> VolumeMaps:
    """Open the maps of a volume, which lie in their file as its k-space does.

    Raises:
        InputError: they are not as they must be, or of another size.
    """
    rows = {volume.n_readout, volume.n_slices}
    shapes = [(n, volume.n_columns) for n in sorted(rows, reverse=True)]
    maps = open_source_maps(path, volume.n_rows, volume.n_coils, shapes, dimensions=3)
    return VolumeMaps(maps, volume)
