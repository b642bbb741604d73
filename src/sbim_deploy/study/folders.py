"""Which files of a folder a study reads: those of k-space, and why others that are called so are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import is_array_file
from sbim_deploy.io.hdf5 import MAX_NAMES_SHOWN, dataset_names, open_hdf5
from sbim_deploy.io.yardl import is_yardl
from sbim_deploy.kspace.arrays import names_kspace
from sbim_deploy.kspace.cfl import CflMaps, is_cfl
from sbim_deploy.kspace.sources import KSPACE, SUFFIXES, is_plain_hdf5
from sbim_deploy.mrd.file import is_mrd
from sbim_deploy.mrd.recording import is_recording
from sbim_deploy.mrd.version2 import Version2File
from sbim_deploy.mri.kspace_faults import IMAGE_IN_PLACE, find_faults
from sbim_deploy.results.image_files import find_images
from sbim_deploy.results.sample_file import DATASET as SAMPLES


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder that may hold k-space, in order, and why others of such names are left out."""

    paths: tuple[Path, ...]
    left_out: Mapping[Path, str] = field(default_factory=dict)


def list_folder(folder: Path) -> FolderFiles:
    """Return the files of a folder whose names are those of k-space, without results, images and maps.

    A file that cannot be read is among them: the study tells why. Hidden files are not looked at.

    Raises:
        InputError: there is none, or the folder cannot be read.
    """
    try:
        named = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    left_out = {path: reason for path in named if (reason := why_left_out(path)) is not None}
    paths = tuple(path for path in named if path not in left_out)
    if not paths:
        without = "".join(f"; {path.name} {reason}" for path, reason in list(left_out.items())[:3])
        raise InputError(
            f"{folder}: holds no files of k-space ({', '.join(SUFFIXES)}){without}: name another folder, or "
            "the files"
        )
    return FolderFiles(paths, left_out)


def why_left_out(path: Path) -> str | None:
    """Return what a file holds that is certainly no k-space, or None."""
    try:
        if is_cfl(path):
            return _of_cfl(path)
        if is_yardl(path):
            return _of_version_2(path)
        if is_recording(path):
            return None
        if path.suffix.lower() == ".bin":
            return "is no MRD version 2 stream"
        if not is_array_file(path):
            return _of_hdf5(path)
        return None if names_kspace(path) else _of_images(path)
    except InputError:
        return None


def _of_version_2(path: Path) -> str | None:
    with Version2File(path) as file:
        return None if file.n_readouts else "holds no readouts (MRD version 2)"


def _of_hdf5(path: Path) -> str | None:
    with open_hdf5(path) as file:
        names = dataset_names(file, path)
        if KSPACE in names or is_mrd(file, path) or is_plain_hdf5(file, path):
            return None
    if SAMPLES in names:
        return "holds a model's samples"
    found = _of_images(path)
    if found is not None:
        return found
    return f"holds no k-space: its datasets are {', '.join(names[:MAX_NAMES_SHOWN]) or 'none'}"


def _of_images(path: Path) -> str | None:
    images = find_images(path)
    if images is None:
        return None
    with images:
        return "is a result of recon" if images.result is not None else f"holds images ({images.kind})"


def _of_cfl(path: Path) -> str | None:
    # What ecalib and fft leave beside k-space has its energy everywhere, and several sets are maps.
    arrays = CflMaps(path)
    if arrays.n_sets > 1:
        return f"holds {arrays.n_sets} sets of coil maps"
    middle = arrays.read_coils(arrays.n_slices // 2)
    is_image = any(fault.kind == IMAGE_IN_PLACE for fault in find_faults(middle, None, 0.0))
    return "holds images or maps (BART .cfl)" if is_image else None
