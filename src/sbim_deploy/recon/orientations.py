"""The eight orientations of a square, in which the network sees trajectories' images and volumes in turn.

A network that was trained on images in one orientation errs differently in each. To see an image in all eight
and to average what it makes of them (Timofte, Rothe, Van Gool 2016, arXiv:1511.02228, "enhanced prediction")
takes eight calls. Here each step of a plan takes one, and the steps average: no call is added. Slices on a
grid are seen as they are, by the score as by the graphs of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sbim_deploy.engines.engine import Engine
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.grid import network_grid
from sbim_deploy.records import ComplexArray

# The bits of an orientation's number; 0 is the image as it is.
FLIP_ROWS, TRANSPOSE, FLIP_COLUMNS = 1, 2, 4
ORIENTATIONS = range(8)


def orientations_of(grid: tuple[int, int]) -> tuple[int, ...]:
    """Return the orientations that keep the shape of a grid: eight, or the four without transposition."""
    rows, columns = grid
    return tuple(each for each in ORIENTATIONS if rows == columns or not each & TRANSPOSE)


def count_orientations(image_shape: tuple[int, int], size_multiple: int) -> int:
    """Return in how many orientations a network sees an image (rows, columns) that it sees in turn."""
    return len(orientations_of(network_grid(image_shape, size_multiple)))


def seen_in(images: ComplexArray, orientation: int) -> ComplexArray:
    """Return images (..., rows, columns) in an orientation, as a view.

    So ``seen_in(y, n)[...] = seen_in(x, n)`` makes y what x is.
    """
    if orientation & FLIP_ROWS:
        images = images[..., ::-1, :]
    if orientation & FLIP_COLUMNS:
        images = images[..., ::-1]
    return images.swapaxes(-1, -2) if orientation & TRANSPOSE else images


def view_in_step(grid: tuple[int, int], step: int) -> Callable[[ComplexArray], ComplexArray]:
    """Return what views images on a grid as the network sees them in a step of a plan, from 0 on."""
    orientations = orientations_of(grid)
    return partial(seen_in, orientation=orientations[step % len(orientations)])


class OrientedScore:
    """The score that a sampler calls, of images of one shape, each call in the next orientation.

    It depends on nothing but the number of the call: a plan takes a new one, and calls it once a step.
    """

    def __init__(self, engine: Engine, shape: tuple[int, ...]):
        self._score = EngineScore(engine, shape)
        self._grid = (shape[-2], shape[-1])
        self._n_calls = 0

    def __call__(self, x: ComplexArray, sigma: float) -> ComplexArray:
        """Return s(x, sigma), as x lies, in a buffer that the next call overwrites."""
        view = view_in_step(self._grid, self._n_calls)
        self._n_calls += 1
        return self._score(x, sigma, view)
