"""How often sound k-space is taken for half an image, and how often half an image for k-space.

    python benchmarks/kspace_faults.py HEAD [HEAD ...] [--sizes 32,64,128] [--oversampling 1,2,3] [--faults F]

HEAD is a volume (NIfTI, or .npz with `vol`) or `synthetic`; discs, squares, smooth blobs and the Shepp-Logan
phantom come beside them. Each object is seen by 1, 4 and 12 coils, at three levels of noise, and four masks,
as k-space and with the rows, the columns or both transformed. F is a kspace_faults.py to measure in place of
the package's, such as that of another version. Needs the extra nifti; takes some minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from real_scans import SYNTHETIC, head_slice, loop_maps, random_mask, with_noise
from sbim_deploy.mri import kspace_faults
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_pad, centred_fft, centred_ifft
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase

NOISE = (0.0, 0.02, 0.1)
MASKS = ("full", "equispaced", "partial Fourier", "two directions")
WAYS: dict[str, tuple[int, ...]] = {"sound": (), "rows": (-2,), "columns": (-1,), "both": (-2, -1)}
KINDS = {"rows": "transformed axis", "columns": "transformed axis", "both": kspace_faults.IMAGE_IN_PLACE}


def objects(heads: list[str], size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a name and a magnitude (size, size)."""
    volumes: dict[str, np.ndarray] = {}
    for head in heads:
        for fraction in (0.35,) if head == SYNTHETIC else (0.35, 0.5, 0.7):
            yield f"{Path(head).name} {fraction}", head_slice(head, fraction, size, volumes)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    for radius in (0.3, 0.7, 0.95):
        yield f"disc {radius}", (np.hypot(y, x) < radius).astype(np.float32)
    yield "disc beside the centre", (np.hypot(y - 0.4, x + 0.3) < 0.4).astype(np.float32)
    yield "square", ((abs(y) < 0.8) & (abs(x) < 0.8)).astype(np.float32)
    yield "blob", np.exp(-(y**2 + x**2) / 0.08).astype(np.float32)
    yield "Shepp-Logan", shepp_logan((size, size)).astype(np.float32)


def scans(
    heads: list[str], size: int, factor: int
) -> Iterator[tuple[str, float, str, np.ndarray, np.ndarray]]:
    """Yield the object, the noise, the kind of mask, the mask and fully sampled k-space."""
    for number, (name, magnitude) in enumerate(objects(heads, size)):
        for n_coils in (1, 4, 12):
            rng = np.random.default_rng([size, factor, number, n_coils])
            image = magnitude * (1 if n_coils == 12 else smooth_phase(magnitude.shape, rng))
            family = birdcage_maps if n_coils == 12 else lambda n, shape, rng=rng: loop_maps(n, shape, rng)
            maps = np.ones((1, 1, 1)) if n_coils == 1 else family(n_coils, magnitude.shape)
            clean = centred_fft(centre_pad((maps * image).astype(np.complex64), (factor * size, size)))
            for noise in NOISE:
                for kind in MASKS if n_coils == 4 else MASKS[:1]:
                    mask = np.ones((1, size), bool)
                    if kind != "full":
                        mask = random_mask(kind, clean.shape[-2:], 3, max(8, size // 10), rng)
                    yield name, noise, kind, mask, with_noise(clean, noise, rng)


def load_faults(path: Path | None) -> ModuleType:
    """Return the module that is measured."""
    if path is None:
        return kspace_faults
    spec = importlib.util.spec_from_file_location("other_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["other_faults"] = module  # where dataclasses look for the names of their annotations
    spec.loader.exec_module(module)
    return module


def spoil(full: np.ndarray, mask: np.ndarray, way: str) -> np.ndarray:
    """Return k-space as a mistake leaves it; columns of an image are cut by a mask after the transform."""
    axes = WAYS[way]
    if way in ("sound", "rows"):
        return centred_ifft(full * mask, axes) if axes else full * mask
    return centred_ifft(full, axes) * mask


def count_faults(module: ModuleType, heads: list[str], size: int, factor: int) -> Counter[str]:
    """Return how many scans there were, and what was said of them."""
    count: Counter[str] = Counter()
    for name, noise, kind, mask, full in scans(heads, size, factor):
        for way in ("sound",) if kind == "two directions" else WAYS:
            found = module.find_faults(spoil(full, mask, way).astype(np.complex64), None, noise)
            count[way] += 1
            count[f"{way} doubted"] += bool(found)
            count[f"{way} refused"] += any(fault.fatal for fault in found)
            count[f"{way} named"] += way != "sound" and any(fault.kind == KINDS[way] for fault in found)
            if way == "sound" and found:
                count[f"! {name}: {found[0].kind}"] += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--sizes", default="32,64,128")
    parser.add_argument("--oversampling", default="1,2,3")
    parser.add_argument("--faults", type=Path)
    arguments = parser.parse_args()
    module = load_faults(arguments.faults)
    print("size oversampling | sound: scans doubted refused | way: scans missed named refused")
    for size in map(int, arguments.sizes.split(",")):
        for factor in map(int, arguments.oversampling.split(",")):
            n = count_faults(module, arguments.heads, size, factor)
            ways = "; ".join(
                f"{way} {n[way]} {n[way] - n[f'{way} doubted']} {n[f'{way} named']} {n[f'{way} refused']}"
                for way in KINDS
            )
            sound = f"{n['sound']:12} {n['sound doubted']:7} {n['sound refused']:7}"
            print(f"{size:4} {factor:12} | {sound} | {ways}")
            for said in filter(lambda name: name.startswith("!"), n):
                print(f"       {n[said]} {said[2:]}")


if __name__ == "__main__":
    main()
