"""A plan: the table of numbers that a sampler applies, row by row, and where it starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GuidedRow:
    """x <- x + step_size (s - w g) + noise_scale z, with s = s(x, sigma) and g = A^H (A x - y).

    w = data_weight |s| / |g| + likelihood_weight / (sigma_y^2 + sigma^2): the thesis matches norms, and the
    other is the gradient of a Gaussian likelihood, where sigma_y is the noise of the slice's own k-space.
    z ~ N(0, I) in each channel; norms are per slice.
    """

    sigma: float
    step_size: float
    noise_scale: float
    data_weight: float
    likelihood_weight: float = 0.0


@dataclass(frozen=True)
class ProximalRow:
    """x <- u + renoise (x - x0) / sigma + noise_scale z, with x0 = x + sigma^2 s(x, sigma).

    u = argmin |A u - y|^2 + g |u - x0|^2, by ``n_cg`` conjugate-gradient steps from x0, where
    g = gamma + noise_gamma sigma_y^2 and sigma_y is the noise of the slice's own k-space.
    """

    sigma: float
    gamma: float
    noise_gamma: float
    n_cg: int
    renoise: float
    noise_scale: float


Row = GuidedRow | ProximalRow


@dataclass(frozen=True)
class Plan:
    """Rows in the order in which they run; x starts at start_image MVUE / scale + start_noise z."""

    sampler: str
    start_image: float
    start_noise: float
    rows: tuple[Row, ...]


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON's types: what the output's provenance and ``plan --json`` hold."""
    return {
        "sampler": plan.sampler,
        "start": {"image": plan.start_image, "noise": plan.start_noise},
        "rows": [asdict(row) for row in plan.rows],
    }
