"""Fits the calibration (tails, rarity of novelty, thresholds) on held-back normal data only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES
from data.actions.fields import FIELDS
from data.arrays import Flags, Floats, Ints, Names
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from data.principals.peer_groups import PrincipalTable
from detection.calibration import (
    TAIL_SHARE,
    VERSION,
    ActionEvidence,
    ActionFeatures,
    Calibration,
    Tail,
    acts_for_others,
)
from detection.evidence import INCIDENT_SECONDS, Accumulator
from detection.novelty import MATURE, HabitTable, counted_levels, novelty_levels, roots
from detection.rarity import CLASSES, MACHINERY, Rarity, classes_of, is_machinery
from detection.reconstruction import Model, Nll
from detection.severity import SeverityScale
from training.stretch import window_inputs, windows_in_order
from training.tails import PeakTail, doubt, fit_tail

#: Alerts of one principal at most this far apart (microseconds) are one incident.
INCIDENT_GAP = INCIDENT_SECONDS * 1_000_000

_CHUNK = 1 << 16
_HALVINGS = 12
#: Share of a budget a day that is left to the cluster's own machinery.
_MACHINERY_SHARE = 0.2
#: How rare novelty is, is counted only after this share of the log: at first everything is new.
_WARM_SHARE = 0.25
#: Values needed for a tail of one's own: five per cent of them are ten excesses.
_MIN_TAIL = 200
#: What the novelty table looks up.
_TABLE = list(ATTRIBUTES).index("verb_resource_namespace")
#: Budgeted incidents from which normal work shows its threshold by itself; with fewer, other clusters' is asked as well.
_ENOUGH_INCIDENTS = 5.0
#: Actions of normal work that the defaults of machinery weigh as much as.
_DEFAULT_ACTIONS = 100_000.0
#: The same of people and pipelines.
_DEFAULT_PEOPLE = 10_000.0


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """How thresholds are set.

    Attributes:
        person_budget: false incidents wanted per 10,000 actions of people and pipelines.
        system_budget: false incidents wanted per 1,000,000 actions of the cluster's own machinery.
        incidents_per_day: false incidents wanted a day, in all, in place of both rates. One in five is left to the machinery.
        shrinkage: actions a principal must have for its own tail to weigh as much as that of its kind.
        sensitivity_weights: how far evidence counts for routine, low, medium and high sensitivity.
        gate: evidence of a single action below this, in decades, does not add up.
        horizons: seconds over which evidence adds up. Those that fit into the held-back part share the budget; the thresholds
            of longer ones are extrapolated.
        activity: actions of a principal over which evidence adds up at two minutes, where these take longer; at longer horizons
            it grows with the horizon to the power of 2/3.
        unscored_fields: fields that give the model context but whose own reconstruction error is not counted.
    """

    person_budget: float = 3.0
    system_budget: float = 4.0
    incidents_per_day: float | None = None
    shrinkage: float = 400.0
    gate: float = 1.5
    horizons: tuple[float, ...] = (120.0, 3600.0, 86_400.0, 604_800.0, 2_592_000.0)
    activity: float = 40.0
    sensitivity_weights: tuple[float, float, float, float] = (0.6, 0.8, 1.0, 1.2)
    unscored_fields: tuple[str, ...] = ("gap", "owner")


def calibration_config(keys: Mapping[str, Any]) -> CalibrationConfig:
    """From the `calibration` section of an experiment, where tuples are lists."""
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in keys.items()}
    return CalibrationConfig(**given)


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """The fitted calibration, and the data it was fitted on.

    Attributes:
        habits: counts as they stand at the end of the data.
        rows: int64 [M], row in the table of each held-back action.
        nll: float32 [M, F], their reconstruction NLL.
        error: float64 [M], evidence of it, -log10 p.
        evidence: float64 [M], accumulated evidence at each.
        flagged: bool [M], which of them the thresholds flag.
        baselines: thresholds of the simple detectors, set the same way on the same data.
        shortfalls: what the data was too short for, sentences for a person.
    """

    calibration: Calibration
    habits: HabitTable
    rows: Ints
    nll: Nll
    error: Floats
    evidence: Floats
    flagged: Flags
    baselines: dict[str, dict[str, float]]
    shortfalls: list[str]


def reconstruct(table: ActionTable, model: Model, split: str, window: int, batch: int = 512) -> Nll:
    """NLL of the newest action of every window of a split, float32 [M, F]."""
    windows = table.windows[split]
    parts, newest = [np.empty((0, len(FIELDS)), np.float32)], np.zeros(1, np.int64)
    for begin in range(0, len(windows), batch):
        nll, _, _ = model(*window_inputs(table, windows[begin : begin + batch], window), newest)
        parts.append(nll[:, 0])
    return np.concatenate(parts)


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

    def threshold(self, horizon: float, activity: float, rate: float) -> float:
        """Smallest threshold of one horizon that keeps its budget, `rate` incidents an action."""
        names, allowed = self.names, rate * len(self.names)
        if allowed < _ENOUGH_INCIDENTS:
            return self.tail(horizon, activity, _PEOPLE_TAIL, _DEFAULT_PEOPLE).level(rate)
        found = threshold_for(self.sums(horizon, activity), names.tolist(), self.time, allowed)
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

    def tail(self, horizon: float, activity: float, default: PeakTail, weight: float) -> PeakTail:
        """Tail of the highest evidence of each ten minutes, with what other clusters showed for what is missing."""
        peaks = _peaks(self.sums(horizon, activity), self.names, self.time)
        return fit_tail(peaks, len(self.names), default, weight)

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


def fit_tails(statistic: Floats, principal: Sequence[str], kind: Sequence[str]) -> dict[str, Tail]:
    """Exponential tails (peaks over the 95 % quantile) of every principal with enough actions, and of every kind."""
    keys: dict[str, list[int]] = defaultdict(list, {"kind:any": list(range(len(statistic)))})
    for row, (name, of) in enumerate(zip(principal, kind, strict=True)):
        keys[name].append(row)
        keys[f"kind:{of}"].append(row)
    tails = {}
    for key, rows in keys.items():
        if len(rows) < _MIN_TAIL and key != "kind:any":
            continue
        values = statistic[rows]
        start = float(np.quantile(values, 1 - TAIL_SHARE))
        excess = values[values > start] - start
        scale = float(excess.mean()) if len(excess) else 0.0
        tails[key] = Tail(start, max(scale, 0.05 * start, 0.1), len(rows))
    return tails


def group_sizes(principals: PrincipalTable) -> Ints:
    """Principals that training knew of each peer group, by its id, int64 [groups + 1]."""
    sizes = np.zeros(len(principals.groups) + 1, np.int64)
    for group, index in principals.groups.items():
        sizes[index] = principals.sizes.get(group, 0)
    return sizes


def replay(table: ActionTable, habits: HabitTable) -> tuple[npt.NDArray[np.int8], Ints, ActionFeatures]:
    """Feed a dataset to habits in the order of the log, which brings them up to date.

    Returns novelty levels of every action, int8 [N, attributes]; earlier actions of its principal, int64 [N]; and the
    held-back actions.
    """
    order = np.argsort(table.arrival, kind="stable")
    late = np.zeros(len(order), bool)
    late[table.windows["calibration"][:, 0]] = True
    levels = np.empty((len(order), len(ATTRIBUTES)), np.int8)
    actions = np.empty(len(order), np.int64)
    names, groups = table.name_hashes, table.group_hashes
    members = group_sizes(table.principals)[table.group]
    held: list[ActionFeatures] = []
    for begin in range(0, len(order), _CHUNK):
        rows = order[begin : begin + _CHUNK]
        known = habits.observe(table.attributes[rows], names[rows], groups[rows])
        levels[rows] = novelty_levels(known)
        actions[rows] = known.actions
        mine = np.flatnonzero(late[rows])
        at = rows[mine]
        who = table.name[at].tolist(), table.kind[at].tolist()
        held.append(
            ActionFeatures.from_counts(
                known[mine], table.tokens[at], table.vocabulary, *who, table.sensitivity[at], members[at]
            )
        )
    return levels, actions, ActionFeatures.concatenate(held)


def _normal_work(
    table: ActionTable, levels: npt.NDArray[np.int8], actions: Ints
) -> tuple[Rarity, SeverityScale]:
    """Rarity of novelties in normal work, counted once the habits are warm: early on, everything is new."""
    first, last = int(table.time.min()), int(table.time.max())
    warm = (actions >= MATURE) & (table.time > first + _WARM_SHARE * (last - first))
    rows = np.flatnonzero(warm)
    tokens, kinds, names = table.tokens[rows], table.kind[rows].tolist(), table.name[rows].tolist()
    classes = classes_of(kinds)
    for_others = acts_for_others(tokens, table.vocabulary, kinds)
    counted = counted_levels(levels[rows], actions[rows], is_machinery(classes), for_others)
    at = FIELDS.index("resource")
    resource = tokens[:, at].astype(np.int64)
    rarity = Rarity.fit(classes, resource, counted, table.vocabulary.sizes[at], names)
    _, deed = rarity.parts(classes, resource, roots(counted), names)
    return rarity, SeverityScale.fit(classes, table.sensitivity[rows], deed)


def table_score(rarity: Rarity, classes: Ints, resource: Ints, levels: npt.NDArray[np.int8]) -> Floats:
    """Score of the novelty table, float64 [N]: 0 for a verb, resource and namespace that the principal had before.

    A first time scores 1 and the decades by which normal work of its class shows such a first time on this resource more rarely.
    """
    bare = np.zeros_like(levels)
    bare[:, _TABLE] = levels[:, _TABLE]
    return np.where(bare[:, _TABLE] > 0, 1.0 + rarity.decades(classes, resource, bare), 0.0)


def _simple_thresholds(
    held: HeldBack, time: Ints, rates: Mapping[bool, float]
) -> dict[str, dict[str, float]]:
    """Thresholds of the simple detectors; `rates` are incidents wanted per action of the machinery (True) and of others."""
    deeds = held.deeds
    names, machinery = np.asarray(deeds.principals, object), deeds.machinery
    scores = {
        "novelty_count": np.minimum(deeds.levels, 2).sum(axis=1).astype(np.float64),
        "novelty_table": table_score(held.rarity, deeds.classes, deeds.resource, deeds.levels),
    }
    return {
        title: {
            kind: threshold_for(
                score[chosen], names[chosen].tolist(), time[chosen], rates[is_it] * int(chosen.sum())
            )
            for kind, is_it in (("person", False), ("system", True))
            for chosen in [machinery == is_it]
        }
        for title, score in scores.items()
    }


@dataclass(frozen=True, slots=True)
class HeldBack:
    """The held-back actions of a dataset in the order of the log, and what was known when each came. No model is in it.

    Attributes:
        rows: int64 [M], row in the table of each.
        habits: counts as they stand at the end of the data.
        rarity: how rarely normal work shows a novelty.
        severity: how often normal work does something as sensitive and as new.
    """

    rows: Ints
    deeds: ActionFeatures
    habits: HabitTable
    rarity: Rarity
    severity: SeverityScale

    @classmethod
    def from_table(cls, table: ActionTable) -> HeldBack:
        """Feed the dataset to new habits."""
        habits = HabitTable()
        levels, actions, deeds = replay(table, habits)
        rows = windows_in_order(table, "calibration")[:, 0]
        return cls(rows, deeds, habits, *_normal_work(table, levels, actions))


def calibrate(table: ActionTable, model: Model, window: int, config: CalibrationConfig) -> CalibrationResult:
    """Fit tails, rarity and thresholds on normal data; labels are never seen here."""
    held = HeldBack.from_table(table)
    nll = reconstruct(table, model, "calibration", window)
    order = np.argsort(table.arrival[table.windows["calibration"][:, 0]], kind="stable")
    return fit(table, held, nll[order], config)


def fit(
    table: ActionTable,
    held: HeldBack,
    nll: Nll,
    config: CalibrationConfig,
    make: Callable[..., Calibration] = Calibration,
) -> CalibrationResult:
    """The part of `calibrate` that needs no model; `nll` float32 [M, F] is in the order of the log.

    `make` computes evidence; it is other than Calibration only to take that apart (`training.ablation.ablate`).

    Raises:
        KubehabitError: a field to leave unscored that is none, or nothing held back.
    """
    unknown = set(config.unscored_fields) - set(FIELDS)
    if unknown:
        raise KubehabitError(f"unscored_fields names {sorted(unknown)}; the fields are {', '.join(FIELDS)}.")
    rows, deeds, machinery = held.rows, held.deeds, held.deeds.machinery
    time = table.time[rows]
    span = (int(time.max()) - int(time.min())) / 1e6
    horizons = tuple(sorted(config.horizons))
    person, system = _rates(config, machinery, span)
    calibration = make(
        scored_fields=tuple(field for field in FIELDS if field not in config.unscored_fields),
        tails={},
        shrinkage=config.shrinkage,
        rarity=held.rarity,
        sensitivity_weights=config.sensitivity_weights,
        gate=config.gate,
        horizons=horizons,
        activity=tuple(config.activity * (horizon / 120.0) ** (2 / 3) for horizon in horizons),
        person_thresholds=(),
        system_thresholds=(),
        budget={
            "false incidents per 10,000 person-and-pipeline actions": person * 1e4,
            "false incidents per 1,000,000 system actions": system * 1e6,
            "set on": f"{len(rows):,} held-back normal actions",
        },
        severity=held.severity,
        version=VERSION,
    )
    tails = fit_tails(calibration.error(nll, deeds), deeds.principals, deeds.kinds)
    calibration = replace(calibration, tails=tails)
    calibration, covered = _with_thresholds(
        calibration, deeds, time, calibration.weigh(nll, deeds), person, system
    )
    weighed = calibration.weigh(nll, deeds)
    limits = calibration.thresholds(deeds.kinds)
    sums = Accumulator(calibration.horizons, calibration.activity).add(
        *(deeds.principals, time, weighed.novelty_evidence, weighed.error_evidence, limits, deeds.actions)
    )
    evidence, limits = calibration.verdict(sums, deeds.kinds)
    return CalibrationResult(
        calibration=calibration,
        habits=held.habits,
        rows=rows,
        nll=nll,
        error=weighed.error,
        evidence=evidence,
        flagged=evidence >= limits,
        baselines=_simple_thresholds(held, time, {False: person, True: system}),
        shortfalls=_shortfalls(horizons, covered, span, deeds.classes, person, system),
    )


def _with_thresholds(
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
        extrapolated(people.threshold(*one, rate), rate, share)
        for one, share in zip(given, covered, strict=True)
    ]
    rate = system / measured
    by_class = {
        index: [
            extrapolated(_machinery_threshold(normal(classes == index), name, *one, rate), rate, share)
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


def _shortfalls(
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


def _machinery_threshold(normal: _Normal, name: str, horizon: float, activity: float, rate: float) -> float:
    """Threshold of a class of machinery: from its own actions if they are enough, else with what other clusters' showed."""
    if rate * len(normal.names) >= _ENOUGH_INCIDENTS:
        return normal.threshold(horizon, activity, rate)
    return normal.tail(horizon, activity, _MACHINERY_TAILS[name], _DEFAULT_ACTIONS).level(rate)


def _rates(config: CalibrationConfig, machinery: Flags, span: float) -> tuple[float, float]:
    """False incidents wanted per action of people and pipelines, and of the machinery; `span` in seconds."""
    if config.incidents_per_day is None:
        return config.person_budget / 1e4, config.system_budget / 1e6
    wanted = config.incidents_per_day * span / 86_400
    person = (1 - _MACHINERY_SHARE) * wanted / max(int((~machinery).sum()), 1)
    return person, _MACHINERY_SHARE * wanted / max(int(machinery.sum()), 1)
