"""MRD scans of a known object, made readout by readout: for tests of what reads, streams and serves them.

k-space is the Fourier sum written out as a matrix: no transform of the package is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.runs.simulate import brain_slice

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
NO_DIRECTIONS = ((0.0, 0.0, 0.0),) * 3
_VLEN = h5py.vlen_dtype(np.float32)


@dataclass(frozen=True)
class ScanSettings:
    """What to acquire.

    Attributes:
        size: rows and columns of the image; the readout has ``oversampling`` times as many samples.
        acceleration: every R-th line, beside ``calib_width`` lines around the centre.
        shifted: repetition r starts at line r modulo R.
        calibration_mode: of the header; "separate" acquires the central lines apart, flagged (20), before
            the image of the first repetition; "embedded" flags those beside the regular ones (20 or 21).
        interleaved: line by line over the slices, in place of slice by slice.
        skipped_lines: partial Fourier: lines left out at the start.
        skipped_samples: asymmetric echo: samples left out at the start of a readout.
        discarded: samples at either end of a readout that are noise and marked to be discarded.
        reversed_lines: every second readout runs backwards.
        noise: standard deviation of each part of a sample, before ``noise_mixing`` (coil, coil).
        n_noise_readouts: readouts of noise alone, first, with ``noise_dwell_us``.
        directions: read_dir, phase_dir and slice_dir; slices are ``spacing_mm`` apart along the last.
    """

    n_slices: int = 1
    n_repetitions: int = 1
    n_averages: int = 1
    n_coils: int = 4
    size: int = 32
    oversampling: int = 2
    acceleration: int = 1
    calib_width: int = 0
    shifted: bool = False
    calibration_mode: str | None = None
    interleaved: bool = False
    skipped_lines: int = 0
    skipped_samples: int = 0
    discarded: int = 0
    reversed_lines: bool = False
    noise: float = 0.0
    noise_mixing: Any = None
    n_noise_readouts: int = 0
    noise_dwell_us: float = 5.0
    dwell_us: float = 5.0
    field_of_view_mm: float = 256.0
    thickness_mm: float = 5.0
    spacing_mm: float = 6.0
    directions: tuple[tuple[float, float, float], ...] = AXIAL
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    last_in_slice: bool = True
    last_in_measurement: bool = True
    bits_stored: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class MrdScan:
    """A scan and what it is of.

    Attributes:
        settings: how it was made.
        xml: the header's text.
        readouts: in the order of acquisition.
        images: the truth, complex64 (repetitions, slices, size, size), readout along the rows.
        maps: complex64 (coils, size, size).
        mask: the lines that were acquired for the image, (repetitions, size).
    """

    settings: ScanSettings
    xml: str
    readouts: list[Readout]
    images: Any
    maps: Any
    mask: Any


def make_scan(settings: ScanSettings | None = None, **changes: Any) -> MrdScan:
    """Make a scan of synthetic brains with a smooth phase, another factor in every repetition."""
    chosen = settings or ScanSettings(**changes)
    rng = np.random.default_rng(chosen.seed)
    images = _make_images(chosen, rng)
    maps = birdcage_maps(chosen.n_coils, (chosen.size, chosen.size))
    lines = [_image_lines(chosen, repetition) for repetition in range(chosen.n_repetitions)]
    mask = np.zeros((chosen.n_repetitions, chosen.size), np.bool_)
    for repetition, acquired in enumerate(lines):
        mask[repetition, acquired] = True
    readouts = _Scanner(chosen, images, maps, rng).run(lines)
    return MrdScan(chosen, header_xml(chosen), readouts, images, maps, mask)


def write_mrd(path: Path, scan: MrdScan, group: str = "dataset") -> Path:
    """Write a scan as an MRD file."""
    table = np.dtype([("head", ACQUISITION_HEADER), ("traj", _VLEN), ("data", _VLEN)])
    records = np.empty(len(scan.readouts), table)
    for place, readout in enumerate(scan.readouts):
        records["head"][place] = readout.header
        trajectory = np.zeros(0, np.float32) if readout.trajectory is None else readout.trajectory.ravel()
        records["traj"][place] = trajectory
        records["data"][place] = np.ascontiguousarray(readout.data).view(np.float32).ravel()
    with h5py.File(path, "w") as file:
        file.create_dataset(f"{group}/data", data=records, chunks=(1,), maxshape=(None,))
        file.create_dataset(f"{group}/xml", data=[scan.xml], dtype=h5py.string_dtype("ascii"))
    return path


def header_xml(settings: ScanSettings) -> str:
    """Write the header; lines are counted from the first that partial Fourier leaves."""
    size, fov = settings.size, settings.field_of_view_mm
    parallel = ""
    if settings.calibration_mode:
        parallel = (
            "<parallelImaging><accelerationFactor>"
            f"<kspace_encoding_step_1>{settings.acceleration}</kspace_encoding_step_1>"
            "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
            f"<calibrationMode>{settings.calibration_mode}</calibrationMode></parallelImaging>"
        )
    user = ""
    if settings.bits_stored is not None:
        user = (
            "<userParameters><userParameterLong><name>BitsStored</name>"
            f"<value>{settings.bits_stored}</value></userParameterLong></userParameters>"
        )
    limits = {
        "kspace_encoding_step_1": (size - 1 - settings.skipped_lines, size // 2 - settings.skipped_lines),
        "average": (settings.n_averages - 1, 0),
        "slice": (settings.n_slices - 1, 0),
        "repetition": (settings.n_repetitions - 1, 0),
    }
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<studyInformation><studyDescription>phantoms</studyDescription></studyInformation>"
        "<measurementInformation><patientPosition>HFS</patientPosition>"
        "<protocolName>brain</protocolName></measurementInformation>"
        "<acquisitionSystemInformation><systemVendor>none</systemVendor>"
        "<systemFieldStrength_T>3</systemFieldStrength_T></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz>"
        "</experimentalConditions><encoding>"
        f"<encodedSpace>{_space(settings.oversampling * size, size, settings.oversampling * fov, settings)}"
        f"</encodedSpace><reconSpace>{_space(size, size, fov, settings)}</reconSpace>"
        "<encodingLimits>"
        + "".join(
            f"<{name}><minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center></{name}>"
            for name, (maximum, center) in limits.items()
        )
        + f"</encodingLimits><trajectory>cartesian</trajectory>{parallel}</encoding>"
        "<sequenceParameters><TR>500</TR><TE>10</TE><flipAngle_deg>70</flipAngle_deg></sequenceParameters>"
        f"{user}</ismrmrdHeader>"
    )


def _space(rows: int, columns: int, read_extent: float, settings: ScanSettings) -> str:
    return (
        f"<matrixSize><x>{rows}</x><y>{columns}</y><z>1</z></matrixSize>"
        f"<fieldOfView_mm><x>{read_extent}</x><y>{settings.field_of_view_mm}</y>"
        f"<z>{settings.thickness_mm}</z></fieldOfView_mm>"
    )


def _make_images(settings: ScanSettings, rng: np.random.Generator) -> Any:
    shape = (settings.size, settings.size)
    slices = [
        brain_slice(index, settings.size) * smooth_phase(shape, rng) for index in range(settings.n_slices)
    ]
    scale = np.percentile(np.abs(slices), 99)
    factors = [(1 + 0.2 * r) * np.exp(1j * r) for r in range(settings.n_repetitions)]
    return np.stack([factor * np.stack(slices) / scale for factor in factors]).astype(np.complex64)


def _image_lines(settings: ScanSettings, repetition: int) -> list[int]:
    """Return the lines of the grid that a repetition acquires for its image, in order."""
    start = repetition % settings.acceleration if settings.shifted else 0
    lines = set(range(start, settings.size, settings.acceleration))
    if settings.calibration_mode != "separate":
        lines |= set(_calibration_lines(settings))
    return sorted(line for line in lines if line >= settings.skipped_lines)


def _calibration_lines(settings: ScanSettings) -> range:
    start = settings.size // 2 - settings.calib_width // 2
    return range(start, start + settings.calib_width)


def _fourier_sum(n_samples: int, n_pixels: int) -> Any:
    """Return the matrix from the pixels around the centre to the samples, as it is defined."""
    samples, pixels = np.arange(n_samples) - n_samples // 2, np.arange(n_pixels) - n_pixels // 2
    return np.exp(-2j * np.pi * np.outer(samples, pixels) / n_samples) / np.sqrt(n_samples)


class _Scanner:
    """Acquires readouts one after another."""

    def __init__(self, settings: ScanSettings, images: Any, maps: Any, rng: np.random.Generator) -> None:
        self.settings, self.rng = settings, rng
        self.readouts: list[Readout] = []
        self.n_samples = settings.oversampling * settings.size
        read, phase = _fourier_sum(self.n_samples, settings.size), _fourier_sum(settings.size, settings.size)
        self.kspace = read @ (maps * images[:, :, None]) @ phase.T

    def run(self, lines: list[list[int]]) -> list[Readout]:
        settings = self.settings
        for _ in range(settings.n_noise_readouts):
            self._acquire_noise()
        if settings.calibration_mode == "separate":
            for slice_index in range(settings.n_slices):
                for line in _calibration_lines(settings):
                    self._acquire(line, 0, 0, slice_index, 1 << (Flag.IS_PARALLEL_CALIBRATION - 1))
        for repetition, acquired in enumerate(lines):
            for average in range(settings.n_averages):
                for line, slice_index in self._order(acquired):
                    flags = self._calibration_flag(line, repetition)
                    if line == acquired[-1] and average == settings.n_averages - 1 and settings.last_in_slice:
                        flags |= 1 << (Flag.LAST_IN_SLICE - 1)
                    self._acquire(line, average, repetition, slice_index, flags)
        if settings.last_in_measurement:
            header = self.readouts[-1].header
            header["flags"] = int(header["flags"]) | 1 << (Flag.LAST_IN_MEASUREMENT - 1)
        return self.readouts

    def _order(self, lines: list[int]) -> list[tuple[int, int]]:
        slices = range(self.settings.n_slices)
        if self.settings.interleaved:
            return [(line, slice_index) for line in lines for slice_index in slices]
        return [(line, slice_index) for slice_index in slices for line in lines]

    def _calibration_flag(self, line: int, repetition: int) -> int:
        settings = self.settings
        if settings.calibration_mode not in ("embedded", "interleaved"):
            return 0
        if line not in _calibration_lines(settings):
            return 0
        start = repetition % settings.acceleration if settings.shifted else 0
        regular = (line - start) % settings.acceleration == 0
        flag = Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING if regular else Flag.IS_PARALLEL_CALIBRATION
        return 1 << (flag - 1)

    def _acquire(self, line: int, average: int, repetition: int, slice_index: int, flags: int) -> None:
        settings = self.settings
        samples = self.kspace[repetition, slice_index, :, :, line]
        samples = samples + self._noise(samples.shape[1])
        samples = samples[:, settings.skipped_samples :]
        center = self.n_samples // 2 - settings.skipped_samples
        if settings.discarded:
            junk = self.rng.standard_normal((2, settings.n_coils, settings.discarded))
            samples = np.concatenate([junk[0], samples, junk[1]], axis=1)
            center += settings.discarded
        if settings.reversed_lines and len(self.readouts) % 2:
            samples, center = samples[:, ::-1], samples.shape[1] - 1 - center
            flags |= 1 << (Flag.IS_REVERSE - 1)
        header = self._header(samples.shape[1], flags, settings.dwell_us)
        header["center_sample"] = center
        header["discard_pre"] = header["discard_post"] = settings.discarded
        directions = np.asarray(settings.directions)
        header["read_dir"], header["phase_dir"], header["slice_dir"] = directions
        header["position"] = settings.position + slice_index * settings.spacing_mm * directions[2]
        counters = header["idx"]
        counters["kspace_encode_step_1"] = line - settings.skipped_lines
        counters["average"], counters["slice"], counters["repetition"] = average, slice_index, repetition
        self.readouts.append(Readout(header, np.ascontiguousarray(samples, np.complex64)))

    def _acquire_noise(self) -> None:
        settings = self.settings
        samples = self._noise(self.n_samples)
        # A longer dwell time lets less noise through.
        samples = samples * np.sqrt(settings.dwell_us / settings.noise_dwell_us)
        flag = 1 << (Flag.IS_NOISE_MEASUREMENT - 1)
        header = self._header(samples.shape[1], flag, settings.noise_dwell_us)
        self.readouts.append(Readout(header, np.ascontiguousarray(samples, np.complex64)))

    def _noise(self, n_samples: int) -> Any:
        parts = self.rng.standard_normal((2, self.settings.n_coils, n_samples))
        noise = self.settings.noise * (parts[0] + 1j * parts[1])
        return noise if self.settings.noise_mixing is None else self.settings.noise_mixing @ noise

    def _header(self, n_samples: int, flags: int, dwell_us: float) -> Any:
        header = np.zeros((), ACQUISITION_HEADER)[()]
        header["version"], header["flags"] = 1, flags
        header["measurement_uid"], header["scan_counter"] = 1, len(self.readouts)
        header["acquisition_time_stamp"] = len(self.readouts)
        header["number_of_samples"], header["sample_time_us"] = n_samples, dwell_us
        header["available_channels"] = header["active_channels"] = self.settings.n_coils
        return header
