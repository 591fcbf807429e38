"""Whether a model still fits its cluster, from totals of what it scored: one rule for the service and for `kubehabit drift`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detection.calibration import TAIL_SHARE

FitVerdict = Literal["steady", "changed", "too few"]

#: Evidence of a reconstruction error that one action in twenty (TAIL_SHARE) reached in calibration, decades.
USUAL = 1.301029995663981

assert abs(10.0**-USUAL - TAIL_SHARE) < 1e-12

#: Actions below which nothing is said.
ENOUGH = 1000

#: Factor of actions beyond the one in twenty, and share of unknown ones, from which the cluster counts as changed.
_MORE, _UNKNOWN = 2.0, 0.01


@dataclass(frozen=True, slots=True)
class FitTotals:
    """What was scored in some time.

    Attributes:
        actions: their number.
        surprising: share with an error that one in twenty reached in calibration, or more.
        unknown: share with a verb or a resource that training never saw.
    """

    actions: int
    surprising: float
    unknown: float


def judge_fit(totals: FitTotals, advised: bool = False) -> tuple[FitVerdict, list[str]]:
    """Whether the cluster still does what the model was calibrated on, and if not, why, as clauses.

    Args:
        totals: of what was scored.
        advised: whether the last comparison of each principal by itself (`kubehabit drift`) said to train again. Then the cluster
            counts as changed, also where all actions together are not conspicuous and no clause says why.
    """
    if totals.actions < ENOUGH:
        return ("changed" if advised else "too few"), []
    reasons = []
    if totals.surprising >= _MORE * TAIL_SHARE:
        reasons.append(
            f"{totals.surprising:.1%} of all actions surprise as only {TAIL_SHARE:.0%} did in calibration"
        )
    if totals.unknown >= _UNKNOWN:
        reasons.append(f"{totals.unknown:.1%} have a verb or a resource that training never saw")
    return ("changed" if reasons or advised else "steady"), reasons
