"""How often `recon` doubts a good image, and how often a bad one: docs/reliability.md, "Is the image right?".

    python benchmarks/self_check.py HEAD [HEAD ...] [--good 200] [--bad 200] [--seed 0]

HEAD is a volume (NIfTI, or .npz with `vol`) or `synthetic`. Good scans are of all sizes, coils, noise levels
and masks; bad ones are good ones with one thing wrong. A doubt, a refusal and an error that names the way out
all count as recognised. Needs the extras cpu and nifti; takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import sbim_deploy
from real_scans import coil_maps, full_kspace, head_slice, random_mask
from sbim_deploy.errors import SbimDeployError
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import DEMO_FOLDER, describe_file, load_model, read_manifest, write_manifest
from sbim_deploy.mri.fourier import centred_fft, centred_ifft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.runs.api import LoadedModel
from sbim_deploy.runs.denoising import measure_noise_left
from sbim_deploy.samplers.choice import SamplerChoice

# The large ones are fewer: they take twenty times as long.
SIZES, SHARES_OF_SIZES = (96, 128, 160, 192, 256, 320), (0.3, 0.3, 0.2, 0.1, 0.06, 0.04)
COILS, SHARES_OF_COILS = (4, 8, 12, 16, 32), (0.25, 0.35, 0.2, 0.15, 0.05)
MASKS = ("equispaced", "random", "two directions", "partial Fourier")
MIN_LINES = 8


class Scan:
    """A good scan, drawn by its number."""

    def __init__(self, heads: list[str], seed: int, number: int, volumes: dict[str, np.ndarray], small: bool):
        self.rng = rng = np.random.default_rng([seed, number])
        self.size = int(rng.choice(SIZES[:2]) if small else rng.choice(SIZES, p=SHARES_OF_SIZES))
        self.n_coils = int(rng.choice(COILS[:3]) if small else rng.choice(COILS, p=SHARES_OF_COILS))
        self.noise = float(10 ** rng.uniform(-3, -1))
        self.acceleration = float(rng.uniform(2, min(8, self.n_coils)))
        self.kind = str(rng.choice(MASKS))
        lines = max(MIN_LINES, round(0.06 * self.size))
        self.magnitude = head_slice(str(rng.choice(heads)), rng.uniform(0.4, 0.7), self.size, volumes)
        self.maps = coil_maps(str(rng.choice(("birdcage", "loops"))), self.n_coils, self.magnitude.shape, rng)
        self.full = full_kspace(self.magnitude, self.maps, self.noise, rng)
        self.mask = random_mask(self.kind, self.magnitude.shape, self.acceleration, lines, rng)

    @property
    def kspace(self) -> np.ndarray:
        """What was measured."""
        return self.full * self.mask

    def describe(self) -> str:
        """Return how the scan was made."""
        return (
            f"{self.size} x {self.size}, {self.n_coils} coils, R = {self.acceleration:.1f}, noise "
            f"{self.noise:.3f}, {self.kind}"
        )


Call = Callable[[LoadedModel, Scan], object]


def uncentred(model: LoadedModel, scan: Scan) -> object:
    return model.reconstruct(np.fft.fftshift(scan.kspace, axes=(-2, -1)))


def shifted_mask(model: LoadedModel, scan: Scan) -> object:
    lines = line_mask(scan.size, min(scan.acceleration, 4), calib_width=16)
    return model.reconstruct(scan.full, np.fft.fftshift(lines))


def transformed_axis(model: LoadedModel, scan: Scan) -> object:
    return model.reconstruct(centred_ifft(scan.full, axes=(-2 + int(scan.rng.integers(2)),)) * scan.mask)


def coils_last(model: LoadedModel, scan: Scan) -> object:
    return model.reconstruct(np.ascontiguousarray(np.moveaxis(scan.kspace, 0, -1)))


def tiny_samples(model: LoadedModel, scan: Scan) -> object:
    level = np.abs(scan.full).max() * scan.rng.choice([1e-12, 1e-7])
    tiny = full_kspace(0 * scan.magnitude, scan.maps, level, scan.rng)
    return model.reconstruct(np.where(scan.mask, scan.full, tiny).astype(np.complex64))


def clipped(model: LoadedModel, scan: Scan) -> object:
    parts = scan.kspace.view(np.float32)
    limit = np.abs(parts).max() * scan.rng.uniform(0.2, 0.5)
    return model.reconstruct(parts.clip(-limit, limit).view(np.complex64))


def spikes(model: LoadedModel, scan: Scan) -> object:
    kspace = scan.kspace
    rows, columns = np.nonzero(np.broadcast_to(scan.mask, scan.magnitude.shape))
    far = np.flatnonzero(np.hypot(rows - scan.size / 2, columns - scan.size / 2) > 0.3 * scan.size)
    for place in scan.rng.choice(far, 3, replace=False):
        kspace[:, rows[place], columns[place]] += 0.3 * np.abs(kspace).max()
    return model.reconstruct(kspace)


def few_lines(model: LoadedModel, scan: Scan) -> object:
    lines = line_mask(scan.size, 4, calib_width=int(scan.rng.integers(0, 4)))
    return model.reconstruct(scan.full * lines, lines)


def other_maps(model: LoadedModel, scan: Scan) -> object:
    return model.reconstruct(scan.kspace, scan.mask, np.roll(scan.maps, 1, axis=0))


def past_the_field_of_view(model: LoadedModel, scan: Scan) -> object:
    """The head is wider than the field of view along the phase encodes, and folds over."""
    size, width = scan.size, scan.size * 11 // 32 * 2
    padded = np.pad(scan.maps * scan.magnitude, ((0, 0), (0, 0), (size, size)))
    begin = size + (size - width) // 2
    folded = sum(padded[..., begin + shift : begin + shift + width] for shift in (-width, 0, width))
    silence = np.zeros((size, width), np.float32)
    kspace = centred_fft(folded) + full_kspace(silence, folded, scan.noise / 3, scan.rng)
    return model.reconstruct((kspace * line_mask(width, 2, calib_width=24)).astype(np.complex64))


def motion(model: LoadedModel, scan: Scan) -> object:
    moved = full_kspace(np.roll(scan.magnitude, scan.size // 16, axis=0), scan.maps, scan.noise / 3, scan.rng)
    still = full_kspace(scan.magnitude, scan.maps, scan.noise / 3, scan.rng)
    kspace = np.where(np.arange(scan.size) % 3 == 0, moved, still)
    return model.reconstruct((kspace * scan.mask).astype(np.complex64), scan.mask)


def diverging_sampler(_model: LoadedModel, scan: Scan) -> object:
    choice = SamplerChoice("sbim-ld", steps=8)
    model = sbim_deploy.load_model("demo", choice, backend="onnxruntime")
    return model.reconstruct(scan.kspace, scan.mask)


def random_prior(_model: LoadedModel, scan: Scan) -> object:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        shutil.copytree(DEMO_FOLDER, model)
        weights = np.fromfile(model / "weights.bin", np.float32)
        scan.rng.permutation(weights).tofile(model / "weights.bin")
        manifest = read_manifest(model)
        files = {**manifest.files, "weights.bin": describe_file(model / "weights.bin")}
        write_manifest(model, replace(manifest, files=files))
        # As export measures it.
        score = open_engine(load_model(model), "score", "onnxruntime")
        left = measure_noise_left(
            lambda x, sigma: score.run({"x": x, "sigma": sigma})["score"],
            manifest.channels,
            manifest.size_multiple,
            manifest.noise_levels,
        )
        write_manifest(model, replace(manifest, files=files, noise_left=left))
        return sbim_deploy.load_model(model, backend="onnxruntime").reconstruct(scan.kspace, scan.mask)


BAD: dict[str, Call] = {
    each.__name__.replace("_", " "): each
    for each in (
        uncentred,
        shifted_mask,
        transformed_axis,
        coils_last,
        tiny_samples,
        clipped,
        spikes,
        few_lines,
        other_maps,
        past_the_field_of_view,
        diverging_sampler,
        random_prior,
        motion,
    )
}


def recognised(call: Call, model: LoadedModel, scan: Scan) -> str | None:
    """Return what was said of a scan, or None where nothing was."""
    try:
        result = call(model, scan)
    except SbimDeployError as error:
        return f"error: {error}"
    return "; ".join(doubt.message for doubt in result.doubts) or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--good", type=int, default=200)
    parser.add_argument("--bad", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=BAD, default=[kind for kind in BAD if kind != "motion"])
    arguments = parser.parse_args()
    # OpenVINO would compile for each of the many shapes.
    model = sbim_deploy.load_model("demo", backend="onnxruntime")
    volumes: dict[str, np.ndarray] = {}
    alarms = []
    for number in range(arguments.good):
        scan = Scan(arguments.heads, arguments.seed, number, volumes, small=False)
        said = recognised(lambda model, scan: model.reconstruct(scan.kspace, scan.mask), model, scan)
        if said is not None:
            alarms.append(f"{scan.describe()}: {said}")
        print(f"\rgood: {number + 1}, false alarms: {len(alarms)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if arguments.good:
        print(f"false alarms: {len(alarms)} of {arguments.good} good scans")
        print(*alarms, sep="\n")
    of_kind, found, missed = Counter(), Counter(), []
    for number in range(arguments.bad):
        kind = arguments.kinds[number % len(arguments.kinds)]
        scan = Scan(arguments.heads, arguments.seed + 1, number, volumes, small=True)
        of_kind[kind] += 1
        if recognised(BAD[kind], model, scan) is None:
            missed.append(f"{kind}: {scan.describe()}")
        else:
            found[kind] += 1
        print(f"\rbad: {number + 1}, missed: {len(missed)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print("\n| wrong | scans | recognised |\n|---|---|---|")
    for kind, count in of_kind.items():
        print(f"| {kind} | {count} | {found[kind]} |")
    print(f"| all | {of_kind.total()} | {found.total()} |")
    print(*missed, sep="\n")


if __name__ == "__main__":
    main()
