"""Thresholds for a budget of false incidents: the least that normal work keeps, and tails where it is too little to see one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.arrays import Flags, Floats, Ints, Names
from data.errors import KubehabitError
from detection.calibration import ActionEvidence, ActionFeatures, Calibration
from detection.evidence import INCIDENT_SECONDS, Accumulator
from detection.rarity import CLASSES, MACHINERY, is_machinery
from training.tails import PeakTail, doubt, fit_tail

#: Alerts of one principal at most this far apart (microseconds) are one incident.
INCIDENT_GAP = INCIDENT_SECONDS * 1_000_000

_HALVINGS = 12
#: Budgeted incidents from which normal work shows its threshold by itself; with fewer, other clusters' is asked as well.
_ENOUGH_INCIDENTS = 5.0
#: Actions of normal work that the defaults of machinery weigh as much as.
_DEFAULT_ACTIONS = 100_000.0
#: The same of people and pipelines.
_DEFAULT_PEOPLE = 10_000.0


def count_incidents(hit_times: Ints) -> int:
    """Incidents among the sorted times (microseconds) of one principal's flagged actions."""
    return int(len(hit_times) > 0) + int((np.diff(hit_times) > INCIDENT_GAP).sum())


def threshold_for(evidence: Floats, principal: Sequence[str], time: Ints, allowed: float) -> float:
    """Smallest threshold at which the given normal actions raise at most `allowed` incidents.

    Where even one incident is more than allowed, the data is too short to see the budget; the threshold then goes beyond what
    was seen, as far as the peaks of incidents spread: one mean peak for each factor e in rate, and further the fewer peaks
    there are to estimate the mean from.
    """
    if not len(evidence):
        raise KubehabitError("No held-back actions of one kind: build the dataset from a longer log.")
    names = np.asarray(principal, object)
    if allowed < 1:
        peaks = _peaks(evidence, names, time)
        spread = max(float(peaks.mean()), 1.0) * doubt(len(peaks))
        return float(peaks.max()) + spread * float(np.log(1 / max(allowed, 1e-3)))
    order = np.argsort(-evidence, kind="stable")
    seen: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(order.tolist()):
        seen[names[row]].append(int(time[row]))
        total = sum(count_incidents(np.sort(np.array(times))) for times in seen.values())
        if total > int(allowed):
            above = float(evidence[order[position - 1]]) if position else float(evidence[row]) + 1.0
            return float(np.nextafter((float(evidence[row]) + above) / 2, np.inf))
    return float(max(evidence.min(), np.nextafter(0, 1)))


@dataclass(frozen=True, slots=True)
class _Normal:
    """Held-back normal actions of some principals, and how their evidence adds up.

    Attributes:
        names, time: who acted, and when (microseconds).
        actions: int64 [N], earlier actions of the principal.
        new, wrong: float64 [N], what adds up of each, decades.
    """

    names: Names
    time: Ints
    actions: Ints
    new: Floats
    wrong: Floats

    def sums(self, horizon: float, activity: float, limit: float | None = None) -> Floats:
        """Evidence of each action at one horizon; with a limit, sums start again once they have been reported."""
        who = self.names.tolist()
        limits = None if limit is None else np.full((len(who), 1), limit)
        accumulator = Accumulator((horizon,), (activity,))
        return accumulator.add(who, self.time, self.new, self.wrong, limits, self.actions)[:, 0]

    def threshold(
        self, horizon: float, activity: float, rate: float, default: PeakTail, weight: float
    ) -> float:
        """Threshold of one horizon for a budget of `rate` incidents an action.

        It keeps the budget on these actions; where they are too few to show it, it is also what their tail reaches as rarely,
        with what other clusters showed (`default`, worth `weight` actions) for what is missing.
        """
        least = self._least(horizon, activity, rate)
        if rate * len(self.names) >= _ENOUGH_INCIDENTS:
            return least
        peaks = _peaks(self.sums(horizon, activity), self.names, self.time)
        return max(least, fit_tail(peaks, len(self.names), default, weight).level(rate))

    def _least(self, horizon: float, activity: float, rate: float) -> float:
        """Smallest threshold that keeps the budget on these actions."""
        names, allowed = self.names, rate * len(self.names)
        sums = self.sums(horizon, activity)
        if allowed < 1:
            return float(np.nextafter(sums.max(initial=0.0), np.inf))
        found = threshold_for(sums, names.tolist(), self.time, allowed)
        # A sum starts again at 0 once it has raised an alert, so a lower threshold keeps the budget as well.
        low, high = 0.0, found
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            hit = self.sums(horizon, activity, middle) >= middle
            incidents = sum(
                count_incidents(np.sort(self.time[hit & (names == name)])) for name in set(names[hit])
            )
            low, high = (low, middle) if incidents <= int(allowed) else (middle, high)
        return high

    def coverage(self, horizon: float, activity: float) -> float:
        """Share of its steady level that a sum has reached by the end of these actions; 1 for a horizon that fits into them."""
        if not len(self.time):
            return 1.0
        span = float(np.ptp(self.time)) / 1e6
        own = np.unique(self.names.astype(str), return_counts=True)[1]
        busy = float((own**2).sum() / own.sum())  # actions of the principal of a typical action
        passed = min(span / horizon, busy / activity)
        return 1.0 if span >= horizon else float(1.0 - np.exp(-passed))


