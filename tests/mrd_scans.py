"""Small MRD files to replay."""

import h5py
import numpy as np

from sbim_deploy.mrd.header import Encoding, Space, format_header
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag

FLOATS = h5py.vlen_dtype(np.float32)
SPACE = Space((8, 4, 1), (256.0, 256.0, 5.0))


def write_scan(path, n_slices=2, n_lines=4, n_repetitions=1, ticks=4, samples=8):
    """A noise readout, then each repetition's slices line by line; the samples tell their place."""
    places = [(r, s, y) for r in range(n_repetitions) for s in range(n_slices) for y in range(n_lines)]
    kind = np.dtype([("head", ACQUISITION_HEADER), ("traj", FLOATS), ("data", FLOATS)])
    table = np.zeros(1 + len(places), kind)
    heads = table["head"]
    heads["version"], heads["available_channels"], heads["active_channels"] = 1, 2, 2
    heads["number_of_samples"] = samples
    heads["scan_counter"] = heads["acquisition_time_stamp"] = np.arange(len(table))
    heads["acquisition_time_stamp"] *= ticks
    heads["flags"][0] = 1 << (Flag.IS_NOISE_MEASUREMENT - 1)
    for index, (repetition, number, line) in enumerate(places, 1):
        heads["idx"]["repetition"][index], heads["idx"]["slice"][index] = repetition, number
        heads["idx"]["kspace_encode_step_1"][index] = line
        if line == n_lines - 1:
            heads["flags"][index] = 1 << (Flag.LAST_IN_SLICE - 1)
    for index in range(len(table)):
        table["traj"][index] = np.zeros(0, np.float32)
        table["data"][index] = np.full(4 * samples, index, np.float32)
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", data=[format_header(Encoding(SPACE, SPACE))], dtype=h5py.string_dtype())
        group.create_dataset("data", data=table)
    return path
