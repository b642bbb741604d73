"""What a command may write over: the rule for every output, written once.

Nothing that is there is replaced unless that was asked for, by ``force``, the command line's ``--force``. Raw
data are not replaced in either case. A name must be that of what is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_writable, writing_beside
from sbim_deploy.io.raw_data import is_simulated, raw_data_in

HDF5, PICTURE, PAGE, FOLDER = "an HDF5 file", "a picture", "a page", "a folder"
SUFFIXES = {
    HDF5: (".h5", ".hdf5", ".mrd", ".ismrmrd"),
    PICTURE: (".png",),
    PAGE: (".html", ".htm"),
    FOLDER: (),
}
# Names of other kinds of file. What ends in anything else may be anything but a picture or a page.
OTHERS = frozenset(
    {".nii", ".gz", ".cfl", ".hdr", ".dcm", ".ima", ".npy", ".npz", ".mat", ".dat", ".raw", ".bin"}
    | {".pth", ".pt", ".onnx", ".json", ".yaml", ".yml", ".csv", ".txt", ".zip", ".jpg", ".jpeg", ".pdf"}
)
LISTED = (PICTURE, PAGE)


def check_name(path: Path, kind: str) -> None:
    """Check that a file's name is one of its kind, so that no report is called ``scan.h5``.

    Raises:
        InputError: the name is that of another kind.
    """
    suffix = path.suffix.lower()
    others = OTHERS.union(*SUFFIXES.values()) - {*SUFFIXES[kind]}
    if suffix in others or (kind in LISTED and suffix not in SUFFIXES[kind]):
        expected = " or ".join(SUFFIXES[kind]) or "a name without such an ending"
        raise InputError(f"{path}: ends in {suffix or 'nothing'}, and {kind} is written: expected {expected}")


def check_new(path: Path, force: bool = False, over_simulated: bool = False) -> None:
    """Check that a file may be written at ``path``; to be called before long work.

    Args:
        path: the output.
        force: replace what is there, unless it holds raw data.
        over_simulated: a scan that this program has simulated may be replaced too.

    Raises:
        InputError: something is there that may not be replaced, or nothing can be written there.
    """
    check_writable(path)
    if not os.path.lexists(path):
        return
    if not force:
        raise InputError(f"{path}: is there already; give --force to replace it, or name another output")
    found = raw_data_in(path)
    if found is not None and not (over_simulated and is_simulated(path)):
        raise InputError(
            f"{path}: holds {found}, which nothing replaces, --force or not; name another output"
        )


@contextmanager
def new_file(path: Path, force: bool = False, over_simulated: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which gets its name on success and is removed on any exception.

    Without ``force`` nothing is replaced, not even what has appeared meanwhile.

    Raises:
        InputError: see :func:`check_new`; or the disk is full.
    """
    check_new(path, force, over_simulated)
    with writing_beside(path, replace=force) as temporary:
        yield temporary
