"""The letter F drawn on a patient: what a picture must show upright, whichever way the slice was scanned."""

from itertools import product

import numpy as np

from sbim_deploy.records import SliceGeometry

LETTER = (
    ".......",
    ".#####.",
    ".#.....",
    ".####..",
    ".#.....",
    ".#.....",
    ".#.....",
    ".......",
)
UPRIGHT = np.array([[each == "#" for each in line] for line in LETTER], np.float32)
PIXEL_MM = (4.0, 3.0)  # down and along the upright picture
CENTRE = np.array([7.0, -11.0, 23.0])
LEFT, BACK, UP = np.eye(3)
# What runs along a row and down a column of an upright picture: DICOM's axes point left, back and up.
VIEWS = {"axial": (LEFT, BACK), "coronal": (LEFT, -UP), "sagittal": (BACK, -UP)}
# The letters that viewers put at the left and the upper edge of such a picture.
EDGES = {"axial": "RA", "coronal": "RH", "sagittal": "AH"}
# (is the readout along the picture's rows, do readout and phase encode run the other way)
WAYS = tuple(product((False, True), (1, -1), (1, -1)))


def place_of(view: str, row: int, column: int) -> np.ndarray:
    """Where a pixel of the upright picture is in the patient, mm; its middle pixel is at CENTRE."""
    along, down = VIEWS[view]
    rows, columns = UPRIGHT.shape
    return CENTRE + (row - rows // 2) * PIXEL_MM[0] * down + (column - columns // 2) * PIXEL_MM[1] * along


def scanned(view: str, way: tuple[bool, int, int]) -> tuple[np.ndarray, SliceGeometry]:
    """The image (rows, columns) of a scan, readout along the rows, and its geometry.

    Each pixel is looked up where it lies in the patient.
    """
    along_rows, read_sign, phase_sign = way
    along, down = VIEWS[view]
    axes, sizes, steps = (down, along), UPRIGHT.shape, PIXEL_MM
    if along_rows:
        axes, sizes, steps = axes[::-1], sizes[::-1], steps[::-1]
    read, phase = read_sign * axes[0], phase_sign * axes[1]
    image = np.zeros(sizes, np.float32)
    corner = place_of(view, 0, 0)
    # The scan's middle pixel lies where the patient's pixel is that covers the same picture.
    shifts = [(1 - n % 2) * step for n, step in zip(sizes, steps, strict=True)]
    position = CENTRE.copy()
    for axis, (sign, shift) in enumerate(zip((read_sign, phase_sign), shifts, strict=True)):
        position -= (shift if sign < 0 else 0) * axes[axis]
    for r, c in np.ndindex(*sizes):
        place = position + (r - sizes[0] // 2) * steps[0] * read + (c - sizes[1] // 2) * steps[1] * phase
        row = round(float((place - corner) @ down) / PIXEL_MM[0])
        column = round(float((place - corner) @ along) / PIXEL_MM[1])
        image[r, c] = UPRIGHT[row, column]
    extents = (sizes[0] * steps[0], sizes[1] * steps[1], 5.0)
    normal = np.cross(read, phase)
    vectors = [tuple(map(float, each)) for each in (position, read, phase, normal)]
    return image, SliceGeometry(*vectors, extents)


def edge_letters(orientation) -> str:
    """The letters at the left and the upper edge, by the first axis rule: the largest cosine names the axis.

    ``orientation`` is DICOM's Image Orientation (Patient): along a row and down a column.
    """
    letters = ""
    for direction in np.reshape(np.array(orientation, float), (2, 3)):
        axis = int(np.argmax(np.abs(direction)))
        towards, from_there = ("LPH"[axis], "RAF"[axis])
        letters += from_there if direction[axis] > 0 else towards
    return letters
