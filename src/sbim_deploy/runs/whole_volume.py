"""3-D scans and their maps, opened as a run's settings say."""

from __future__ import annotations

from pathlib import Path

from sbim_deploy.kspace.sources import KspaceSource, open_source, open_source_maps
from sbim_deploy.kspace.volume import VolumeKspace, VolumeMaps
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.runs.settings import ReconSettings


def open_input(path: Path, output: Path, settings: ReconSettings) -> KspaceSource:
    """Open a k-space file as its settings say; the temporary store of a volume stands beside the output.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.sources.open_source` and
            :func:`sbim_deploy.kspace.volume_sources.open_volume`.
    """
    if settings.dimensions == 2:
        return open_source(path, settings.reading, settings.orientation)
    return open_volume(path, output.parent, settings.reading, settings.orientation, settings.volume)


def open_volume_maps(path: Path, volume: VolumeKspace) -> VolumeMaps:
    """Open the maps of a volume, which lie in their file as its k-space does.

    Raises:
        InputError: they are not as they must be, or of another size.
    """
    rows = {volume.n_readout, volume.n_slices}
    shapes = [(n, volume.n_columns) for n in sorted(rows, reverse=True)]
    maps = open_source_maps(path, volume.n_rows, volume.n_coils, shapes, dimensions=3)
    return VolumeMaps(maps, volume)
