"""Whether what somebody says of two methods appears in the results, in words and with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sbim_deploy.experiment.scores import Interval, mean_interval
from sbim_deploy.experiment.settings import LOWER_IS_BETTER, Claim
from sbim_deploy.experiment.store import Result

APPEARS, CONTRADICTED, UNDECIDED = "appears", "does not appear", "is undecided"


@dataclass(frozen=True)
class Verdict:
    """A claim at one setting: what becomes of it, and the mean difference over the slices."""

    pattern: str
    acceleration: float
    says: str
    difference: Interval

    @property
    def word(self) -> str:
        """Whether it appears: an interval that holds 0, or a single slice, decides nothing."""
        low, high = self.difference.low, self.difference.high
        if math.isnan(low) or low <= 0 <= high:
            return UNDECIDED
        return APPEARS if (low > 0) == (self.says == "ahead") else CONTRADICTED


def judge(claim: Claim, results: Sequence[Result]) -> list[Verdict]:
    """Return the verdicts on a claim, compared slice by slice, setting by setting."""
    values: dict[tuple[str, float], dict[str, list[float]]] = {}
    for each in sorted(results, key=lambda each: (each.scan, each.slice)):
        of_setting = values.setdefault((each.pattern, each.acceleration), {})
        of_setting.setdefault(each.method, []).append(float(getattr(each, claim.metric)))
    sign = -1 if claim.metric in LOWER_IS_BETTER else 1
    verdicts = []
    for (pattern, acceleration), by_method in values.items():
        says = claim.at(acceleration)
        # A peer that is not installed has no results.
        if says is not None and claim.method in by_method and claim.against in by_method:
            pairs = zip(by_method[claim.method], by_method[claim.against], strict=True)
            difference = mean_interval([sign * (ours - theirs) for ours, theirs in pairs])
            verdicts.append(Verdict(pattern, acceleration, says, difference))
    return verdicts
