"""Reconstruction inside another program: a model is loaded once, and called for each slice."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import as_array
from sbim_deploy.io.layouts import SLICE, named_layout
from sbim_deploy.models.folder import DEMO
from sbim_deploy.models.folder import load_model as read_model
from sbim_deploy.mri.map_choice import AUTO
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstruction, Reconstructor
from sbim_deploy.recon.self_check import check_converged
from sbim_deploy.records import BoolArray, ComplexArray
from sbim_deploy.samplers.choice import SamplerChoice


class LoadedModel:
    """A model with its engine and a sampler; threads may share it.

    Maps are estimated in the calling thread; the engine runs one slice at a time, the others wait.
    """

    def __init__(self, reconstructor: Reconstructor):
        self._reconstructor = reconstructor
        self._engine_in_use = threading.Lock()

    def reconstruct(
        self,
        kspace: Any,
        mask: Any = None,
        maps: Any = None,
        index: int = 0,
        image_shape: tuple[int, int] | None = None,
        calibration: Any = None,
        noise: float | None = None,
        map_method: str = AUTO,
        map_sets: int = 1,
        layout: str | None = None,
    ) -> Reconstruction:
        """Reconstruct one slice; the same seed and index give the same image.

        The arrays may be whatever NumPy can read: HDF5 datasets, tensors, memory maps, of any precision.

        Args:
            kspace: complex (coil, rows, columns), or (rows, columns) of a single coil, centred, readout along
                the rows, in any unit.
            mask: bool (columns,), (1, columns), (rows, 1) or (rows, columns); None takes what is not zero.
            maps: complex (coil, rows, columns), or (2, coil, rows, columns) for two sets; None estimates
                them.
            index: the slice's number, which keys its noise.
            image_shape: (rows, columns) of the image, for oversampled readouts; None is k-space's.
            calibration: k-space of the same shape to estimate the maps from, of calibration lines that were
                measured apart; None takes ``kspace``.
            noise: the standard deviation of each of the real and imaginary parts of k-space; None measures
                it, and whitens coils that differ.
            map_method: ``auto``, ``espirit`` or ``nlinv``, where no maps are given.
            map_sets: how many sets of maps are estimated: 2 for an object larger than the field of view.
            layout: the axes of ``kspace`` and ``calibration`` where they are others, such as
                ``row,column,coil``.

        Raises:
            InputError: shapes do not fit, nothing was sampled, or no maps and no calibration lines.
            SamplingError: the sampler diverged.
        """
        kspace = _coils_of(kspace, "k-space", layout)
        problem = prepare_slice(
            kspace,
            index,
            None if mask is None else _mask_of(mask, kspace.shape[1:]),
            None if maps is None else _complex64_of(maps, "maps"),
            image_shape,
            None if calibration is None else _coils_of(calibration, "calibration", layout),
            noise,
            map_method,
            map_sets=map_sets,
        )
        with self._engine_in_use:
            (result,) = self._reconstructor([problem])
        check_converged(result.index, result.doubts)
        return result


def _coils_of(values: Any, what: str, layout: str | None) -> ComplexArray:
    """Return one slice of k-space as (coil, rows, columns)."""
    array = _complex64_of(values, what)
    if layout is not None:
        axes = named_layout(layout, array.shape, what)
        if axes.size(SLICE) > 1:
            raise InputError(f"{what} has {axes.size(SLICE)} slices by {layout}: give them one by one")
        return np.ascontiguousarray(axes.arranged(array[axes.key(0)]))
    if array.ndim not in (2, 3):
        raise InputError(
            f"{what} has shape {array.shape}, expected (coil, rows, columns), one slice at a time; say other "
            "axes by layout"
        )
    return array.reshape(-1, *array.shape[-2:])


def _complex64_of(values: Any, what: str) -> ComplexArray:
    array = as_array(values, what)
    if array.dtype.kind != "c":
        raise InputError(f"{what} has dtype {array.dtype}, expected complex")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and that is refused
        converted: ComplexArray = array.astype(np.complex64, order="C", copy=False)
    n_bad = converted.size - int(np.count_nonzero(np.isfinite(converted)))
    if n_bad:
        raise InputError(f"{what} has {n_bad} of {converted.size} values that are not finite in complex64")
    return converted


def _mask_of(values: Any, shape: tuple[int, ...]) -> BoolArray:
    array = as_array(values, "mask")
    rows, columns = shape
    if array.dtype.kind not in "biuf" or array.shape not in (
        (columns,),
        (1, columns),
        (rows, 1),
        (rows, columns),
    ):
        raise InputError(
            f"mask has shape {array.shape} and dtype {array.dtype}, expected bool ({columns},), "
            f"(1, {columns}), ({rows}, 1) or ({rows}, {columns}) as k-space has"
        )
    mask: BoolArray = array != 0
    return mask


def load_model(
    folder: str | Path = DEMO,
    sampler: SamplerChoice | None = None,
    seed: int = 0,
    backend: str = "auto",
    threads: int | None = None,
    samples: int = 1,
    precision: str | None = None,
) -> LoadedModel:
    """Load a model folder, or "demo", and open its engine; keep what this returns.

    The arguments are those of :class:`sbim_deploy.recon.reconstruct.Reconstructor`.

    Raises:
        InputError: it is no model folder, or cannot reconstruct complex images; or the backend has no such
            precision.
        ChecksumError: a file of it was changed.
        BackendMissingError: the backend is not installed.
    """
    model = read_model(folder)
    return LoadedModel(
        Reconstructor(model, sampler, seed, backend, threads, samples=samples, precision=precision)
    )
