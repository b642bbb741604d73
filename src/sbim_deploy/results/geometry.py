"""Where pixels lie in the patient: left, posterior, superior, in mm (DICOM PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.records import DIRECTION_TOLERANCE, SliceGeometry

Matrix = NDArray[np.float64]

PARALLEL_TOLERANCE = 1e-3  # of the directions of two slices of a stack
STEP_TOLERANCE = 0.01  # of the distance between slices


@dataclass(frozen=True)
class Stack:
    """Parallel slices at equal distances.

    ``order`` lists the slices as they lie in space, one after the other; ``affine`` takes
    (row, column, place in that order, 1) to (left, posterior, superior, 1) in mm.
    """

    order: tuple[int, ...]
    affine: Matrix


def slice_affine(geometry: SliceGeometry, shape: tuple[int, int]) -> Matrix:
    """Return what takes (row, column, slice, 1) to (left, posterior, superior, 1) in mm for one image.

    The pixel (rows // 2, columns // 2), the centre of a Fourier transform, lies at ``geometry.position``;
    the third column steps through the slice by its thickness.

    Raises:
        InputError: the directions are not three perpendicular unit vectors, or an extent is not positive.
    """
    axes = np.array([geometry.read_dir, geometry.phase_dir, geometry.slice_dir], np.float64).T
    extents = np.asarray(geometry.field_of_view_mm, np.float64)
    if not np.isfinite(geometry.position).all() or not (np.isfinite(extents) & (extents > 0)).all():
        raise InputError(
            f"the slice at {geometry.position} mm with a field of view of {geometry.field_of_view_mm} mm: "
            "expected finite numbers and positive lengths; write without geometry (--format h5)"
        )
    if not np.allclose(axes.T @ axes, np.eye(3), atol=DIRECTION_TOLERANCE):
        raise InputError(
            f"the slice's directions are {geometry.read_dir}, {geometry.phase_dir}, {geometry.slice_dir}: "
            "expected perpendicular unit vectors; write without geometry (--format h5)"
        )
    affine = np.eye(4)
    affine[:3, :3] = axes * (extents / (*shape, 1))
    affine[:3, 3] = geometry.position - affine[:3, :2] @ (shape[0] // 2, shape[1] // 2)
    return affine


def stack_slices(geometries: Sequence[SliceGeometry], shape: tuple[int, int]) -> Stack:
    """Put slices in their order in space and return the affine of the whole.

    They keep their order where it is the spatial one, and are sorted along ``slice_dir`` otherwise.

    Raises:
        InputError: they are not parallel, not straight above each other, or not at equal distances.
    """
    affines = np.stack([slice_affine(geometry, shape) for geometry in geometries])
    affine = affines[0].copy()
    if len(affines) == 1:
        return Stack((0,), affine)
    tolerance = PARALLEL_TOLERANCE * np.abs(affine[:3, :3]).max()
    if not np.allclose(affines[:, :3, :3], affine[:3, :3], rtol=0, atol=tolerance):
        raise _unequal("are not parallel or not of one size")
    normal = np.asarray(geometries[0].slice_dir, np.float64)
    places = affines[:, :3, 3] @ normal
    order = np.arange(len(places)) if _monotonic(places) else np.argsort(places, kind="stable")
    origins = affines[order, :3, 3]
    step = (origins[-1] - origins[0]) / (len(origins) - 1)
    distance = float(np.linalg.norm(step))
    straight = origins[0] + np.arange(len(origins))[:, None] * step
    if distance == 0 or np.abs(origins - straight).max() > STEP_TOLERANCE * distance:
        raise _unequal("do not lie at equal distances")
    if np.linalg.norm(step - (step @ normal) * normal) > STEP_TOLERANCE * distance:
        raise _unequal("do not lie straight above each other")
    affine[:3, 2], affine[:3, 3] = step, origins[0]
    return Stack(tuple(int(index) for index in order), affine)


def known_geometries(geometries: Sequence[SliceGeometry | None]) -> list[SliceGeometry]:
    """Return the geometries of slices that all have one, or nothing where none has.

    Raises:
        InputError: some have one and others have none.
    """
    known = [geometry for geometry in geometries if geometry is not None]
    if known and len(known) != len(geometries):
        raise InputError(
            f"{len(known)} of {len(geometries)} slices have a known place, expected all or none; "
            "write them apart (--slices)"
        )
    return known


def slice_spacing(geometries: Sequence[SliceGeometry], shape: tuple[int, int]) -> float | None:
    """Return the distance in mm between neighbours of a stack; None for one slice, or where there is none."""
    if len(geometries) < 2:
        return None
    try:
        return float(np.linalg.norm(stack_slices(geometries, shape).affine[:3, 2]))
    except InputError:
        return None


def _monotonic(places: NDArray[np.float64]) -> bool:
    steps = np.diff(places)
    return bool((steps > 0).all() or (steps < 0).all())


def _unequal(what: str) -> InputError:
    return InputError(
        f"the slices {what}, expected one stack for a volume; take slices of one stack (--slices), "
        "or write --format dicom, where every slice has its own place"
    )
