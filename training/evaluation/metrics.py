"""Detection metrics: labels joined with actions, incidents, verdicts, and recall over the rate of false incidents.

Definitions (docs/evaluation.md): an incident is the flagged actions of one principal at most ten minutes apart; it is false if it
holds no action of a labelled run, of what a run made controllers do, or of the clean-up after it. A run is detected if an alert
holds one of its own actions. Labels are read here and nowhere else.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.arrays import Flags, Floats, Ints, Names
from data.errors import KubehabitError
from data.principals.identity import PEOPLE_AND_PIPELINES
from detection.detector import SEVERITIES
from detection.evidence import INCIDENT_SECONDS

Label = Mapping[str, Any]

#: Alerts of one principal at most this far apart (microseconds) are one incident.
INCIDENT_GAP = INCIDENT_SECONDS * 1_000_000
#: False incidents per 10,000 person-and-pipeline actions at which recall is read off the curve.
RATES = (1, 3, 10)
CURVE_END = 12.0
HIGH = ("high", "critical")
#: A run found within so many of its actions was found soon.
SOON = 3
#: Shares of normal actions flagged at which the ROC of single actions is read off.
ACTION_RATES = (1e-4, 1e-3, 1e-2)


@dataclass(slots=True)
class Actions:
    """The actions of a log as columns in arrival order: who (principal, kind), when (microseconds), and which audit ID."""

    audit_id: list[str]
    principal: Names
    kind: Names
    time: Ints
    events: int = 0
    person: Flags = field(init=False)

    def __post_init__(self) -> None:
        self.person = np.isin(self.kind, list(PEOPLE_AND_PIPELINES))

    @classmethod
    def concatenate(cls, parts: Sequence[Actions]) -> Actions:
        """One after the other; at least one part."""
        return cls(
            [audit_id for part in parts for audit_id in part.audit_id],
            np.concatenate([part.principal for part in parts]),
            np.concatenate([part.kind for part in parts]),
            np.concatenate([part.time for part in parts]),
            sum(part.events for part in parts),
        )

    def __len__(self) -> int:
        return len(self.audit_id)


@dataclass(frozen=True, slots=True)
class Run:
    """A labelled run and the rows of its own actions, in order."""

    label: Label
    rows: Ints

    @property
    def is_attack(self) -> bool:
        """True for an attack, False for a benign look-alike."""
        return bool(self.label["kind"] == "attack")


@dataclass(frozen=True, slots=True)
class Truth:
    """Labels joined with a log: which rows belong to any run, and the runs themselves."""

    labelled: Flags
    runs: list[Run]

    @property
    def attacks(self) -> list[Run]:
        """The attack runs, those without any action in the log included."""
        return [run for run in self.runs if run.is_attack]


def read_labels(labels: Path) -> list[Label]:
    """Labels from JSON; KubehabitError unless it is a list of runs."""
    try:
        found = json.loads(labels.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise KubehabitError(
            f"Cannot read the labels {labels}: it is no JSON text. Unpack it if it is compressed."
        ) from error
    except (OSError, ValueError) as error:
        raise KubehabitError(f"Cannot read the labels {labels}: {error}.") from error
    if not isinstance(found, list) or not all(
        isinstance(run, dict) and {"scenario", "kind", "audit_ids"} <= set(run) for run in found
    ):
        raise KubehabitError(
            f"{labels} must be a JSON list of runs, each with at least scenario, kind and audit_ids."
        )
    return found


def named_by(labels: Sequence[Label]) -> frozenset[str]:
    """Audit IDs of all that labels name: the runs' own, what they made controllers do, and the clean-up after them."""
    return frozenset(
        audit_id
        for label in labels
        for key in ("audit_ids", "induced_audit_ids", "ignore_audit_ids")
        for audit_id in label.get(key) or ()
    )


def join(actions: Actions, labels: Sequence[Label]) -> Truth:
    """Find each run's actions in a log by their audit IDs."""
    named = named_by(labels)
    labelled = np.array([audit_id in named for audit_id in actions.audit_id], bool)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(labelled).tolist():
        rows_of[actions.audit_id[row]].append(row)
    own = ([row for audit_id in label["audit_ids"] for row in rows_of.get(audit_id, ())] for label in labels)
    rows_by_run = [np.array(sorted(rows), np.int64) for rows in own]
    return Truth(labelled, [Run(label, rows) for label, rows in zip(labels, rows_by_run, strict=True)])


