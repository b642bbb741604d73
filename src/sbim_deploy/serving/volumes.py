"""3-D scans of a session: kept until all of a volume is there, and sent slice by slice along the readout."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.kspace.mrd_volume import MrdVolume
from sbim_deploy.kspace.partitions import PartitionsFile
from sbim_deploy.kspace.placement import (
    IMAGE,
    IMAGE_AND_CALIBRATION,
    NotSlicesError,
    encoding_index,
    readout_role,
)
from sbim_deploy.kspace.slice_buffer import AssembledSlice
from sbim_deploy.kspace.trajectory_readouts import READOUT_BYTES
from sbim_deploy.kspace.transformed import BLOCK_BYTES
from sbim_deploy.kspace.volume_sources import volume_of_readouts
from sbim_deploy.mrd.header import Encoding, MrdHeader
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout
from sbim_deploy.mrd.orientation import Orientation, is_conjugated
from sbim_deploy.mri.map_choice import AUTO
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.streams import work_bytes
from sbim_deploy.recon.volume_survey import WholeVolume, survey_volume
from sbim_deploy.serving.intake import IN_PROGRESS, Outlet
from sbim_deploy.serving.log import warn
from sbim_deploy.serving.worker import QUEUE_LENGTH

STORE = "a volume's slices on disk"
COPIES_OF_PARTITION = 8  # while it is assembled and transformed
IN_FLIGHT = 2 * QUEUE_LENGTH  # slices of a volume that wait, are at work, or are unsent
_ITEM_BYTES = np.dtype(np.complex64).itemsize


class HeldReadouts:
    """The readouts of a session in memory, to be read as a :class:`sbim_deploy.mrd.file.RawFile` is."""

    path = Path("the scan")  # what messages call it
    format = "MRD (ISMRMRD stream)"
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, header: MrdHeader) -> None:
        self.header = header
        self._readouts: list[Readout] = []

    def __exit__(self, *_error: object) -> None:
        """Keep the readouts: the session has them until it forgets them."""

    @property
    def n_readouts(self) -> int:
        """The readouts of every kind."""
        return len(self._readouts)

    def append(self, readout: Readout) -> None:
        """Keep a readout."""
        self._readouts.append(readout)

    def keep(self, wanted: Callable[[Readout], bool]) -> None:
        """Forget the readouts that are not wanted."""
        self._readouts = [each for each in self._readouts if wanted(each)]

    def read_headers(self, start: int, stop: int) -> NDArray[np.void]:
        """Return the headers of the readouts of a range."""
        headers = np.empty(stop - start, ACQUISITION_HEADER)
        for place, readout in enumerate(self._readouts[start:stop]):
            headers[place] = readout.header
        return headers

    def read_readouts(self, indices: Sequence[int]) -> Iterator[Readout]:
        """Return the readouts of these numbers."""
        return (self._readouts[index] for index in indices)


class VolumeIntake:
    """Readouts of 3-D Cartesian scans, which ``recon --dimensions 3`` reads of files.

    A volume's slices along the readout are complete with its last readout, at LAST_IN_MEASUREMENT or at the
    end. Until then its readouts stay in memory; what is transformed of them stands in a temporary file that
    has no name. Both, and the work on them, count against the memory of all sessions before they are taken.
    """

    def __init__(self, header: MrdHeader, outlet: Outlet) -> None:
        self._outlet = outlet
        self._scan = HeldReadouts(header)
        self._n_bytes = self._n_images = 0
        self._folder = Path(tempfile.gettempdir())

    def add(self, readout: Readout) -> None:
        """Take a readout, and send the volumes that it completes; see :class:`Intake`."""
        header = readout.header
        encoding = self._scan.header.encodings[encoding_index(header, self._scan.header)]
        role = readout_role(int(header["flags"]), encoding.calibration_mode)
        is_image = role in (IMAGE, IMAGE_AND_CALIBRATION)
        try:
            if is_image and not self._n_images:
                self._expect(encoding, *readout.data.shape)
            self._n_bytes += _bytes_of(readout)
            self._outlet.share.hold(IN_PROGRESS, self._n_bytes)
        except InputError as error:
            raise NotSlicesError(f"{error}; recon --dimensions 3 takes a file of such scans") from error
        self._scan.append(readout)
        self._n_images += is_image
        if readout.has(Flag.LAST_IN_MEASUREMENT):
            self.finish()

    def finish(self) -> None:
        """Send the volumes that are there, one after another, and forget all readouts but those of noise."""
        if not self._n_images:
            return
        for number in count():
            partitions = PartitionsFile(self._scan, number)
            self._send(volume_of_readouts(partitions, self._scan, self._folder))
            if number + 1 == len(partitions.volumes) or self._outlet.sender.broken.is_set():
                break
        self._forget(lambda readout: readout.has(Flag.IS_NOISE_MEASUREMENT))

    def reset(self) -> None:
        """Forget the readouts."""
        self._forget(lambda _readout: False)

    def _forget(self, but: Callable[[Readout], bool]) -> None:
        self._scan.keep(but)
        self._n_images = 0
        self._n_bytes = sum(map(_bytes_of, self._scan.read_readouts(range(self._scan.n_readouts))))
        self._outlet.share.hold(IN_PROGRESS, self._n_bytes)
        self._outlet.share.hold(STORE, 0)

    def _expect(self, encoding: Encoding, n_coils: int, n_samples: int) -> None:
        """Take the memory that a volume will need, by its header, when its first readout comes."""
        encoded, recon = encoding.encoded.matrix_size, encoding.recon.matrix_size
        lines, partitions = (max(encoded[axis], recon[axis]) for axis in (1, 2))
        store = recon[0] * encoded[2] * n_coils * lines * _ITEM_BYTES
        self._hold(store, n_coils * max(n_samples, encoded[0]) * lines, (n_coils, partitions, lines))

    def _hold(self, store_bytes: int, n_partition: int, shape: tuple[int, int, int]) -> None:
        """Hold a store, and what the transform, the survey or slices that wait take, whichever is most.

        A partition has ``n_partition`` complex numbers, a slice ``shape``, (coil, rows, columns). The work on
        one is kept free too.
        """
        work = work_bytes(shape, self._outlet.service.width)
        self._outlet.share.reserve(work)
        transform = min(BLOCK_BYTES, store_bytes) + COPIES_OF_PARTITION * n_partition * _ITEM_BYTES
        waiting = 2 * (IN_FLIGHT + 1) * math.prod(shape) * _ITEM_BYTES  # with their calibration lines
        self._outlet.share.hold(STORE, store_bytes + max(transform, waiting, work))

    def _send(self, volume: MrdVolume) -> None:
        """Transform a volume, find what its slices share, and send them in order."""
        outlet, settings = self._outlet, self._outlet.service.settings
        if settings.orientation is not Orientation.AUTO:
            volume.conjugated = is_conjugated(settings.orientation)
        shape = volume.n_coils, volume.n_rows, volume.n_columns
        self._hold(volume.store_bytes, volume.n_coils * volume.n_readout * volume.n_columns, shape)
        _check_disk(self._folder, volume.store_bytes)
        with volume:
            volume.transform()
            whole = survey_volume(volume, lambda _index: None, None, None, AUTO, 1)
            remarks = tuple(volume.describe()["assumed"] or ())
            began = time.monotonic()
            for index in range(volume.n_slices):
                outlet.sender.wait_for_fewer(IN_FLIGHT)
                if outlet.sender.broken.is_set():
                    return
                data = _slice_of(volume, index, whole, remarks)
                outlet.send(
                    data,
                    partial(prepare_of_volume, data, whole),
                    work_bytes(data.kspace.shape, outlet.service.width),
                    (index + 1) * settings.deadline_s - (time.monotonic() - began),
                    whole.shared.scale,
                )
        outlet.sender.wait_for_fewer(1)  # what the slices take is held until they are sent


def prepare_of_volume(
    data: AssembledSlice, whole: WholeVolume, check: Callable[[], None] = lambda: None
) -> SliceProblem:
    """Return the problem of a slice of a volume, as ``recon --dimensions 3`` makes it.

    ``check`` is called between the parts of the work; what it raises ends it.

    Raises:
        InputError: the slice cannot be reconstructed.
    """
    return prepare_slice(
        data.kspace,
        data.slice,
        image_shape=data.image_shape,
        calibration=data.calibration,
        noise=whole.noise,
        map_method=whole.map_method,
        noise_source=whole.noise_source,
        check=check,
        volume=whole.shared,
    )


def _slice_of(volume: MrdVolume, index: int, whole: WholeVolume, remarks: tuple[str, ...]) -> AssembledSlice:
    rows, columns = image_shape = volume.recon_shape or volume.stored_shape
    voxel = volume.voxel_mm
    return AssembledSlice(
        series=volume.series(index),
        slice=index,
        kspace=volume.read_slice(index),
        calibration=volume.read_calibration(index),
        image_shape=image_shape,
        geometry=volume.geometry(index),
        header=volume.slice_header(index),
        noise=whole.noise,
        field_of_view_mm=None if voxel is None else (rows * voxel[0], columns * voxel[1], voxel[2]),
        remarks=remarks,
    )


def _bytes_of(readout: Readout) -> int:
    return (
        READOUT_BYTES + readout.data.nbytes + (0 if readout.trajectory is None else readout.trajectory.nbytes)
    )


def _check_disk(folder: Path, n_bytes: int) -> None:
    try:
        check_free_space(folder, n_bytes)
    except InputError as error:
        warn("disk-full", folder=str(folder), bytes=n_bytes)
        raise InputError(
            f"a volume takes {n_bytes} bytes of the server's disk for a while, which are not free: try later"
        ) from error
