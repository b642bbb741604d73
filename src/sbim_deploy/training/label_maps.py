"""Label maps of whole heads, with FreeSurfer's values, and masks of lesions.

The values outside the brain (502 to 530) are those of SynthSeg's training maps (Billot et al. 2023, Medical
Image Analysis 86:102789), which come without a table: what each of them is was read off its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sbim_deploy.errors import InputError
from sbim_deploy.runs.volume import read_volume
from sbim_deploy.training.fields import Field
from sbim_deploy.training.tissues import Volume

SUFFIXES = (".nii", ".nii.gz")
# The middle of the brain's bounding box in MNI space, and its size, in mm.
BRAIN_CENTRE = np.array([0.0, -16.0, 5.0])
BRAIN_EXTENT = np.array([142.0, 178.0, 150.0])
MIN_BRAIN_MM3 = 5e4
MAX_VOXELS = 512**3
DEPTH_SPACING = 2.0


@dataclass(frozen=True)
class Zone:
    """A kind of label, the FreeSurfer values that belong to it, and the shares of tissues that it holds.

    Shares that are empty are those of air, or are drawn for each slice (``training/heads.py``).
    """

    name: str
    labels: tuple[int, ...]
    shares: tuple[tuple[str, float], ...] = ()


ZONES = (
    Zone("air", (0,)),
    Zone("cortex", (3, 17, 18, 42, 53, 54, *range(1000, 3000)), (("gray", 1.0),)),
    Zone("cerebellar_cortex", (8, 47), (("gray", 1.0),)),
    Zone("white", (2, 41, 77, 78, 79, 85, *range(250, 256), 530, *range(3000, 5003)), (("white", 1.0),)),
    Zone("cerebellar_white", (7, 46), (("white", 1.0),)),
    Zone("fluid", (24, 257), (("fluid", 1.0),)),
    Zone("ventricle", (4, 5, 14, 15, 43, 44, 72), (("fluid", 1.0),)),
    Zone("thalamus", (9, 10, 48, 49), (("deep_gray", 0.65), ("white", 0.35))),
    Zone("striatum", (11, 12, 26, 50, 51, 58), (("deep_gray", 0.85), ("gray", 0.15))),
    Zone("pallidum", (13, 52), (("deep_gray", 0.6), ("white", 0.4))),
    Zone("brainstem", (16, 28, 60, *range(170, 180)), (("white", 0.75), ("deep_gray", 0.25))),
    Zone("cord", (512,), (("white", 0.8), ("gray", 0.2))),
    Zone("choroid", (31, 63, 136, 137, 163, 164), (("gray", 0.4), ("blood", 0.4), ("fluid", 0.2))),
    Zone("lesion", (25, 57), (("lesion", 1.0),)),
    Zone("blood", (30, 62, 502, 514), (("blood", 1.0),)),
    Zone("eye", (506,), (("fluid", 1.0),)),
    Zone("eye_muscle", (508,), (("muscle", 1.0),)),
    Zone("mucosa", (509,), (("muscle", 0.5), ("lesion", 0.5))),
    Zone("bone", (165, 259, 260, 515), (("bone", 1.0),)),
    Zone("marrow", (516,), (("marrow", 1.0),)),
    Zone("soft", (258, 507)),
    Zone("skin", (511,)),
)
ZONE = {zone.name: number for number, zone in enumerate(ZONES)}
BRAIN_ZONES = tuple(
    ZONE[name]
    for name in (
        "cortex",
        "cerebellar_cortex",
        "white",
        "cerebellar_white",
        "thalamus",
        "striatum",
        "pallidum",
        "brainstem",
        "choroid",
        "lesion",
    )
)


@dataclass(frozen=True)
class Head:
    """One head's zones (x, y, z), uint8, voxel 0 at ``origin`` of MNI space, voxels of ``spacing`` mm.

    The head keeps its size; the middle of its brain lies on the template's. ``below_skin`` and
    ``from_inner_table`` are distances in mm: how deep under the head's surface, and how far outside of brain
    and fluid, negative inside. ``brain_extent`` (3,) is the size of the brain in mm.
    """

    name: str
    zones: NDArray[np.uint8]
    origin: Field
    spacing: Field
    below_skin: Volume
    from_inner_table: Volume
    brain_extent: Field


def volume_files(folder: Path, what: str) -> tuple[Path, ...]:
    """Return the NIfTI files of a folder, sorted by name.

    Raises:
        InputError: it is no folder, or has none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with {what} as NIfTI files")
    paths = tuple(sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES)))
    if not paths:
        raise InputError(f"{folder}: has no .nii or .nii.gz file; expected {what}")
    return paths


