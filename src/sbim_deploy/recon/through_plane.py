"""A plan on a whole volume at once, whose two-dimensional network sees planes of all three directions.

The steps of the plan denoise the planes across the first axis of the volume, then those across the second,
then those across the third, and so on in turn; after each, the data of every slice correct the image. So each
voxel is seen in all planes that it lies in, and neighbours across the slices agree. Lee et al. 2023
(arXiv:2303.08440) alternate two networks of perpendicular planes; here the network is one, which was trained
on planes of every direction. It sees the planes of a step in another orientation than those of the step
before (:mod:`sbim_deploy.recon.orientations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.grid import (
    GridProblem,
    draw_data_on_grid,
    normal_on_grid,
    put_on_grid,
    stack_slices,
    start_images,
)
from sbim_deploy.recon.orientations import count_orientations, view_in_step
from sbim_deploy.recon.prepare import SliceProblem, relative_residual
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction
from sbim_deploy.records import ComplexArray, FloatArray, Vector
from sbim_deploy.samplers.conjugate_gradient import Normal
from sbim_deploy.samplers.loop import DrawData, check_images, starting_point, take_step
from sbim_deploy.samplers.noise import NoiseStream

# The network was trained on square pixels; up to here a plane's may be longer than wide.
MAX_ASPECT = 1.5
# A plane of fewer slices shows the network nothing that it knows.
MIN_SLICES = 32
# Maps as they are estimated for a volume turn by less than 0.1 rad from slice to slice; those of slices that
# were estimated one by one turn by any angle.
MAX_TURN = 0.5

ReadProblem = Callable[[int], SliceProblem | None]


def plane_directions(voxel_mm: Vector | None, n_slices: int) -> tuple[int, ...]:
    """Return the axes of a volume (slice, row, column) across which planes have pixels as good as square.

    ``voxel_mm`` is (slice, row, column); None takes voxels for cubes. The slices themselves, ``n_slices`` of
    them, are always among them.

    Raises:
        InputError: there are no others, or the slices are few.
    """
    if n_slices < MIN_SLICES:
        raise InputError(
            f"{n_slices} slices are reconstructed together, expected at least {MIN_SLICES}: leave "
            "--through-plane out"
        )
    if voxel_mm is None:
        return (0, 1, 2)
    found = [0]
    for axis in (1, 2):
        sides = [size for other, size in enumerate(voxel_mm) if other != axis]
        if max(sides) <= MAX_ASPECT * min(sides):
            found.append(axis)
    if len(found) == 1:
        size = " x ".join(f"{each:g}" for each in voxel_mm)
        raise InputError(
            f"voxels are {size} mm, and planes across the slices take pixels at most {MAX_ASPECT:g} times as "
            "long as wide: leave --through-plane out"
        )
    return tuple(found)


def reconstruct_through_planes(
    reconstructor: Reconstructor,
    n_slices: int,
    read: ReadProblem,
    directions: Sequence[int] = (0, 1, 2),
    planes_at_once: int = 1,
    on_share: Callable[[float], None] | None = None,
) -> Iterator[Reconstruction]:
    """Reconstruct neighbouring slices together, and yield them in their order.

    Args:
        reconstructor: the model and the plan, on the graph ``score``; one image is drawn.
        n_slices: their number, which :func:`plane_directions` checks.
        read: returns one of them, by its place, in every step anew; all have one scale. None is a slice that
            has no data: the prior fills it in, and it is not yielded.
        directions: the axes that the network's planes lie across, in turn: :func:`plane_directions`.
        planes_at_once: planes in a call of the engine.
        on_share: gets the share of the work that is done.

    Raises:
        InputError: the shapes of slices differ, or their maps do not go with each other.
        SamplingError: the sampler diverged.
    """
    told = on_share or (lambda _share: None)
    plan = reconstructor.plan
    x, slices = _start(reconstructor, n_slices, read)
    score, work = np.empty_like(x), np.empty_like(x[:1])
    for index, step in enumerate(plan.steps):
        planes, scores = (np.moveaxis(each, directions[index % len(directions)], 0) for each in (x, score))
        _score_planes(reconstructor, planes, step.sigma, index, planes_at_once, scores)
        for place, of_slice in enumerate(slices):
            here = slice(place, place + 1)
            problem = read(place) if place < n_slices else None
            normal, draw_data = _data_of(problem, of_slice, x[here])
            x[here] = take_step(
                plan,
                index,
                x[here],
                score[here],
                normal,
                of_slice.backprojection,
                of_slice.noise,
                of_slice.noise_level,
                draw_data,
                work,
            )
            told((index + (place + 1) / len(x)) / len(plan.steps))
    for place in range(n_slices):
        if (problem := read(place)) is not None:
            check_images(x[place : place + 1], plan, (problem.index,))
            yield _finished(reconstructor, problem, x[place])


@dataclass(frozen=True)
class _Slice:
    """What a slice has from its start on, each with an axis of one slice in front."""

    backprojection: ComplexArray
    noise: NoiseStream
    noise_level: FloatArray


def _start(
    reconstructor: Reconstructor, n_slices: int, read: ReadProblem
) -> tuple[ComplexArray, list[_Slice]]:
    """Return the x (slice, rows, columns) that the plan starts from, on the network's grid in all directions.

    Slices of the grid beyond the volume, and those that could not be read, have no data.
    """
    plan, seed, multiple = reconstructor.plan, reconstructor.seed, reconstructor.model.manifest.size_multiple
    begun: dict[int, tuple[ComplexArray, _Slice]] = {}
    turns, before, first = [], None, 0
    for place in range(n_slices):
        if (problem := read(place)) is None:
            before = None
            continue
        if before is not None:
            turns.append(_turn(before.maps, problem.maps))
            if problem.scale != before.scale:
                raise ValueError(f"slice {problem.index} has a scale of its own, expected the volume's")
        before, first = problem, problem.index - place
        batch = stack_slices([problem])
        on_grid = put_on_grid(batch, plan, seed, multiple, start_images(batch, plan))
        begun[place] = on_grid.start, _Slice(on_grid.backprojection, on_grid.noise, on_grid.noise_level)
    _check_turns(turns)
    shape = next(iter(begun.values()))[0].shape[1:]
    x = np.empty((-(-n_slices // multiple) * multiple, *shape), np.complex64)
    nothing = np.zeros((1, *shape), np.complex64)
    slices = []
    for place in range(len(x)):
        if place not in begun:
            noise = NoiseStream(seed, [first + place], shape)
            start = starting_point(plan, nothing, noise)
            begun[place] = start, _Slice(nothing, noise, np.zeros(1, np.float32))
        x[place], of_slice = begun.pop(place)
        slices.append(of_slice)
    return x, slices


def _turn(before: ComplexArray, maps: ComplexArray) -> float:
    """Return how far maps (coil, rows, columns) turn from one slice to the next, in rad, where both see."""
    overlap = np.sum(before.conj() * maps, axis=0)
    seen = np.abs(overlap)
    total = float(seen.sum())
    return float(np.sum(seen * np.abs(np.angle(overlap))) / total) if total else 0.0


def _check_turns(turns: Sequence[float]) -> None:
    turn = float(np.median(turns)) if turns else 0.0
    if turn > MAX_TURN:
        raise InputError(
            f"the phase of the maps turns by {turn:.2f} rad from slice to slice, expected at most "
            f"{MAX_TURN:g}: slices that are reconstructed together take maps of the whole volume; leave "
            "--maps out, or --through-plane"
        )


def _score_planes(
    reconstructor: Reconstructor,
    planes: ComplexArray,
    sigma: float,
    step: int,
    n_at_once: int,
    scores: ComplexArray,
) -> None:
    """Write the scores of planes to ``scores``, in the orientation of a step and in the engine's streams."""
    view = view_in_step((planes.shape[1], planes.shape[2]), step)
    n_at_once = min(n_at_once, len(planes))
    # The last call takes some planes again, so that engines compile for one shape.
    begins = [min(begin, len(planes) - n_at_once) for begin in range(0, len(planes), n_at_once)]

    def score_from(begins: Sequence[int]) -> None:
        score = EngineScore(reconstructor.engine, (n_at_once, *planes.shape[1:]))
        for begin in begins:
            here = slice(begin, begin + n_at_once)
            scores[here] = score(planes[here], sigma, view)

    n_streams = reconstructor.streams
    if n_streams == 1:
        score_from(begins)
        return
    with ThreadPoolExecutor(n_streams, thread_name_prefix="stream") as threads:
        list(threads.map(score_from, [begins[first::n_streams] for first in range(n_streams)]))


def _data_of(problem: SliceProblem | None, of_slice: _Slice, x: ComplexArray) -> tuple[Normal, DrawData]:
    """Return A^H A of a slice on the grid, and what draws A^H e; zeros where there are no data."""
    if problem is None:
        return _nothing_measured, lambda: np.zeros_like(x)
    sense = Sense(problem.maps[None], problem.mask[None])
    on_grid = GridProblem(sense, x, of_slice.backprojection, of_slice.noise, of_slice.noise_level)
    return normal_on_grid(on_grid), draw_data_on_grid(on_grid)


def _nothing_measured(_x: ComplexArray, out: ComplexArray) -> ComplexArray:
    out.fill(0)
    return out


def _finished(reconstructor: Reconstructor, problem: SliceProblem, x: ComplexArray) -> Reconstruction:
    seen: FloatArray = np.any(problem.maps != 0, axis=0).astype(np.float32)
    image: ComplexArray = centre_crop(x, seen.shape) * (np.float32(problem.scale) * seen)
    residual = relative_residual(problem, image)
    n_orientations = count_orientations(seen.shape, reconstructor.model.manifest.size_multiple)
    return replace(reconstructor.finished(problem, image, residual), prior_orientations=n_orientations)
