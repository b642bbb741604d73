"""Reconstruction inside another program: a model is loaded once, and called with slices or whole volumes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from sbim_deploy.engines.engine import Engine
from sbim_deploy.errors import InputError
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import DEMO, Model, ModelManifest
from sbim_deploy.models.folder import load_model as read_model
from sbim_deploy.mri.map_choice import AUTO
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction, Volume
from sbim_deploy.recon.self_check import check_converged
from sbim_deploy.runs.arguments import (
    Cancel,
    Progress,
    coils_of,
    complex64_of,
    doubt_in_python,
    in_python,
    is_path,
    maps_of,
    mask_of,
    noise_of,
    pair_of,
    source_of,
    step_hook,
    whole_of,
    words_in_python,
)
from sbim_deploy.runs.plan_file import read_plan
from sbim_deploy.runs.scan import Scan, Tally, open_scan, readable_problems
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.through_plane import reconstruct_together
from sbim_deploy.runs.trajectories import settings_for
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.plan import STARTS, Plan
from sbim_deploy.samplers.presets import find_preset
from sbim_deploy.words import plural


@dataclass(frozen=True)
class _Loading:
    """What a model was loaded with: enough to load it again in another process."""

    folder: str | Path
    sampler: SamplerChoice | Plan
    seed: int
    backend: str
    threads: int | None
    samples: int
    precision: str | None


class LoadedModel:
    """A model with its engine and a sampler; :func:`load_model` makes one, and threads may share it.

    Maps are estimated in the calling thread; the engine runs one slice at a time, the others wait. In a
    ``with`` statement it lets its engines go at the end. It pickles: another process loads it again.

    Attributes:
        manifest: what the model's folder says of it.
        plan: the steps of its sampler.
        engine: what runs the network, such as ``{"backend": "openvino", ...}``.
    """

    def __init__(self, model: Model, loading: _Loading):
        self._model, self._loading = model, loading
        self._engines: dict[str, Engine] = {}
        self._engine_in_use = threading.Lock()
        usual = self._make_reconstructor(loading.sampler, loading.samples)
        self._usual: Reconstructor | None = usual  # None once the model is closed
        self.manifest: ModelManifest = model.manifest
        self.plan: Plan = usual.plan
        self.engine: Mapping[str, str] = dict(usual.engine.description)

    def __repr__(self) -> str:
        calls = plural(len(self.plan.steps), "network call")
        return f"<{self.manifest.name}: {self.plan.sampler}, {calls}, on {self.engine['backend']}>"

    def __reduce__(self) -> tuple[Callable[[_Loading], LoadedModel], tuple[_Loading]]:
        return _load, (self._loading,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the engines go, and their memory; the model cannot reconstruct any more."""
        with self._engine_in_use:
            self._usual = None
            self._engines.clear()

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
        samples: int | None = None,
        start: str | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Reconstruction:
        """Reconstruct one slice; the same seed and index give the same image.

        The arrays may be whatever NumPy can read: HDF5 datasets, tensors, memory maps, lists, of any
        precision.

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
            samples: the images that are drawn and averaged; None is the model's number. Two or more give a
                standard deviation.
            start: the image that the sampler starts from, ``zero-filled`` or ``l1-wavelet``; None is the
                sampler's own.
            progress: is called with the network calls that are done, and with their number.
            cancel: an event that is set, or a function that returns True, to end the reconstruction.

        Raises:
            InputError: shapes do not fit, nothing was sampled, or no maps and no calibration lines.
            SamplingError: the sampler diverged.
            CancelledError: ``cancel`` ended it.
        """
        with in_python():
            reconstructor = self._reconstructor(samples, start)
            kspace = coils_of(kspace, "k-space", layout)
            step = step_hook(progress, cancel, reconstructor.n_calls)
            problem = prepare_slice(
                kspace,
                whole_of(index, "index"),
                None if mask is None else mask_of(mask, kspace.shape[1:]),
                None if maps is None else complex64_of(maps, "maps"),
                pair_of(image_shape),
                None if calibration is None else coils_of(calibration, "calibration", layout),
                noise_of(noise),
                map_method,
                map_sets=map_sets,
                check=lambda: step(0),
            )
            return self._run(reconstructor, problem, step)

    def reconstruct_volume(
        self,
        kspace: Any,
        mask: Any = None,
        maps: Any = None,
        slices: tuple[int, int] | None = None,
        noise: float | None = None,
        map_method: str = AUTO,
        map_sets: int = 1,
        layout: str | None = None,
        samples: int | None = None,
        start: str | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        dimensions: int = 2,
        through_plane: bool = False,
    ) -> Volume:
        """Reconstruct the slices of a file or of an array, one after another, as ``recon`` does.

        A slice that cannot be reconstructed is left out, and said in the volume's ``left_out``.

        Args:
            kspace: the path of a file of any format that ``recon`` reads, or a complex array
                (slice, coil, rows, columns), such as an HDF5 dataset, of which a slice is read at a time, or
                a list of slices.
            mask: bool (columns,) or (rows, columns) for all slices, or one for each of an array's slices;
                None is the file's, or takes what is not zero.
            maps: the path of a file, or complex (slice, coil, rows, columns), or
                (slice, 2, coil, rows, columns) for two sets; None estimates them.
            slices: the first of the slices that are wanted and the one after the last; None is all.
            noise: that of :meth:`reconstruct`, and so are the next four.
            map_method: how maps are estimated.
            map_sets: how many sets of them.
            layout: the axes of an array where they are others, such as ``row,column,coil,slice``.
            samples: the images that are averaged.
            start: the image that the sampler starts from.
            progress: is called with the network calls that are done of all slices, and with their number.
            cancel: an event that is set, or a function that returns True, to end the reconstruction.
            dimensions: 3 for a 3-D scan, a file or an array (partition, coil, readout, line), of which slices
                are the positions along the readout, and share what they do in ``recon``.
            through_plane: reconstruct the slices of a 3-D scan together, on planes of three directions.

        Raises:
            InputError: the file cannot be read, shapes do not fit, or no slice can be reconstructed.
            SamplingError: the sampler diverged.
            CancelledError: ``cancel`` ended it.
        """
        with in_python(), ExitStack() as stack:
            n_samples = self._usual_if_open().samples if samples is None else whole_of(samples, "samples")
            asked = ReconSettings(
                dimensions=whole_of(dimensions, "dimensions"),
                through_plane=through_plane,
                samples=n_samples if through_plane else 1,
                maps=Path(maps) if is_path(maps) else None,
                map_method=map_method,
                map_sets=map_sets,
                noise=noise_of(noise),
                slices=pair_of(slices),
            )
            source = stack.enter_context(source_of(kspace, mask, layout, asked.dimensions))
            settings = settings_for(source, asked)
            reconstructor = self._reconstructor(samples, start, settings.graph)
            scan = stack.enter_context(open_scan(source, settings))
            if is_path(kspace) and mask is not None:
                given = mask_of(mask, (source.n_rows, source.n_columns))
                scan = replace(scan, mask=given if scan.mask is None else scan.mask & given)
            if maps is not None and not is_path(maps):
                scan = replace(scan, maps=stack.enter_context(maps_of(maps, source)))
            run = self._run_together if through_plane else self._run_all
            return run(reconstructor, scan, progress, cancel)

    def _run_all(
        self, reconstructor: Reconstructor, scan: Scan, progress: Progress | None, cancel: Cancel | None
    ) -> Volume:
        tally, results = Tally(), []
        n_calls = reconstructor.n_calls
        n_in_all = n_calls * len(scan.indices)
        step_hook(None, cancel, n_in_all)(0)
        for problem in readable_problems(scan.indices, scan, tally):
            place = scan.indices.index(problem.index)
            results.append(
                self._run(reconstructor, problem, step_hook(progress, cancel, n_in_all, place * n_calls))
            )
        return _volume(results, scan, tally)

    def _run_together(
        self, reconstructor: Reconstructor, scan: Scan, progress: Progress | None, cancel: Cancel | None
    ) -> Volume:
        tally, n_done = Tally(), 0
        step = step_hook(progress, cancel, (reconstructor.n_calls + 1) * len(scan.indices))

        def tell(n_more: int) -> None:
            nonlocal n_done
            n_done += n_more
            step(n_done)

        tell(0)
        with self._engine_in_use, TemporaryDirectory() as folder:
            self._usual_if_open()
            made = reconstruct_together(reconstructor, scan, tally, Path(folder), 1, scan.indices, tell)
            with closing(made):
                results = [_told(each) for several, _ in made for each in several]
        return _volume(results, scan, tally)

    def _run(
        self, reconstructor: Reconstructor, problem: SliceProblem, step: Callable[[int], None]
    ) -> Reconstruction:
        with self._engine_in_use:
            self._usual_if_open()
            (result,) = reconstructor([problem], step)
        return _told(result)

    def _usual_if_open(self) -> Reconstructor:
        if self._usual is None:
            raise InputError("the model is closed: load it again")
        return self._usual

    def _reconstructor(
        self, samples: int | None, start: str | None, graph: str = DEFAULT_GRAPH
    ) -> Reconstructor:
        """Return what runs the model's sampler, with another number of samples, start or graph."""
        usual = self._usual_if_open()
        if samples is None and start is None and graph == DEFAULT_GRAPH:
            return usual
        if not (start is None or start in STARTS):
            raise InputError(f"unknown start {start!r}: expected one of {', '.join(STARTS)}")
        sampler = self._loading.sampler
        return self._make_reconstructor(
            sampler if start is None else replace(sampler, start=start),
            usual.samples if samples is None else whole_of(samples, "samples"),
            graph,
        )

    def _make_reconstructor(
        self, sampler: SamplerChoice | Plan, samples: int, graph: str = DEFAULT_GRAPH
    ) -> Reconstructor:
        seed = self._loading.seed
        return Reconstructor(
            self._model, sampler, seed, graph=graph, samples=samples, open_graph=self._open_graph
        )

    def _open_graph(self, name: str) -> Engine:
        if name not in self._engines:
            loading = self._loading
            self._engines[name] = open_engine(
                self._model, name, loading.backend, loading.threads, loading.precision
            )
        return self._engines[name]


