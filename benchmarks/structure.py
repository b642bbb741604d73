"""Up to which noise level a model knows the structure of its images: docs/sampling.md.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/structure.py [MODEL] [--slices 8] [--size 128]
        [--steps 40] [--png docs/structure.png]

The slices are the synthetic brains that ship, which the demo model's training never drew, each with a smooth
phase. At every level they are noised, and then (a) denoised by one call of the network, (b) by the best
filter that knows no more of them than their mean power at each spatial frequency, (c) sampled back down from
that level by reverse diffusion, without data. A network whose error is not below the filter's knows no
structure at that level, and samples that begin above it cannot have any.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model, sampling_prior
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.pages.panels import Panel, write_montage
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.sample import GRAPH, draw_samples
from sbim_deploy.runs.simulate import brain_slice
from sbim_deploy.samplers.choice import Prior, SamplerChoice, make_plan
from sbim_deploy.samplers.noise import NoiseStream

SIGMAS = (0.03, 0.1, 0.3, 0.6, 1.0, 2.0, 5.0, 20.0)
SHOWN_SIGMAS, SHOWN_SLICES = (0.1, 0.3, 0.6, 1.0, 2.0), 4
WHITE = 1.15


def main() -> None:
    """Print a row for each level, and draw what is sampled back from some of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()

    model = load_model(arguments.model)
    engine = open_engine(model, GRAPH, arguments.backend, arguments.threads)
    images = np.stack([_brain(index, arguments.size) for index in range(arguments.slices)])
    rows = [_panels(images, "slices")]
    print("| sigma | noise left | error, network | error, filter | correlation, sampled back |")
    print("|---|---|---|---|---|")
    for sigma in SIGMAS:
        left, error = _denoising_errors(engine, images, sigma)
        of_filter = _filter_error(images, sigma)
        sampled = _sample_back(engine, sampling_prior(model.manifest), images, sigma, arguments.steps)
        correlation = abs(np.sum(sampled.conj() * images, (1, 2))) / (_norms(sampled) * _norms(images))
        numbers = f"{100 * left:.0f} % | {error:.2f} | {of_filter:.2f} | {correlation.mean():.2f}"
        print(f"| {sigma:g} | {numbers} |", flush=True)
        if sigma in SHOWN_SIGMAS:
            rows.append(_panels(sampled, f"from sigma {sigma:g}"))
    if arguments.png is not None:
        name = model.manifest.name
        caption = f"Slices that were noised to a level, and what the model {name} samples from there."
        write_montage(arguments.png, rows, caption, enlarged=False)


def _brain(index: int, size: int) -> ComplexArray:
    magnitude = brain_slice(index, size)
    image = (
        magnitude / np.percentile(magnitude, 99) * smooth_phase((size, size), np.random.default_rng(index))
    )
    return image.astype(np.complex64)


def _denoising_errors(engine: Engine, images: ComplexArray, sigma: float) -> tuple[float, float]:
    """Return |x + sigma^2 s(x, sigma) - image| over |noise| and over |image|, of all slices."""
    noise = np.float32(sigma) * NoiseStream(0, range(len(images)), images.shape[1:]).draw()
    x = images + noise
    denoised = x + np.float32(sigma**2) * EngineScore(engine, x.shape)(x, sigma)
    error = np.linalg.norm(denoised - images)
    return float(error / np.linalg.norm(noise)), float(error / np.linalg.norm(images))


def _filter_error(images: ComplexArray, sigma: float) -> float:
    """Return the error over |image| for the Wiener filter of the slices' mean power in rings of k-space."""
    power = np.mean(abs(np.fft.fft2(images, norm="ortho")) ** 2, axis=0)
    frequencies = np.fft.fftfreq(images.shape[-1]) * images.shape[-1]
    rings = np.hypot(frequencies[:, None], frequencies).round().astype(int)
    mean_power = (np.bincount(rings.ravel(), power.ravel()) / np.bincount(rings.ravel()))[rings]
    noise = 2 * sigma**2
    gain = mean_power / (mean_power + noise)
    return float(np.sqrt(np.sum((1 - gain) ** 2 * power + gain**2 * noise) / np.sum(power)))


def _sample_back(
    engine: Engine, prior: Prior, images: ComplexArray, sigma: float, steps: int
) -> ComplexArray:
    choice = SamplerChoice("reverse-diffusion", steps=steps, data_weight=0.0, start_sigma=sigma)
    return draw_samples(engine, make_plan(choice, prior), images, range(len(images)), seed=0)


def _norms(images: ComplexArray) -> FloatArray:
    norms: FloatArray = np.linalg.norm(images, axis=(1, 2))
    return norms


def _panels(images: ComplexArray, title: str) -> list[Panel]:
    return [
        Panel(abs(image), title if not index else "", (0.0, WHITE))
        for index, image in enumerate(images[:SHOWN_SLICES])
    ]


if __name__ == "__main__":
    main()
