"""Reconstruction inside another program: a model is loaded once, and called for each slice."""

from __future__ import annotations

import threading
from pathlib import Path

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
        kspace: ComplexArray,
        mask: BoolArray | None = None,
        maps: ComplexArray | None = None,
        index: int = 0,
        image_shape: tuple[int, int] | None = None,
        calibration: ComplexArray | None = None,
        noise: float | None = None,
        map_method: str = AUTO,
        map_sets: int = 1,
    ) -> Reconstruction:
        """Reconstruct one slice; the same seed and index give the same image.

        Args:
            kspace: complex64 (coil, rows, columns), centred, readout along the rows, in any unit.
            mask: bool (columns,), (1, columns), (rows, 1) or (rows, columns); None takes what is not zero.
            maps: complex64 (coil, rows, columns), or (2, coil, rows, columns) for two sets; None estimates
                them.
            index: the slice's number, which keys its noise.
            image_shape: (rows, columns) of the image, for oversampled readouts; None is k-space's.
            calibration: k-space of the same shape to estimate the maps from, of calibration lines that were
                measured apart; None takes ``kspace``.
            noise: the standard deviation of each of the real and imaginary parts of k-space; None measures
                it, and whitens coils that differ.
            map_method: ``auto``, ``espirit`` or ``nlinv``, where no maps are given.
            map_sets: how many sets of maps are estimated: 2 for an object larger than the field of view.

        Raises:
            InputError: shapes do not fit, nothing was sampled, or no maps and no calibration lines.
            SamplingError: the sampler diverged.
        """
        problem = prepare_slice(
            kspace, index, mask, maps, image_shape, calibration, noise, map_method, map_sets=map_sets
        )
        with self._engine_in_use:
            (result,) = self._reconstructor([problem])
        check_converged(result.index, result.doubts)
        return result


def load_model(
    folder: str | Path = DEMO,
    sampler: SamplerChoice | None = None,
    seed: int = 0,
    backend: str = "auto",
    threads: int | None = None,
    samples: int = 1,
) -> LoadedModel:
    """Load a model folder, or "demo", and open its engine; keep what this returns.

    The arguments are those of :class:`sbim_deploy.recon.reconstruct.Reconstructor`.

    Raises:
        InputError: it is no model folder, or cannot reconstruct complex images.
        ChecksumError: a file of it was changed.
        BackendMissingError: the backend is not installed.
    """
    model = read_model(folder)
    return LoadedModel(Reconstructor(model, sampler, seed, backend, threads, samples=samples))
