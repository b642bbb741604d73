"""Draws random contrasts: relaxation times, signal equations, and pulse sequences set as in hospitals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sbim_deploy.training.fields import Field, Grid, smooth_field


@dataclass(frozen=True)
class Tissue:
    """T1 and T2 in ms, each at (1.5 T, 3 T), and the relative proton density."""

    name: str
    t1: tuple[float, float]
    t2: tuple[float, float]
    density: float


TISSUES = (
    Tissue("gray", (1150, 1380), (95, 88), 0.82),
    Tissue("deep_gray", (960, 1180), (82, 70), 0.79),
    Tissue("white", (655, 850), (76, 70), 0.70),
    Tissue("fluid", (4100, 4200), (1900, 1700), 1.0),
    Tissue("lesion", (1150, 1350), (150, 135), 0.86),
    Tissue("tumour", (1350, 1600), (125, 115), 0.86),
    Tissue("blood", (1440, 1930), (250, 180), 0.85),
    Tissue("dura", (800, 950), (22, 18), 0.6),
    Tissue("bone", (250, 300), (1.0, 0.8), 0.2),
    Tissue("marrow", (450, 490), (65, 60), 0.72),
    Tissue("fat", (340, 380), (120, 115), 0.92),
    Tissue("muscle", (950, 1150), (38, 34), 0.80),
    Tissue("skin", (800, 950), (34, 30), 0.62),
)
INDEX = {tissue.name: index for index, tissue in enumerate(TISSUES)}


def spoiled_gradient_echo(t1: Field, t2: Field, density: Field, tr: float, te: float, flip: float) -> Field:
    """Return the signal by the Ernst equation, PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2)."""
    e1 = np.exp(-tr / t1)
    sine, cosine = np.sin(np.deg2rad(flip)), np.cos(np.deg2rad(flip))
    return np.asarray(density * sine * (1 - e1) / (1 - cosine * e1) * np.exp(-te / t2))


def spin_echo(t1: Field, t2: Field, density: Field, tr: float, te: float) -> Field:
    """Return the signal PD (1 - exp(-TR / T1)) exp(-TE / T2), for TE far below TR."""
    return np.asarray(density * (1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def inversion_recovery(t1: Field, t2: Field, density: Field, tr: float, te: float, ti: float) -> Field:
    """Return the signal PD |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2).

    This is FLAIR, and MPRAGE at the centre of k-space.
    """
    recovered = np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))
    return np.asarray(density * recovered * np.exp(-te / t2))


def nulling_inversion_time(t1: float, tr: float) -> float:
    """Return the TI that nulls ``t1`` in ``inversion_recovery``: T1 ln(2 / (1 + exp(-TR / T1)))."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))


Signal = Callable[[Field, Field, Field], Field]

# How often each weighting is drawn: T1 in three ways, T2, proton density, T2 with fluid nulled.
WEIGHTINGS = {
    "gradient_echo": 0.14,
    "mprage": 0.16,
    "t1_spin_echo": 0.10,
    "t2": 0.25,
    "density": 0.12,
    "flair": 0.23,
}
FAT_SUPPRESSION_SHARE = 0.35
CONTRAST_AGENT_SHARE = 0.25
PERSONAL_SPREAD = 0.05
LEAST_FRACTION = 1e-3


@dataclass(frozen=True)
class Protocol:
    """A weighting, its field in T, its signal as a function of (T1, T2, density), and fat's and blood's own.

    ``fat`` scales what fat and marrow give, ``flow`` what blood gives; ``blood_t1`` in ms replaces blood's T1
    where it is not None: fresh blood flows in, or holds a contrast agent.
    """

    weighting: str
    tesla: float
    signal: Signal
    fat: float = 1.0
    flow: float = 1.0
    blood_t1: float | None = None