def incidents(actions: Actions, rows: Ints) -> list[Ints]:
    """Group flagged actions into incidents: one principal, at most ten minutes apart."""
    by_principal: dict[str, list[int]] = defaultdict(list)
    for row in rows.tolist():
        by_principal[actions.principal[row]].append(row)
    found = []
    for members in by_principal.values():
        ordered = np.array(members)[np.argsort(actions.time[members], kind="stable")]
        found += np.split(ordered, np.flatnonzero(np.diff(actions.time[ordered]) > INCIDENT_GAP) + 1)
    return found


def false_incident_times(actions: Actions, truth: Truth, flagged: Flags) -> tuple[Ints, Flags]:
    """Start (microseconds) of each false incident, and whether it is a person's or pipeline's."""
    false = [rows for rows in incidents(actions, np.flatnonzero(flagged)) if not truth.labelled[rows].any()]
    first = np.array([rows[0] for rows in false], np.int64)
    return actions.time[first], actions.person[first]


def verdict(
    actions: Actions, truth: Truth, flagged: Flags, severity: Mapping[int, str], quiet: Flags | None = None
) -> dict[str, Any]:
    """All figures of one set of flagged actions.

    Args:
        flagged: bool [N].
        severity: of each flagged row, one of SEVERITIES.
        quiet: bool [N], what is flagged on the same log without the labelled events. Where evidence adds up, an attack raises
            what its victim does next, which is no false alarm of its own. Default: `flagged`.
    """
    person, normal = actions.person, ~truth.labelled
    normal_person, normal_system = int((person & normal).sum()), int((~person & normal).sum())
    found = incidents(actions, np.flatnonzero(flagged))
    false = [rows for rows in found if normal[rows].all()]
    alone = incidents(actions, np.flatnonzero((flagged if quiet is None else quiet) & normal))
    level: dict[int, int] = {}
    for rows in found:
        worst = max(SEVERITIES.index(severity.get(row, "low")) for row in rows.tolist())
        level |= dict.fromkeys(rows.tolist(), worst)
    runs = [_outcome(run, flagged, level) for run in truth.runs]
    attacks = [run for run in runs if run["kind"] == "attack"]
    alike = [run for run in runs if run["kind"] != "attack"]
    false_person = sum(bool(person[rows[0]]) for rows in false)
    strict_person = sum(bool(person[rows[0]]) for rows in alone)
    return {
        "attack_runs": len(attacks),
        "recall": _share(attacks),
        **{f"recall_by_{key}": _recall_by(attacks, key) for key in ("scenario", "family", "class", "mode")},
        "false_incidents": len(false),
        "false_per_10k_person_actions": false_person * 1e4 / max(normal_person, 1),
        "false_per_1m_system_actions": (len(false) - false_person) * 1e6 / max(normal_system, 1),
        "strict_false_per_10k_person_actions": strict_person * 1e4 / max(normal_person, 1),
        "strict_false_per_1m_system_actions": (len(alone) - strict_person) * 1e6 / max(normal_system, 1),
        "lookalikes": len(alike),
        "lookalikes_high": sum(run["detected"] and run["severity"] in HIGH for run in alike),
        "lookalikes_raised": sum(run["detected"] for run in alike),
        **_delays(attacks),
        "incidents": len(found),
        "normal_actions_flagged": int((flagged & normal).sum()),
        "normal_person_actions": normal_person,
        "normal_system_actions": normal_system,
        "runs": runs,
    }


def _outcome(run: Run, flagged: Flags, level: Mapping[int, int]) -> dict[str, Any]:
    """Outcome of a run, given the severity level of the incident of each flagged row."""
    hits = np.flatnonzero(flagged[run.rows])
    return {
        **{key: run.label.get(key) for key in ("scenario", "family", "class", "mode", "kind", "principal")},
        "calls": len(run.rows),
        "detected": bool(len(hits)),
        "actions_to_detection": int(hits[0]) + 1 if len(hits) else None,
        "severity": SEVERITIES[max((level[row] for row in run.rows[hits].tolist()), default=0)],
    }


