"""What a person should know of a result beside its images: facts, warnings, and how it was made."""

from __future__ import annotations

from typing import Any

import numpy as np

from sbim_deploy.results.result_file import ResultFile

HIGH_RESIDUAL = 0.2
OUTLIER_RESIDUAL = 3.0  # times the median of the slices
FEW_CALIBRATION_LINES = 8
UNKNOWN = "unknown"
MAX_LISTED = 12

Rows = list[tuple[object, object]]


def look_up(provenance: dict[str, Any], *keys: str) -> Any:
    """Return what stands under the keys, or ``unknown``: a file may lack anything."""
    found: Any = provenance
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return UNKNOWN if found is None else found


def percent(fraction: float) -> str:
    """Return a fraction as text, with one decimal."""
    return f"{100 * fraction:.1f} %"


def row_sigmas(provenance: dict[str, Any]) -> list[float]:
    """Return the noise level of each row of the plan."""
    rows = look_up(provenance, "plan", "rows")
    if not isinstance(rows, list):
        return []
    sigmas = [look_up(row, "sigma") for row in rows]
    return [float(sigma) for sigma in sigmas if isinstance(sigma, int | float)]


def facts(result: ResultFile) -> list[tuple[str, str]]:
    """Return the few numbers that stand above the images, each with what it is."""
    made = result.provenance
    acceleration = look_up(made, "measured", "acceleration")
    seconds, n_timed = look_up(made, "timings_s", "total"), look_up(made, "timings_s", "slices")
    is_timed = isinstance(seconds, int | float) and isinstance(n_timed, int) and n_timed > 0
    residual = result.residual
    found = [
        (str(result.n_slices), "slices" if result.n_slices > 1 else "slice"),
        (_number(acceleration, ".2f", "R = "), "measured acceleration"),
        (
            percent(float(np.median(residual))),
            f"median residual ({percent(residual.min())} to {percent(residual.max())})",
        ),
        (str(look_up(made, "plan", "sampler")), f"sampler, {len(row_sigmas(made))} network calls a sample"),
    ]
    if result.samples > 1:
        found.append((str(result.samples), "samples averaged for each slice"))
    if is_timed:
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
    lines = look_up(made, "measured", "calibration_lines")
    is_estimated = look_up(made, "measured", "maps") == "ESPIRiT"
    if is_estimated and isinstance(lines, int) and lines < FEW_CALIBRATION_LINES:
        found.append(
            f"Only {lines} calibration lines: coil maps estimated from fewer than "
            f"{FEW_CALIBRATION_LINES} are inaccurate, and so is the image. Give better maps with --maps, or "
            "acquire more lines."
        )
    training_data = str(look_up(made, "model", "training_data"))
    if training_data.startswith("synthetic"):
        found.append(
            f"The model was trained on {training_data}, not on patients: it may draw what it was trained on."
        )
    timed = look_up(made, "timings_s", "slices")
    if isinstance(timed, int) and timed < result.n_slices:
        found.append(
            f"A stopped run was resumed: times and curves are those of the {timed} slices done since, of "
            f"{result.n_slices}."
        )
    return found


def how_it_was_made(result: ResultFile) -> dict[str, Rows]:
    """Return tables of names and values by their headings."""
    made = result.provenance

    def rows(**names: tuple[str, ...]) -> Rows:
        return [(name.replace("_", " "), look_up(made, *keys)) for name, keys in names.items()]

    maps = look_up(made, "maps", "name")
    removed = look_up(made, "undersampling")
    scan: Rows = [
        *rows(File=("input", "name"), SHA_256=("input", "sha256")),
        ("Image", f"{result.shape[0]} rows x {result.shape[1]} columns, {result.n_slices} slices"),
        ("Acceleration", _number(look_up(made, "measured", "acceleration"), ".3g")),
        *rows(Calibration_lines=("measured", "calibration_lines")),
        ("Coil maps", f"{look_up(made, 'measured', 'maps')}" + ("" if maps == UNKNOWN else f": {maps}")),
    ]
    if isinstance(removed, dict):
        scan.append(
            ("Lines taken away", f"{look_up(removed, 'pattern')}, {look_up(removed, 'acceleration')}")
        )
    model = rows(
        Model=("model", "name"),
        Training_data=("model", "training_data"),
        Intended_use=("model", "intended_use"),
        Digest=("model", "digest"),
    )
    sampling: Rows = [
        *rows(Sampler=("plan", "sampler")),
        ("Network calls", f"{len(row_sigmas(made))} for each sample"),
        *rows(Samples=("samples",), Seed=("seed",), Graph=("graph",)),
    ]
    run = rows(Written=("created",), Images_at_once=("batch",))
    for heading, key in (("Engine", "engine"), ("Software", "software"), ("Timings (s)", "timings_s")):
        listed = look_up(made, key)
        items = listed.items() if isinstance(listed, dict) else ()
        run.append((heading, ", ".join(f"{name} {value}" for name, value in items) or UNKNOWN))
    return {"Scan": scan, "Model": model, "Sampling": sampling, "Run": run}


def _number(value: Any, form: str, before: str = "") -> str:
    return f"{before}{value:{form}}" if isinstance(value, int | float) else str(value)