def random_protocol(rng: np.random.Generator) -> Protocol:
    """Draw a weighting and its parameters."""
    weighting = str(rng.choice(list(WEIGHTINGS), p=list(WEIGHTINGS.values())))
    tesla = float(rng.choice((1.5, 3.0)))
    signal = _random_signal(rng, weighting, tesla)
    # Not even unsuppressed fat gives its equation's signal: part of it dephases, and it is full of septa.
    fat = float(rng.uniform(*((0.05, 0.25) if rng.random() < FAT_SUPPRESSION_SHARE else (0.4, 0.85))))
    agent = rng.random() < CONTRAST_AGENT_SHARE
    # Blood leaves the slice between the pulses of a spin echo, and enters a gradient echo's unsaturated.
    if weighting in ("gradient_echo", "mprage"):
        return Protocol(weighting, tesla, signal, fat, 1.0, float(rng.uniform(350, 500 if agent else 1400)))
    if weighting == "t1_spin_echo" and agent:
        return Protocol(weighting, tesla, signal, fat, 0.8, float(rng.uniform(200, 400)))
    return Protocol(weighting, tesla, signal, fat, float(rng.uniform(0.02, 0.35)))


def _random_signal(rng: np.random.Generator, weighting: str, tesla: float) -> Signal:
    draw = rng.uniform
    if weighting == "gradient_echo":
        return partial(spoiled_gradient_echo, tr=draw(9, 30), te=draw(2, 5), flip=draw(20, 32))
    if weighting == "mprage":
        ti = draw(900, 1050) if tesla > 2 else draw(850, 1000)
        return partial(inversion_recovery, tr=draw(2000, 2500), te=draw(2, 4.5), ti=ti)
    if weighting == "t1_spin_echo":
        return partial(spin_echo, tr=draw(400, 650), te=draw(8, 16))
    if weighting == "t2":
        return partial(spin_echo, tr=draw(3500, 6500), te=draw(80, 120))
    if weighting == "density":
        return partial(spin_echo, tr=draw(2500, 4500), te=draw(10, 28))
    tr = draw(7500, 11000)
    fluid_t1 = TISSUES[INDEX["fluid"]].t1[tesla > 2]
    ti = nulling_inversion_time(fluid_t1, tr) * draw(0.97, 1.03)
    return partial(inversion_recovery, tr=tr, te=draw(80, 130), ti=ti)


def random_magnitude(rng: np.random.Generator, protocol: Protocol, fractions: Field, grid: Grid) -> Field:
    """Weigh the tissues (n_tissues, h, w) by their signals, to no particular scale.

    T1, T2 and the density of each tissue differ from person to person and from place to place; fluid is the
    same in everyone and everywhere, which is what lets an inversion null it.
    """
    scales = {"fat": protocol.fat, "marrow": protocol.fat, "blood": protocol.flow}
    unevenness = np.stack([_unevenness(rng, grid) for _ in range(3)])
    magnitude = np.zeros(fractions.shape[1:], np.float32)
    for tissue, fraction in zip(TISSUES, fractions, strict=True):
        personal = np.exp(PERSONAL_SPREAD * rng.standard_normal(3))
        there = fraction > LEAST_FRACTION
        uneven = personal[:, None] * unevenness[:, there]
        t1, t2, density = _properties(tissue, protocol)[:, None] * (1 if tissue.name == "fluid" else uneven)
        magnitude[there] += scales.get(tissue.name, 1.0) * fraction[there] * protocol.signal(t1, t2, density)
    return magnitude


def _properties(tissue: Tissue, protocol: Protocol) -> Field:
    at_3_tesla = protocol.tesla > 2
    t1 = tissue.t1[at_3_tesla]
    if tissue.name == "blood" and protocol.blood_t1 is not None:
        t1 = protocol.blood_t1
    return np.asarray((t1, tissue.t2[at_3_tesla], tissue.density), np.float32)


def _unevenness(rng: np.random.Generator, grid: Grid) -> Field:
    slow, patchy, fine = rng.uniform((0.01, 0.008, 0.006), (0.035, 0.025, 0.025))
    uneven = slow * smooth_field(rng, grid, 40) + patchy * smooth_field(rng, grid, 9)
    return np.asarray(np.exp(uneven + fine * smooth_field(rng, grid, 2.2)), np.float32)
