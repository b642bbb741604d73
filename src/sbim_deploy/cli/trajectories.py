"""The options that say where samples lie that are on no grid."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.errors import InputError

if TYPE_CHECKING:
    from sbim_deploy.io.layouts import Reading


@dataclass(frozen=True)
class TrajectoryOptions:
    """A trajectory beside k-space (coil, readout, sample), and the image that it becomes."""

    trajectory: Annotated[
        Path | None,
        typer.Option(
            "-t",
            "--trajectory",
            help="Where samples lie that are on no grid: an array (readout, sample, 2), or BART's .cfl as "
            "bart traj writes it; k-space is then (coil, readout, sample), slices or partitions before.",
        ),
    ] = None
    matrix: Annotated[
        str | None,
        typer.Option(
            metavar="ROWSxCOLUMNS",
            help="The pixels of a trajectory's image, such as 128x128; default what it resolves.",
        ),
    ] = None

    def reading(self, of_arrays: Reading) -> Reading:
        """Return how k-space is read, with the trajectory.

        Raises:
            InputError: the matrix is none, or is given without a trajectory.
        """
        if self.trajectory is None:
            if self.matrix is not None:
                raise InputError(
                    "--matrix is of a trajectory's image: give --trajectory too, or leave it out"
                )
            return of_arrays
        return replace(of_arrays, trajectory=self.trajectory, matrix=_parse_matrix(self.matrix))


def _parse_matrix(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    sizes = tuple(map(int, found.groups())) if found else (0, 0)
    if not all(16 <= size <= 1024 for size in sizes):
        raise InputError(f"--matrix is {text!r}: expected ROWSxCOLUMNS, each 16 to 1024, such as 128x128")
    return sizes[0], sizes[1]
