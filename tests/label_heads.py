"""A head of concentric balls as a label map, for tests of what is drawn from label maps."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

SPACING = 3.0
N = 64
# From the outside in: the radius in mm and FreeSurfer's value.
BALLS = ((90, 511), (84, 507), (76, 515), (66, 24), (58, 3), (46, 2))


def ball_head() -> np.ndarray:
    """Return the labels (64, 64, 64) of voxels of 3 mm."""
    place = (np.arange(N) - (N - 1) / 2) * SPACING
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(place, place, place, indexing="ij")))
    labels = np.zeros((N, N, N), np.int16)
    for outer, value in BALLS:
        labels[radius < outer] = value
    return labels


def write_labels(path: Path, labels: np.ndarray, spacing: float = SPACING) -> Path:
    """Write labels as NIfTI and return the path."""
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([spacing, spacing, spacing, 1])), path)
    return path