def _delays(attacks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Actions of a run until its detection: median and distribution over detected runs."""
    after = sorted(int(run["actions_to_detection"]) for run in attacks if run["detected"])
    return {
        "median_actions_to_detection": float(np.median(after)) if after else None,
        "actions_to_detection": {str(count): runs for count, runs in sorted(Counter(after).items())},
        "p90_actions_to_detection": float(np.quantile(after, 0.9)) if after else None,
        "detected_within_3_actions": sum(count <= SOON for count in after) / len(attacks) if attacks else 0.0,
    }


def _share(runs: Sequence[Mapping[str, Any]]) -> float:
    return sum(run["detected"] for run in runs) / len(runs) if runs else 0.0


def _recall_by(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    grouped: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        grouped[str(run.get(key))].append(run)
    return {name: _share(members) for name, members in sorted(grouped.items())}


@dataclass(frozen=True, slots=True)
class Curve:
    """Recall over the rate of false incidents as the threshold falls; one entry a level of the threshold.

    Stricter than the rate of a verdict: false incidents are counted among unlabelled actions alone, so that a false alarm
    within ten minutes of an attack by the same principal still counts; and the rate never falls with the threshold, since
    alarms so many that they merge into fewer incidents are no improvement.

    Attributes:
        rate: float64 [L], false incidents per 10,000 person-and-pipeline actions, rising.
        recall: float64 [L], of attack runs, rising.
        level: float64 [L]; what scores above it is flagged.
        peaks: float64 [attack runs], best score of any action of each; -inf for a run that is not in the log.
    """

    rate: Floats
    recall: Floats
    level: Floats
    peaks: Floats

    def caught(self, rate: float) -> Flags:
        """Which attack runs are caught at a rate of false incidents, bool [attack runs]."""
        allowed = np.flatnonzero(self.rate <= rate)
        if not len(allowed):
            return np.zeros(len(self.peaks), bool)
        caught: Flags = self.peaks > self.level[allowed[-1]]
        return caught

    def points(self) -> list[tuple[float, float]]:
        """(rate, best recall at that rate), one point a rate."""
        best: dict[float, float] = {}
        for rate, recall in zip(self.rate.tolist(), self.recall.tolist(), strict=True):
            best[rate] = max(best.get(rate, 0.0), recall)
        return sorted(best.items())


def _peaks(truth: Truth, score: Floats) -> Floats:
    """Best score of any action of each attack run; -inf for a run that is not in the log."""
    return np.array([score[run.rows].max(initial=-np.inf) for run in truth.attacks])


def curve(
    actions: Actions, truth: Truth, score: Floats, highest: float = CURVE_END, quiet: Floats | None = None
) -> Curve:
    """Recall over the rate of false incidents, the latter up to `highest`, for `score` float64 [N].

    `quiet` scores the unlabelled actions on the log without the labelled events; `score` if not given.
    """
    peaks = _peaks(truth, score)
    normal = np.flatnonzero(actions.person & ~truth.labelled)
    calm = score if quiet is None else quiet
    order = normal[np.argsort(-calm[normal], kind="stable")]
    ordered = calm[order].tolist()
    who, when = actions.principal[order].tolist(), actions.time[order].tolist()
    times: dict[str, list[int]] = defaultdict(list)
    count = most = 0
    levels: list[tuple[float, float]] = []  # (what scores above is flagged, false incidents then)
    position = 0
    allowed = highest * len(normal) / 1e4
    while position < len(order) and most <= allowed:
        level = ordered[position]
        # What lies above the next normal action is caught at the present rate.
        levels.append((level, most))
        while position < len(order) and ordered[position] == level:
            count += _added(times[who[position]], when[position])
            position += 1
        most = max(most, count)
    if most <= allowed:  # everything flagged, and still within
        levels.append((-np.inf, most))
    level_of = np.array([level for level, _ in levels])
    recall = (peaks[None, :] > level_of[:, None]).mean(axis=1) if len(peaks) else np.zeros(len(levels))
    rate = np.array([found for _, found in levels]) * 1e4 / max(len(normal), 1)
    return Curve(rate, recall, level_of, peaks)


def _added(times: list[int], time: int) -> int:
    """Insert a time into the sorted times of a principal; returns the change in incidents (-1, 0 or 1)."""
    at = bisect_left(times, time)
    before = at > 0 and time - times[at - 1] <= INCIDENT_GAP
    after = at < len(times) and times[at] - time <= INCIDENT_GAP
    apart = before and after and times[at] - times[at - 1] > INCIDENT_GAP
    insort(times, time)
    if apart:
        return -1
    return 0 if before or after else 1


def recall_at(found: Curve) -> dict[str, float]:
    """Recall on a curve at each of RATES."""
    return {str(rate): float(found.caught(rate).mean()) if len(found.peaks) else 0.0 for rate in RATES}


def recall_at_as_counted(actions: Actions, truth: Truth, score: Floats) -> dict[str, float]:
    """Recall at each of RATES, a false incident holding no labelled action, as in a verdict; the rate never falls."""
    order = np.lexsort((actions.time, actions.principal.astype(str)))
    names = np.unique(actions.principal[order].astype(str), return_inverse=True)[1]
    times, scores, labelled = actions.time[order], score[order], truth.labelled[order]
    person = actions.person[order]
    normal = person & ~labelled
    peaks = _peaks(truth, score)
    best = dict.fromkeys(map(str, RATES), 0.0)
    total, most = max(int(normal.sum()), 1), 0
    for level in [*np.unique(scores[normal])[::-1].tolist(), -np.inf]:
        rows = np.flatnonzero(person & (scores > level))
        if len(rows):
            begins = np.r_[True, (np.diff(names[rows]) != 0) | (np.diff(times[rows]) > INCIDENT_GAP)]
            excused = np.add.reduceat(labelled[rows].astype(np.int64), np.flatnonzero(begins)) > 0
            most = max(most, int((~excused).sum()))
        if most * 1e4 / total > max(RATES):
            break
        recall = float((peaks > level).mean()) if len(peaks) else 0.0
        for rate in RATES:
            if most * 1e4 / total <= rate:
                best[str(rate)] = max(best[str(rate)], recall)
    return best


def ranking(actions: Actions, truth: Truth, score: Floats, found: Curve) -> dict[str, Any]:
    """ROC and precision-recall at the rates people use.

    Returns:
        `roc`, over single person-and-pipeline actions, attack against normal: area under the curve, and the share of attack
        actions flagged at each of ACTION_RATES. `pr`, over incidents at each of RATES: precision (attack runs caught among
        those and the false incidents), recall, and the area under precision over recall as far as the curve goes.
    """
    attack = np.zeros(len(actions), bool)
    for run in truth.attacks:
        attack[run.rows] = True
    positive = np.sort(score[attack & actions.person])
    negative = np.sort(score[actions.person & ~truth.labelled])
    roc: dict[str, Any] = {"auc": None, "true_positive_rate_at": {}}
    if len(positive) and len(negative):
        below = np.searchsorted(negative, positive, side="left")
        ties = np.searchsorted(negative, positive, side="right") - below
        roc["auc"] = float((below + ties / 2).sum() / (len(positive) * len(negative)))
        for share in ACTION_RATES:
            limit = negative[-int(share * len(negative)) - 1]
            roc["true_positive_rate_at"][f"{share:g}"] = float((positive > limit).mean())
    total = max(len(found.peaks), 1)
    normal = max(len(negative), 1)
    at = {}
    for rate in RATES:
        caught = int(found.caught(rate).sum())
        allowed = found.rate[found.rate <= rate]
        false = round(float(allowed[-1]) * normal / 1e4) if len(allowed) else 0
        at[str(rate)] = {
            "precision": caught / (caught + false) if caught + false else None,
            "recall": caught / total,
            "false_incidents": false,
        }
    area, last = 0.0, 0.0
    for false_rate, recall in found.points():
        if recall > last:
            area += (recall - last) * recall * total / (recall * total + false_rate * normal / 1e4)
            last = recall
    return {"roc": roc, "pr": {"at": at, "area": area}}


def compare(mine: Curve, baselines: Mapping[str, Curve], truth: Truth) -> dict[str, Any]:
    """Lead over the best baseline at 1 and 3 strict false incidents per 10,000: recall of both, overall and by family."""
    found: dict[str, Any] = {}
    families = np.array([str(run.label.get("family")) for run in truth.attacks], object)
    for rate in RATES[:2]:
        caught = {name: each.caught(rate) for name, each in baselines.items()}
        own = mine.caught(rate)
        if not len(own) or not caught:
            continue
        best = max(sorted(caught), key=lambda name: int(caught[name].sum()))
        missed = ~caught[best]
        both = {"recall": own, "best_baseline": caught[best]}
        by_family = {
            name: {key: float(each[families == name].mean()) for key, each in both.items()}
            for name in sorted(set(families))
        }
        found[str(rate)] = {
            "best_baseline": best,
            "best_baseline_recall": float(caught[best].mean()),
            "recall": float(own.mean()),
            "recall_minus_best_baseline": float(own.mean() - caught[best].mean()),
            "missed_by_best_baseline": int(missed.sum()),
            "of_these_caught": int((own & missed).sum()),
            "share_of_missed_caught": float((own & missed).sum() / missed.sum()) if missed.any() else None,
            "by_family": by_family,
            "families_worse": [
                name for name, shares in by_family.items() if shares["recall"] < shares["best_baseline"]
            ],
        }
    return found
