"""The peers' regularisation, chosen on slices that are never scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.scans import FullSlice, Setting, undersample
from sbim_deploy.experiment.store import Tuned
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.recon.metrics import nrmse


def tune(name: str, setting: Setting, slices: Sequence[FullSlice], seed: int, threads: int) -> Tuned:
    """Choose the weight of the grid with the least mean NRMSE over the tuning slices."""
    peer = PEERS[name]
    problems = [undersample(full, setting, seed) for full in slices]
    means = []
    for weight in peer.weights:
        images = [
            np.abs(centre_crop(peer.solve(problem, weight, threads), problem.image_shape))
            for problem in problems
        ]
        scores = [nrmse(image, full.reference) for image, full in zip(images, slices, strict=True)]
        means.append(float(np.mean(scores)))
    best = peer.weights[int(np.argmin(means))]
    return Tuned(setting.pattern, setting.acceleration, name, best, peer.weights, tuple(means))
