"""What tissues are made of: relaxation times in ms at 1.5 and 3 T, and the density of protons, fluid's 1.

Rounded, within what is published: brain and fluid after Rooney et al. 2007 (MRM 57:308) and Wansapura et al.
1999 (JMRI 9:531); blood's T1 after Stanisz et al. 2005 (MRM 54:507), its T2 shorter than theirs, as venous
blood's is; muscle between theirs and de Bazelaire et al. 2004 (Radiology 230:652), after whom are marrow and
fat; densities of the brain after Tofts 2003 (Quantitative MRI of the Brain).
Lesions, skin, dura and bone are of the order that is commonly given. Fat's T2 is the longer one that trains
of refocusing pulses show (Henkelman et al. 1994, JMRI 4:533).
"""

from __future__ import annotations

from dataclasses import dataclass


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
