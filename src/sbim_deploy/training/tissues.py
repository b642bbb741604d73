"""The tissue maps of the MNI152 template, as nilearn carries them in its package (nothing is downloaded)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sbim_deploy.errors import BackendMissingError
from sbim_deploy.records import FloatArray

DISTANCE_SPACING = 2.0
CAVITY_CLOSING = 20.0
HULL_CLOSING = 45.0
AIR_MARGIN = 60.0


@dataclass(frozen=True)
class Volume:
    """Values (x, y, z) on a grid along the axes of MNI space: voxel 0 at ``origin``, both in mm."""

    values: FloatArray
    origin: tuple[float, float, float]
    spacing: float

    def sample(self, points: NDArray[np.float64], mode: str = "constant") -> FloatArray:
        """Interpolate linearly at ``points`` (3, ...) in mm; outside, 0 or the edge by scipy's ``mode``."""
        origin = np.reshape(self.origin, (3,) + (1,) * (points.ndim - 1))
        sampled: FloatArray = ndimage.map_coordinates(
            self.values, (points - origin) / self.spacing, output=np.float32, order=1, mode=mode
        )
        return sampled


@dataclass(frozen=True)
class Tissues:
    """Fractions of gray and white matter, and distances in mm, negative inside.

    The cavity is the brain with its clefts closed, so that what in it is neither gray nor white is fluid;
    the hull has its hollows closed too, as the skin does.
    """

    gray: Volume
    white: Volume
    from_cavity: Volume
    from_hull: Volume


@cache
def load_tissues() -> Tissues:
    """Read the maps at 1 mm, once a process.

    Raises:
        BackendMissingError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise BackendMissingError(
            'the synthetic brains need nilearn: pip install "sbim-deploy[train]"'
        ) from error
    gray = _volume(datasets.load_mni152_gm_template(resolution=1))
    white = _volume(datasets.load_mni152_wm_template(resolution=1))
    brain = _volume(datasets.load_mni152_brain_mask(resolution=1))
    return Tissues(gray, white, *_distances_from_closed(brain, (CAVITY_CLOSING, HULL_CLOSING)))


def _volume(image: object) -> Volume:
    affine = np.asarray(image.affine)  # type: ignore[attr-defined]
    if not np.array_equal(affine[:3, :3], np.eye(3)):
        raise BackendMissingError(
            f"nilearn's MNI152 has the axes {affine[:3, :3].tolist()}, expected 1 mm along x, y and z: "
            "try nilearn 0.14"
        )
    origin = (float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3]))
    return Volume(np.asarray(image.dataobj, dtype=np.float32), origin, 1.0)  # type: ignore[attr-defined]


def _distances_from_closed(brain: Volume, radii: tuple[float, float]) -> list[Volume]:
    """Close ``brain`` by balls of each radius; beyond a radius outside, the distance stays at it."""
    step = int(DISTANCE_SPACING / brain.spacing)
    pad = int(AIR_MARGIN / DISTANCE_SPACING)
    inside = np.pad(brain.values[::step, ::step, ::step] > 0.5, pad)
    x, y, z = (start - AIR_MARGIN for start in brain.origin)
    from_brain = ndimage.distance_transform_edt(~inside) * DISTANCE_SPACING
    volumes = []
    for radius in radii:
        depth = ndimage.distance_transform_edt(from_brain < radius) * DISTANCE_SPACING
        distance = ndimage.gaussian_filter((radius - depth).astype(np.float32), 1.0)
        volumes.append(Volume(distance, (x, y, z), DISTANCE_SPACING))
    return volumes