def load_model(
    folder: str | Path = DEMO,
    sampler: SamplerChoice | None = None,
    seed: int = 0,
    backend: str = "auto",
    threads: int | None = None,
    samples: int | None = None,
    preset: str | None = None,
    plan: Plan | str | Path | None = None,
    precision: str | None = None,
) -> LoadedModel:
    """Load a model folder, or "demo", and open its engine; keep what this returns.

    Args:
        folder: the model's folder, or "demo", the one that ships.
        sampler: the sampler, such as ``SamplerChoice("dds", steps=8)``; None is that of the preset
            ``balanced``.
        seed: the seed of the noise. With a slice's index it decides the slice's image.
        backend: ``auto``, or one of ``sbim_deploy.models.backends.BACKENDS``; a GPU by its number, such as
            ``trt://1``.
        threads: the engine's threads; None is one for each core.
        samples: the images that are drawn and averaged for each slice; None is the preset's number, or 1.
        preset: a sampler by the preset's name: ``fast``, ``balanced``, ``thesis`` or ``best``.
        plan: the steps themselves, or the path of a file of them, as ``sbim-deploy plan --json`` prints it.
        precision: ``fp32``, ``bf16`` or ``auto``, of the CPU's backends; None is FP32 unless the backend's
            name or the model says otherwise.

    Raises:
        InputError: it is no model folder, or cannot reconstruct complex images; or more than one of
            ``sampler``, ``preset`` and ``plan`` is given, or the backend has no such precision.
        ChecksumError: a file of it was changed.
        BackendMissingError: the backend is not installed.
    """
    with in_python():
        given = {"sampler": sampler, "preset": preset, "plan": plan}
        both = [name for name, value in given.items() if value is not None]
        if len(both) > 1:
            raise InputError(f"{' and '.join(both)} are given: each is a whole sampler, give one")
        if not (sampler is None or isinstance(sampler, SamplerChoice)):
            raise InputError(
                f'sampler is {sampler!r}: expected a SamplerChoice, such as SamplerChoice("dds", steps=8), '
                "or a preset by its name in preset"
            )
        chosen: SamplerChoice | Plan = sampler or SamplerChoice()
        n_samples = 1
        if preset is not None:
            found = find_preset(preset)
            chosen, n_samples = found.choice, found.samples
        elif plan is not None:
            chosen, n_samples = (plan, 1) if isinstance(plan, Plan) else read_plan(Path(plan))
        loading = _Loading(
            folder if str(folder) == DEMO else Path(folder).absolute(),
            chosen,
            whole_of(seed, "seed"),
            backend,
            threads,
            n_samples if samples is None else whole_of(samples, "samples"),
            precision,
        )
        return _load(loading)


def _told(result: Reconstruction) -> Reconstruction:
    """Return an image whose doubts name arguments."""
    result = replace(result, doubts=tuple(map(doubt_in_python, result.doubts)))
    check_converged(result.index, result.doubts)
    return result


def _volume(results: Sequence[Reconstruction], scan: Scan, tally: Tally) -> Volume:
    if not results:
        raise InputError(next(iter(tally.unread.values())))
    left_out = {index: words_in_python(reason) for index, reason in tally.unread.items()}
    return Volume(tuple(results), scan.kspace.voxel_mm, left_out)


def _load(loading: _Loading) -> LoadedModel:
    return LoadedModel(read_model(loading.folder), loading)
