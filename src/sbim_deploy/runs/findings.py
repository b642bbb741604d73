"""What a person should know of a result beside its images: facts, warnings, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sbim_deploy.results.provenance import Provenance
from sbim_deploy.results.result_file import ResultFile

HIGH_RESIDUAL = 0.2
OUTLIER_RESIDUAL = 3.0  # times the median of the slices
FEW_CALIBRATION_LINES = 8
UNKNOWN = "unknown"
MAX_LISTED = 12

Rows = list[tuple[object, object]]


def shown(value: object, form: str = "", before: str = "") -> str:
    """Return a value of a provenance as text, or ``unknown`` where the file lacks it."""
    return UNKNOWN if value is None else f"{before}{value:{form}}"


def percent(fraction: float) -> str:
    """Return a fraction as text, with one decimal."""
    return f"{100 * fraction:.1f} %"


def step_sigmas(made: Provenance) -> list[float]:
    """Return the noise level of each step of the plan."""
    sigmas = [row.get("sigma") for row in made.plan.rows]
    return [float(sigma) for sigma in sigmas if isinstance(sigma, int | float)]


def facts(result: ResultFile) -> list[tuple[str, str]]:
    """Return the few numbers that stand above the images, each with what it is."""
    made = result.provenance
    seconds, n_timed = made.timings_s.total, made.timings_s.slices
    residual = result.residual
    found = [
        (str(result.n_slices), "slices" if result.n_slices > 1 else "slice"),
        (shown(made.measured.acceleration, ".2f", "R = "), "measured acceleration"),
        (
            percent(float(np.median(residual))),
            f"median residual ({percent(residual.min())} to {percent(residual.max())})",
        ),
        (shown(made.plan.sampler), f"sampler, {len(step_sigmas(made))} network calls a sample"),
    ]
    if result.samples > 1:
        found.append((str(result.samples), "samples averaged for each slice"))
    if seconds is not None and n_timed:
        found.append((f"{seconds / n_timed:.1f} s", "a slice, everything included"))
    return found


def flagged_slices(result: ResultFile) -> dict[int, str]:
    """Return the slices whose image is far from the measured data, with how far."""
    median = float(np.median(result.residual))
    limit = min(HIGH_RESIDUAL, OUTLIER_RESIDUAL * median)
    return {
        index: percent(residual)
        for index, residual in zip(result.slice_indices, result.residual, strict=True)
        if not residual <= limit
    }


def warnings(result: ResultFile) -> list[str]:
    """Return what may be wrong with the images, as sentences."""
    made = result.provenance
    found = []
    flagged = flagged_slices(result)
    if flagged:
        listed = ", ".join(f"{index} ({residual})" for index, residual in list(flagged.items())[:MAX_LISTED])
        more = f" and {len(flagged) - MAX_LISTED} more" if len(flagged) > MAX_LISTED else ""
        found.append(
            f"High residual in slice {listed}{more}: the image does not explain the measured data. Motion, "
            "much noise, coil maps that do not fit, or a sampler with too few steps."
        )
    lines = made.measured.calibration_lines
    if made.measured.maps == "ESPIRiT" and lines is not None and lines < FEW_CALIBRATION_LINES:
        found.append(
            f"Only {lines} calibration lines: coil maps estimated from fewer than "
            f"{FEW_CALIBRATION_LINES} are inaccurate, and so is the image. Give better maps with --maps, or "
            "acquire more lines."
        )
    training_data = made.model.training_data or UNKNOWN
    if training_data.startswith("synthetic"):
        found.append(
            f"The model was trained on {training_data}, not on patients: it may draw what it was trained on."
        )
    timed = made.timings_s.slices
    if timed is not None and timed < result.n_slices:
        found.append(
            f"A stopped run was resumed: times and curves are those of the {timed} slices done since, of "
            f"{result.n_slices}."
        )
    return found


def how_it_was_made(result: ResultFile) -> dict[str, Rows]:
    """Return tables of names and values by their headings."""
    made = result.provenance
    measured = made.measured
    maps = "" if made.maps is None or made.maps.name is None else f": {made.maps.name}"
    scan: Rows = [
        ("File", shown(made.input.name)),
        ("SHA 256", shown(made.input.sha256)),
        ("Image", f"{result.shape[0]} rows x {result.shape[1]} columns, {result.n_slices} slices"),
        ("Acceleration", shown(measured.acceleration, ".3g")),
        ("Calibration lines", shown(measured.calibration_lines)),
        ("Coil maps", f"{shown(measured.maps)}{maps}"),
    ]
    removed = made.undersampling
    if removed is not None:
        scan.append(("Lines taken away", f"{shown(removed.pattern)}, {shown(removed.acceleration)}"))
    model: Rows = [
        ("Model", shown(made.model.name)),
        ("Training data", shown(made.model.training_data)),
        ("Intended use", shown(made.model.intended_use)),
        ("Digest", shown(made.model.digest)),
    ]
    sampling: Rows = [
        ("Sampler", shown(made.plan.sampler)),
        ("Network calls", f"{len(step_sigmas(made))} for each sample"),
        ("Samples", shown(made.samples)),
        ("Seed", shown(made.seed)),
        ("Graph", shown(made.graph)),
    ]
    seconds = {name: value for name, value in vars(made.timings_s).items() if value is not None}
    run: Rows = [
        ("Written", shown(made.created)),
        ("Images at once", shown(made.batch)),
        ("Engine", _listed(made.engine)),
        ("Software", _listed(made.software)),
        ("Timings (s)", _listed(seconds)),
    ]
    return {"Scan": scan, "Model": model, "Sampling": sampling, "Run": run}


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or UNKNOWN