#: Peaks of people and pipelines in normal work of the recordings, for logs too short to show their own.
_PEOPLE_TAIL = PeakTail(start=1.5, rate=1e-3, scale=2.0, shape=0.1)
#: Peaks of each class of machinery in normal work of the recordings, for logs that are too short to show their own.
_MACHINERY_TAILS = {
    "nodes": PeakTail(start=1.5, rate=8e-5, scale=0.8, shape=0.1),
    "controllers": PeakTail(start=1.5, rate=2e-4, scale=3.3, shape=0.1),
    "components": PeakTail(start=1.5, rate=2e-4, scale=7.8, shape=0.1),
}


def _peaks(evidence: Floats, names: Names, time: Ints) -> Floats:
    """Highest evidence of each stretch of ten minutes of each principal that adds any, at least one value."""
    highest: dict[tuple[str, int], float] = defaultdict(float)
    for row in np.flatnonzero(evidence > 0).tolist():
        key = (names[row], int(time[row]) // INCIDENT_GAP)
        highest[key] = max(highest[key], float(evidence[row]))
    return np.array(list(highest.values()) or [0.0])


def with_thresholds(
    calibration: Calibration,
    deeds: ActionFeatures,
    time: Ints,
    weighed: ActionEvidence,
    person: float,
    system: float,
) -> tuple[Calibration, list[float]]:
    """Set the thresholds for budgets of incidents an action; returns the share of each horizon that was seen, too.

    Args:
        weighed: what held-back actions add before machinery is scaled.
        person, system: incidents an action of people and pipelines, and of machinery.
    """
    names, machinery = np.asarray(deeds.principals, object), deeds.machinery
    classes = deeds.classes

    def normal(chosen: Flags) -> _Normal:
        new, wrong = weighed.novelty_evidence[chosen], weighed.error_evidence[chosen]
        return _Normal(names[chosen], time[chosen], deeds.actions[chosen], new, wrong)

    people = normal(~machinery)
    if not len(people.names) or not machinery.any():
        raise KubehabitError("No held-back actions of one kind: build the dataset from a longer log.")
    given = list(zip(calibration.horizons, calibration.activity, strict=True))
    # The shortest horizon is taken as it is: sums over two minutes are nearly always of one burst.
    covered = [1.0, *(people.coverage(*one) for one in given[1:])]
    measured = sum(share == 1.0 for share in covered)

    def extrapolated(found: float, rate: float, share: float) -> float:
        # What is flagged must be as rare as the budget, however quiet the data.
        return max(found, float(-np.log10(rate))) / share

    rate = person / measured
    person_thresholds = [
        extrapolated(people.threshold(*one, rate, _PEOPLE_TAIL, _DEFAULT_PEOPLE), rate, share)
        for one, share in zip(given, covered, strict=True)
    ]
    rate = system / measured
    by_class = {
        index: [
            extrapolated(
                normal(classes == index).threshold(*one, rate, _MACHINERY_TAILS[name], _DEFAULT_ACTIONS),
                rate,
                share,
            )
            for one, share in zip(given, covered, strict=True)
        ]
        for index, name in enumerate(CLASSES)
        if index >= MACHINERY
    }
    least = np.min(list(by_class.values()), axis=0)
    scales = [
        float((least / by_class[index]).min()) if index in by_class else 1.0 for index in range(len(CLASSES))
    ]
    changed = replace(
        calibration,
        person_thresholds=tuple(person_thresholds),
        system_thresholds=tuple(least.tolist()),
        class_scales=tuple(scales),
    )
    return changed, covered


def shortfalls(
    horizons: Sequence[float],
    covered: Sequence[float],
    span: float,
    classes: Ints,
    person: float,
    system: float,
) -> list[str]:
    """What the held-back part was too short for, in plain words; `span` in seconds, both budgets in incidents an action."""
    found = []
    unseen = [(horizon, share) for horizon, share in zip(horizons, covered, strict=True) if share < 1.0]
    if unseen:
        names = ", ".join(f"{_duration(horizon)} (x{1 / share:.3g})" for horizon, share in unseen)
        found.append(
            f"The held-back part lasts {_duration(span)}, too short to see what adds up over {names}. Those thresholds are "
            "extrapolated by the factor in brackets and next to nothing reaches them: train on a longer log for slow attacks."
        )
    given = [("people and pipelines", ~is_machinery(classes), person, _DEFAULT_PEOPLE)]
    given += [
        (name, classes == index, system, _DEFAULT_ACTIONS)
        for index, name in enumerate(CLASSES)
        if index >= MACHINERY
    ]
    for name, chosen, rate, weight in given:
        count = int(chosen.sum())
        if rate * count < _ENOUGH_INCIDENTS:
            found.append(
                f"{count:,} held-back actions of {name} are too few for a budget of {rate * 1e6:,.3g} false incidents per "
                f"1,000,000: {weight / (weight + count):.0%} of their threshold is what the same showed in other clusters."
            )
    return found


def _duration(seconds: float) -> str:
    """A time in the largest unit that fits."""
    for size, unit in ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute")):
        if seconds >= size:
            count = f"{seconds / size:.3g}"
            return f"{count} {unit}" if count == "1" else f"{count} {unit}s"
    return f"{seconds:.3g} seconds"
