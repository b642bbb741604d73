"""What a person should know of a result beside its images: facts, warnings, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sbim_deploy.recon.prepare import GIVEN
from sbim_deploy.results.provenance import Provenance
from sbim_deploy.results.result_file import ResultFile
from sbim_deploy.words import plural

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
        (shown(made.maker), "without a network")
        if made.without_network
        else (
            shown(made.plan.sampler),
            f"sampler, {plural(len(step_sigmas(made)), 'network call')} a sample",
        ),
    ]
    if result.samples > 1:
        found.append((str(result.samples), "samples averaged for each slice"))
    if seconds is not None and n_timed:
        found.append((f"{seconds / n_timed:.1f} s", "a slice, everything included"))
    return found


def warnings(made: Provenance) -> list[str]:
    """Return why images may be wrong, as sentences: those of slices, then those of the model."""
    found = slice_warnings(made)
    if (made.samples or 1) > 1 and not (made.sources("maps") or "").startswith(GIVEN):
        found.append("the standard deviation does not hold the error of the coil maps, which were estimated")
    return found + model_warnings(made.model.training_data)


def slice_warnings(made: Provenance) -> list[str]:
    """Return why the images of slices may be wrong, one sentence for each kind of reason."""
    by_kind: dict[str, list[int]] = {}
    for index, doubts in made.doubts.items():
        for kind in doubts:
            by_kind.setdefault(kind, []).append(index)
    found = []
    for kind, indices in by_kind.items():
        first = made.doubts[indices[0]][kind]
        of_many = "" if len(indices) == 1 else f"{kind} in slices {_first_of(indices)}; "
        found.append(f"{of_many}slice {indices[0]}: {first}")
    return found


def model_warnings(training_data: str | None) -> list[str]:
    """Return why every image of a model may be wrong, as sentences."""
    if not (training_data or UNKNOWN).startswith("synthetic"):
        return []
    return [f"the model was trained on {training_data}, not on patients: it may draw what it was trained on"]


def resumed(result: ResultFile) -> str | None:
    """Return what a run that was resumed cannot tell, as a sentence."""
    timed = result.provenance.timings_s.slices
    if timed is None or timed >= result.n_slices:
        return None
    return (
        f"A stopped run was resumed: times and curves are those of {timed} of "
        f"{plural(result.n_slices, 'slice')}, done since."
    )


def how_it_was_made(result: ResultFile) -> dict[str, Rows]:
    """Return tables of names and values by their headings."""
    made = result.provenance
    measured = made.measured
    maps = "" if made.maps is None or made.maps.name is None else f": {made.maps.name}"
    scan: Rows = [
        ("File", shown(made.input.name)),
        ("SHA 256", shown(made.input.sha256)),
        ("Image", f"{result.shape[0]} rows x {result.shape[1]} columns, {plural(result.n_slices, 'slice')}"),
        ("Acceleration", shown(measured.acceleration, ".3g")),
        ("Calibration lines", shown(measured.calibration_lines)),
        ("Coil maps", f"{shown(made.sources('maps'))}{maps}"),
        ("Noise", _noise(made)),
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
    if made.prior_orientations is not None:
        sampling.append(("The network sees", f"{made.prior_orientations} orientations in turn"))
    seconds = {name: value for name, value in vars(made.timings_s).items() if value is not None}
    run: Rows = [
        ("Written", shown(made.created)),
        ("Images at once", shown(made.batch)),
        ("Engine", _listed(made.engine)),
        ("Software", _listed(made.software)),
        ("Timings (s)", _listed(seconds)),
    ]
    if made.without_network:
        return {"Scan": scan, "Method": [("Without a network", shown(made.maker))], "Run": run}
    return {"Scan": scan, "Model": model, "Sampling": sampling, "Run": run}


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or UNKNOWN


def _first_of(indices: Sequence[int]) -> str:
    more = f" and {len(indices) - MAX_LISTED} more" if len(indices) > MAX_LISTED else ""
    return f"{', '.join(map(str, indices[:MAX_LISTED]))}{more}"


def _noise(made: Provenance) -> str:
    levels = [notes.noise for notes in made.slice_notes.values() if notes.noise is not None]
    if not levels:
        return UNKNOWN
    return f"{np.median(levels):.3g} ({shown(made.sources('noise_source'))})"
