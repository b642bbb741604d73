"""A simulated scan as an MRD file of raw data: noise, oversampled readouts and flags as scanners send them.

The truth and the coil maps stand beside the readouts, under the names that fastMRI's files have here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np

from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import write_json_attribute, writing
from sbim_deploy.io.overwriting import HDF5, check_name
from sbim_deploy.mrd.file import MrdWriter
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout
from sbim_deploy.mri.fourier import centre_pad, centred_fft
from sbim_deploy.mri.masks import calibration_block, effective_acceleration
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.trajectories import GOLDEN, RADIAL, SPIRAL, full_readouts
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.simulate import (
    FIELD_OF_VIEW_MM,
    SLICE_THICKNESS_MM,
    SimulateSettings,
    Truth,
    object_magnitude,
    sampled_lines,
    simulate_truth,
    simulated_provenance,
    simulated_trajectory,
    unit_noise,
)

OVERSAMPLING = 2
N_NOISE_READOUTS = 64
DWELL_US = 5.0
MRD_NAMES = {RADIAL: "radial", GOLDEN: "goldenangle", SPIRAL: "spiral"}
TR_TICKS, TICK_MS = 4, 2.5  # of acquisition_time_stamp, as Siemens counts it
SLICE_SPACING_MM = 1.2 * SLICE_THICKNESS_MM
# An axial slice with the nose up: rows of pixels go to the back, columns to the patient's left.
READ_DIR, PHASE_DIR, SLICE_DIR = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)

# Line, samples (coil, sample) without noise, and trajectory of a readout.
_Sent = tuple[int, ComplexArray, FloatArray | None]


def simulate_mrd(
    path: Path,
    settings: SimulateSettings,
    on_slice: Callable[[int], None] | None = None,
    force: bool = False,
) -> float:
    """Write an MRD file with its truth and return the effective acceleration.

    Readouts are twice oversampled. Where there is noise, readouts of noise alone come first and all samples,
    and the truth with them, are in units of its standard deviation, so that whitening leaves their scale.
    With ``force`` what is there is replaced, a scan only where it was simulated too.

    Raises:
        InputError: the file cannot be written, or may not be replaced.
    """
    check_name(path, HDF5)
    with writing(path, force, over_simulated=True) as file:
        writer = MrdWriter(file, mrd_header(settings).encode())
        make_room_for_truth(file, settings)
        scanner = Scanner(writer, settings)
        scanner.send_noise()
        for index in range(settings.n_slices):
            truth = simulate_truth(object_magnitude(settings, index), settings, index)
            check_free_space(path.parent, 3 * OVERSAMPLING * truth.maps.nbytes)
            scanner.send_slice(truth, index)
            keep_truth(file, truth, index, scanner.unit)
            if on_slice is not None:
                on_slice(index + 1)
        write_json_attribute(file, "provenance", simulated_provenance(asdict(settings)))
    if settings.trajectory is not None:
        places = simulated_trajectory(settings)
        return full_readouts(settings.trajectory, settings.size) / len(places)
    return effective_acceleration(sampled_lines(settings))


def mrd_header(settings: SimulateSettings, cube_mm: float | None = None) -> str:
    """Return the XML header of a simulated scan, in the order that the ISMRMRD schema demands.

    ``cube_mm`` says that its slices are the partitions of a volume, and is the sides of its field of view.
    """
    size, n_slices = settings.size, settings.n_slices
    fov, depth = (FIELD_OF_VIEW_MM, SLICE_THICKNESS_MM) if cube_mm is None else (cube_mm, cube_mm)
    n_partitions = 1 if cube_mm is None else n_slices
    factor = round(settings.acceleration)
    trajectory = "cartesian" if settings.trajectory is None else MRD_NAMES[settings.trajectory]
    ratio = OVERSAMPLING if settings.trajectory is None else 1
    lines = size if settings.trajectory is None else len(simulated_trajectory(settings))
    parallel = (
        "<parallelImaging><accelerationFactor>"
        f"<kspace_encoding_step_1>{factor}</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        "<calibrationMode>embedded</calibrationMode></parallelImaging>"
    )
    limits = {
        "kspace_encoding_step_1": (lines - 1, lines // 2),
        "kspace_encoding_step_2": (n_partitions - 1, n_partitions // 2),
        "average": (0, 0),
        "slice": (n_slices - 1 if cube_mm is None else 0, 0),
        "contrast": (0, 0),
        "phase": (0, 0),
        "repetition": (0, 0),
        "set": (0, 0),
        "segment": (0, 0),
    }
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">\n'
        "<studyInformation><studyDescription>simulated by sbim-deploy</studyDescription></studyInformation>\n"
        "<measurementInformation><patientPosition>HFS</patientPosition>"
        f"<protocolName>simulated {settings.phantom}</protocolName></measurementInformation>\n"
        "<acquisitionSystemInformation><systemVendor>sbim-deploy</systemVendor>"
        "<systemModel>simulate</systemModel><systemFieldStrength_T>3</systemFieldStrength_T>"
        "<relativeReceiverNoiseBandwidth>1</relativeReceiverNoiseBandwidth>"
        f"<receiverChannels>{settings.n_coils}</receiverChannels></acquisitionSystemInformation>\n"
        "<experimentalConditions><H1resonanceFrequency_Hz>127728000</H1resonanceFrequency_Hz>"
        "</experimentalConditions>\n<encoding>\n"
        f"<encodedSpace>{_space((ratio * size, size, n_partitions), (ratio * fov, fov, depth))}"
        "</encodedSpace>\n"
        f"<reconSpace>{_space((size, size, n_partitions), (fov, fov, depth))}</reconSpace>\n<encodingLimits>"
        + "".join(
            f"<{name}><minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center></{name}>"
            for name, (maximum, center) in limits.items()
        )
        + f"</encodingLimits>\n<trajectory>{trajectory}</trajectory>"
        f"{parallel if factor > 1 and settings.trajectory is None else ''}\n</encoding>\n"
        f"<sequenceParameters><TR>{TR_TICKS * TICK_MS:g}</TR></sequenceParameters>\n</ismrmrdHeader>\n"
    )


def _space(matrix: tuple[int, int, int], field_of_view_mm: tuple[float, float, float]) -> str:
    return "".join(
        f"<{name}><x>{x:g}</x><y>{y:g}</y><z>{z:g}</z></{name}>"
        for name, (x, y, z) in (("matrixSize", matrix), ("fieldOfView_mm", field_of_view_mm))
    )


def make_room_for_truth(file: h5py.File, settings: SimulateSettings) -> None:
    """Make the datasets of a scan's images and maps, which :func:`keep_truth` fills."""
    size, n_coils = settings.size, settings.n_coils
    for name, shape in (("reference", (size, size)), ("s_maps", (n_coils, size, size))):
        chunks = (1,) * (len(shape) - 1) + shape[-2:]
        file.create_dataset(name, (settings.n_slices, *shape), np.complex64, chunks=chunks)


