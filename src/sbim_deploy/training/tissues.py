"""The tissue maps of the MNI152 template, as nilearn carries them in its package (nothing is downloaded)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from sbim_deploy.errors import BackendMissingError, install_command
from sbim_deploy.records import BoolArray
from sbim_deploy.training.fields import Field

# Each has the radius of the closing, the spacing of the distances and how far they reach out, in mm.
CAVITY = (14.0, 2.0, 28.0)
HULL = (45.0, 4.0, 60.0)


@dataclass(frozen=True)
class Volume:
    """Values (x, y, z) on a grid along the axes of MNI space: voxel 0 at ``origin``, both in mm."""

    values: Field
    origin: tuple[float, float, float]
    spacing: float

    def sample(self, points: Field, where: BoolArray) -> Field:
        """Interpolate linearly at ``points`` (3, h, w) in mm ``where`` (h, w) they matter; the rest is 0.

        Beyond the volume, the values of its edge continue.
        """
        origin = np.asarray(self.origin, np.float32)
        chosen = (points[:, where] - origin[:, None]) / np.float32(self.spacing)
        sampled = np.zeros(where.shape, np.float32)
        sampled[where] = ndimage.map_coordinates(
            self.values, chosen, output=np.float32, order=1, mode="nearest"
        )
        return sampled


@dataclass(frozen=True)
class Tissues:
    """Fractions of gray and white matter, the places of sulci, and distances in mm, negative inside.

    ``sulci`` is high on the surface that lies midway between two banks of white matter. There the folds of
    one person have fluid, which the template, a mean over people, has lost. The cavity is the brain with its
    clefts closed: what in it is neither gray nor white is fluid. The hull is the brain with its hollows
    closed too, as the skin closes them.
    """

    gray: Volume
    white: Volume
    sulci: Volume
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
        raise BackendMissingError(f"the synthetic brains need nilearn: {install_command('train')}") from error
    gray = _volume(datasets.load_mni152_gm_template(resolution=1))
    white = _volume(datasets.load_mni152_wm_template(resolution=1))
    brain = _volume(datasets.load_mni152_brain_mask(resolution=1))
    return Tissues(
        gray, white, _sulci(white), _distance_from_closed(brain, *CAVITY), _distance_from_closed(brain, *HULL)
    )


def _volume(image: object) -> Volume:
    affine = np.asarray(image.affine)  # type: ignore[attr-defined]
    if not np.array_equal(affine[:3, :3], np.eye(3)):
        raise BackendMissingError(
            f"nilearn's MNI152 has the axes {affine[:3, :3].tolist()}, expected 1 mm along x, y and z: "
            "try nilearn 0.14"
        )
    origin = (float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3]))
    return Volume(np.asarray(image.dataobj, dtype=np.float32), origin, 1.0)  # type: ignore[attr-defined]


def _sulci(white: Volume) -> Volume:
    """Return how sharply, from 0 to 1, the distance from white matter peaks."""
    (box,) = ndimage.find_objects((white.values > 0.1).astype(np.int8))
    depth = ndimage.distance_transform_edt(white.values[box] < 0.5).astype(np.float32)
    peak = -ndimage.gaussian_laplace(depth, 0.9)
    inside = np.clip((depth - 1.0) / 1.5, 0, 1) * np.clip((12 - depth) / 4, 0, 1)
    values = np.zeros_like(white.values)
    values[box] = np.clip(peak / 0.6, 0, 1) * inside
    return Volume(values, white.origin, white.spacing)


def _distance_from_closed(brain: Volume, radius: float, spacing: float, margin: float) -> Volume:
    """Close ``brain`` by a ball of ``radius``, and return the distances from the closed shape."""
    step, pad = int(spacing / brain.spacing), int(margin / spacing)
    inside = np.pad(brain.values[::step, ::step, ::step] > 0.5, pad)
    grown = ndimage.distance_transform_edt(~inside) * spacing < radius
    closed = ndimage.distance_transform_edt(grown) * spacing > radius
    outside, within = (ndimage.distance_transform_edt(each) for each in (~closed, closed))
    distance = ndimage.gaussian_filter(spacing * (outside - within).astype(np.float32), 1.5)
    x, y, z = (start - margin for start in brain.origin)
    return Volume(distance, (x, y, z), spacing)