@lru_cache(maxsize=64)
def read_head(path: Path) -> Head:
    """Read a label map.

    Raises:
        BackendMissingError: nibabel is not installed.
        InputError: the file is no label map of a head: values that FreeSurfer does not use, or no brain.
    """
    values, spacing = read_volume(path)
    if values.size > MAX_VOXELS:
        raise InputError(f"{path}: has {values.size} voxels, expected at most {MAX_VOXELS}")
    zones = _zones_of(values, path)
    # Specks beside the head are what was left of a headrest.
    parts, _ = ndimage.label(zones > 0)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if parts.any() else 0
    zones[parts != largest] = 0
    brain = np.isin(zones, BRAIN_ZONES)
    if brain.sum() * np.prod(spacing) < MIN_BRAIN_MM3:
        raise InputError(
            f"{path}: {brain.sum()} voxels are brain, expected {MIN_BRAIN_MM3 / 1000:g} ml and more: a label "
            "map with FreeSurfer's values (2 white matter, 3 cortex and so on)"
        )
    (head_box,) = ndimage.find_objects((zones > 0).astype(np.int8))
    zones, brain = np.ascontiguousarray(zones[head_box]), brain[head_box]
    (box,) = ndimage.find_objects(brain.astype(np.int8))
    low, high = (np.array([getattr(side, end) for side in box]) for end in ("start", "stop"))
    origin = BRAIN_CENTRE - spacing * (low + high - 1) / 2
    inner = brain | np.isin(zones, (ZONE["fluid"], ZONE["ventricle"]))
    return Head(
        path.name,
        zones,
        origin.astype(np.float32),
        spacing.astype(np.float32),
        _depth(_filled(zones > 0), False, origin, spacing),
        _depth(~inner, True, origin, spacing),
        ((high - low) * spacing).astype(np.float32),
    )


def read_lesion(path: Path) -> NDArray[np.bool_]:
    """Read a mask of a lesion in standard space, and return it (x, y, z) on 1 mm.

    Raises:
        BackendMissingError: nibabel is not installed.
        InputError: the file is no mask, or nothing is marked in it.
    """
    values, spacing = read_volume(path)
    marked = values > 0.5
    if len(np.unique(values)) > 2 or not marked.any():
        raise InputError(f"{path}: holds {len(np.unique(values))} values, expected 0 and 1: a lesion's mask")
    if not np.allclose(spacing, 1, atol=0.01):
        raise InputError(f"{path}: has voxels of {spacing.tolist()} mm, expected 1 mm")
    return np.asarray(marked)


@lru_cache(maxsize=512)
def read_lesion_box(path: Path) -> tuple[Field, NDArray[np.intp]]:
    """Return a lesion's mask (x, y, z), 0 or 1, in a box with a rim of 0, and where the box begins.

    A pool of slices takes the same lesions again and again, and whole masks of hundreds fill the memory.
    """
    mask = read_lesion(path)
    (box,) = ndimage.find_objects(mask.astype(np.int8))
    return np.pad(mask[box].astype(np.float32), 1), np.array([side.start - 1 for side in box])


def _zones_of(values: Field, path: Path) -> NDArray[np.uint8]:
    found = np.unique(values)
    known = {label: number for number, zone in enumerate(ZONES) for label in zone.labels}
    strange = [value for value in found.tolist() if value not in known]
    if strange:
        listed = ", ".join(f"{value:g}" for value in strange[:8]) + (" ..." if len(strange) > 8 else "")
        raise InputError(
            f"{path}: has the values {listed}, which are no labels of FreeSurfer that are known here: "
            "expected a label map as SynthSeg, aseg or aparc+aseg have it"
        )
    table = np.zeros(int(found[-1]) + 1, np.uint8)
    for value in found.astype(int).tolist():
        table[value] = known[value]
    return np.asarray(table[values.astype(np.intp)])


def _filled(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the head without its sinuses and airways, so that depth counts from the skin."""
    closed = ndimage.binary_closing(np.pad(inside, 8), iterations=6)[8:-8, 8:-8, 8:-8]
    return np.asarray(ndimage.binary_fill_holes(closed | inside))


def _depth(inside: NDArray[np.bool_], beyond: bool, origin: NDArray[Any], spacing: NDArray[Any]) -> Volume:
    """Return how deep voxels lie ``inside``, negative outside, on a coarser grid of even steps.

    ``beyond`` tells whether the map lies inside of it.
    """
    zoom = spacing / DEPTH_SPACING
    shape = np.maximum(np.ceil(inside.shape * zoom).astype(int), 2)
    places = [
        np.minimum((np.arange(n) / z).round().astype(int), m - 1)
        for n, z, m in zip(shape, zoom, inside.shape, strict=True)
    ]
    coarse = inside[np.ix_(*places)]
    # Below the map the head goes on: a neck that was cut off has no skin there.
    coarse = np.pad(coarse, ((0, 0), (0, 0), (8, 0)), mode="edge")
    coarse = np.pad(coarse, ((8, 8), (8, 8), (0, 8)), constant_values=beyond)
    within, outside = (ndimage.distance_transform_edt(each) for each in (coarse, ~coarse))
    depth = np.where(coarse, within - 0.5, 0.5 - outside)
    values = ndimage.gaussian_filter(np.float32(DEPTH_SPACING) * depth.astype(np.float32), 0.7)
    x, y, z = (float(start) - 8 * DEPTH_SPACING for start in origin)
    return Volume(values, (x, y, z), DEPTH_SPACING)