def keep_truth(file: h5py.File, truth: Truth, index: int, unit: float) -> None:
    """Write the truth of a slice beside the readouts; ``unit`` is what these are divided by."""
    file["reference"][index] = truth.reference / np.float32(unit)
    file["s_maps"][index] = truth.maps


class Scanner:
    """Sends readouts one after another, numbered and with the time.

    Args:
        writer: what writes them.
        settings: the scan.
        is_stack: its slices are the partitions of a volume.

    Attributes:
        unit: what the samples are divided by.
    """

    def __init__(self, writer: MrdWriter, settings: SimulateSettings, is_stack: bool = False) -> None:
        self._writer, self._settings, self._is_stack = writer, settings, is_stack
        # Oversampling doubles the noise's variance. On a grid the transform's unit has that in it.
        spread = 1.0 if settings.trajectory is None else OVERSAMPLING**0.5
        self.unit = settings.noise * spread or 1.0
        if settings.trajectory is not None:
            self._places = simulated_trajectory(settings)
        self._sent = 0
        mask = sampled_lines(settings)[None]
        self._calibration = calibration_block(mask, (settings.size, settings.size))[1]

    def send_noise(self) -> None:
        """Send readouts of noise alone, as scanners do before a scan."""
        if not self._settings.noise:
            return
        rng = np.random.default_rng([self._settings.seed, self._settings.n_slices, 0])
        shape = (self._settings.n_coils, OVERSAMPLING * self._settings.size)
        for _ in range(N_NOISE_READOUTS):
            self._send(unit_noise(rng, shape), [Flag.IS_NOISE_MEASUREMENT])

    def send_slice(self, truth: Truth, index: int) -> None:
        """Send the readouts of a slice in their order."""
        if self._settings.trajectory is None:
            self._send_all(self._lines(truth), index, truth.rng)
        else:
            self.send_along(self.samples_of(truth), index, truth.rng)

    def samples_of(self, truth: Truth) -> ComplexArray:
        """Return the samples (coil, readout, sample) of a slice along the trajectory, without noise."""
        samples = to_samples(truth.maps * truth.reference, self._places)
        return (samples / np.float32(self.unit)).astype(np.complex64)

    def send_along(self, samples: ComplexArray, index: int, rng: np.random.Generator) -> None:
        """Send samples (coil, readout, sample) along the trajectory, with noise that ``rng`` draws."""
        places = self._places / self._settings.size
        self._send_all([(line, samples[:, line], each) for line, each in enumerate(places)], index, rng)

    def _lines(self, truth: Truth) -> list[_Sent]:
        settings = self._settings
        shape = (OVERSAMPLING * settings.size, settings.size)
        encoded: ComplexArray = centred_fft(centre_pad(truth.maps * truth.reference, shape))
        encoded /= np.float32(self.unit)
        lines = np.flatnonzero(sampled_lines(settings)).tolist()
        return [(line, encoded[:, :, line], None) for line in lines]

    def _send_all(self, readouts: list[_Sent], index: int, rng: np.random.Generator) -> None:
        for place, (line, samples, trajectory) in enumerate(readouts):
            if self._settings.noise:
                samples = samples + unit_noise(rng, samples.shape)
            flags = self._calibration_flags(line)
            flags += self._first_flags(index) if place == 0 else []
            flags += self._last_flags(index) if place == len(readouts) - 1 else []
            self._send(samples, flags, line, index, trajectory)

    def _first_flags(self, index: int) -> list[Flag]:
        flags = [Flag.FIRST_IN_ENCODE_STEP1]
        if self._is_stack and not index:
            flags.append(Flag.FIRST_IN_ENCODE_STEP2)
        if not self._is_stack or not index:
            flags.append(Flag.FIRST_IN_SLICE)
        return flags if index else [*flags, Flag.FIRST_IN_REPETITION]

    def _last_flags(self, index: int) -> list[Flag]:
        flags, is_last = [Flag.LAST_IN_ENCODE_STEP1], index == self._settings.n_slices - 1
        if self._is_stack and is_last:
            flags.append(Flag.LAST_IN_ENCODE_STEP2)
        if not self._is_stack or is_last:
            flags.append(Flag.LAST_IN_SLICE)
        return [*flags, Flag.LAST_IN_REPETITION, Flag.LAST_IN_MEASUREMENT] if is_last else flags

    def _calibration_flags(self, line: int) -> list[Flag]:
        """Return the flag of a line at the centre: 21 where it is one of every R-th too, else 20."""
        factor = self._settings.acceleration
        if self._settings.trajectory is not None:
            return []
        if factor <= 1 or not self._calibration.start <= line < self._calibration.stop:
            return []
        is_regular = self._settings.pattern != "equispaced" or line % round(factor) == 0
        return [Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING if is_regular else Flag.IS_PARALLEL_CALIBRATION]

    def _send(
        self,
        samples: ComplexArray,
        flags: list[Flag],
        line: int = 0,
        index: int = 0,
        trajectory: FloatArray | None = None,
    ) -> None:
        n_coils, n_samples = samples.shape
        header: np.void = np.zeros((), ACQUISITION_HEADER)[()]  # type: ignore[assignment]
        header["version"] = header["measurement_uid"] = 1
        header["flags"] = sum(1 << (flag - 1) for flag in flags)
        header["scan_counter"], header["acquisition_time_stamp"] = self._sent, TR_TICKS * self._sent
        header["number_of_samples"], header["center_sample"] = n_samples, n_samples // 2
        header["available_channels"] = header["active_channels"] = n_coils
        header["channel_mask"] = _channel_mask(n_coils)
        header["sample_time_us"] = DWELL_US
        header["read_dir"], header["phase_dir"], header["slice_dir"] = READ_DIR, PHASE_DIR, SLICE_DIR
        header["idx"]["kspace_encode_step_1"] = line
        if self._is_stack:
            header["idx"]["kspace_encode_step_2"] = index  # and the middle of the volume lies at 0
        else:
            place = (index - (self._settings.n_slices - 1) / 2) * SLICE_SPACING_MM
            header["position"], header["idx"]["slice"] = place * np.array(SLICE_DIR), index
        header["trajectory_dimensions"] = 0 if trajectory is None else trajectory.shape[-1]
        self._writer.append(Readout(header, samples.astype(np.complex64), trajectory))
        self._sent += 1


def _channel_mask(n_coils: int) -> list[int]:
    """Return the bits of the channels, 64 in a word."""
    return [(1 << min(max(n_coils - 64 * word, 0), 64)) - 1 for word in range(16)]
