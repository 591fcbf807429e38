"""Fits, on held-back normal data only, what turns reconstruction error into evidence and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions import FIELDS
from data.calibration import TAIL_SHARE, Calibration, Tail
from data.dataset import ActionTable
from data.detector import Model
from data.errors import KubehabitError
from data.habits import ATTRIBUTES, Habits, novelty_levels
from data.principals import PEOPLE_AND_PIPELINES

Floats = npt.NDArray[np.float64]
INCIDENT_GAP = 600_000_000
"""Alerts of one principal at most this far apart (microseconds) are one incident."""

_MIN_TAIL = 200
"""Values needed for a tail of one's own: five per cent of them are ten excesses."""


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """How thresholds are set.

    Attributes:
        person_budget: false incidents wanted per 10,000 actions of people and pipelines.
        system_budget: false incidents wanted per 1,000,000 actions of the cluster's own machinery.
        shrinkage: actions a principal must have for its own tail to weigh as much as that of its kind.
        sensitivity_weights: how far evidence counts for routine, low, medium and high sensitivity.
        unscored_fields: fields that give the model context but whose own reconstruction error is not counted.
    """

    person_budget: float = 3.0
    system_budget: float = 4.0
    shrinkage: float = 400.0
    sensitivity_weights: tuple[float, float, float, float] = (0.6, 0.8, 1.0, 1.2)
    unscored_fields: tuple[str, ...] = ("gap",)


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """What was fitted, and what it was fitted on.

    Attributes:
        calibration: tails and thresholds.
        habits: counts as they stand at the end of the data.
        rows: int64 [M], row in the table of each held-back action.
        nll: float32 [M, F], their reconstruction NLL.
        evidence: float64 [M], their evidence.
        flagged: bool [M], which of them the thresholds flag.
        baselines: thresholds of the simple detectors, set the same way on the same data.
    """

    calibration: Calibration
    habits: Habits
    rows: npt.NDArray[np.int64]
    nll: npt.NDArray[np.float32]
    evidence: Floats
    flagged: npt.NDArray[np.bool_]
    baselines: dict[str, dict[str, float]]


def reconstruct(
    table: ActionTable, model: Model, split: str, window: int, batch: int = 512
) -> npt.NDArray[np.float32]:
    """NLL of the newest action of every window of a split, float32 [M, F]."""
    windows = table.windows[split]
    parts = []
    newest = np.zeros(1, np.int64)
    for begin in range(0, len(windows), batch):
        chosen = windows[begin : begin + batch]
        tokens, lengths = cut_windows(table, chosen, window)
        end = chosen[:, 0]
        nll, _, _ = model(
            tokens, lengths, table.principal[end].astype(np.int64), table.group[end].astype(np.int64), newest
        )
        parts.append(nll[:, 0])
    return np.concatenate(parts) if parts else np.empty((0, len(FIELDS)), np.float32)


def cut_windows(
    table: ActionTable, windows: npt.NDArray[np.int64], window: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token windows int64 [B, W, F], padded with 0 at the end, and their lengths int64 [B]."""
    end = windows[:, 0]
    lengths = np.minimum(windows[:, 1] + 1, window)
    steps = np.arange(window)
    rows = np.minimum(end[:, None] - lengths[:, None] + 1 + steps, len(table.tokens) - 1)
    tokens = table.tokens[rows].astype(np.int64)
    tokens[steps >= lengths[:, None]] = 0
    return tokens, lengths


def count_incidents(hit_times: npt.NDArray[np.int64]) -> int:
    """Incidents among the sorted times (microseconds) of one principal's flagged actions."""
    return int(len(hit_times) > 0) + int((np.diff(hit_times) > INCIDENT_GAP).sum())


def threshold_for(
    evidence: Floats, principal: Sequence[str], time: npt.NDArray[np.int64], allowed: float
) -> float:
    """Smallest threshold at which the given normal actions raise at most `allowed` incidents.

    Where even one incident is more than allowed, the data is too short to see the budget; the calibrated tail carries the
    threshold on: one factor of ten in probability for each factor of ten in rate.
    """
    if not len(evidence):
        raise KubehabitError("No held-back actions of one kind: build the dataset from a longer log.")
    order = np.argsort(-evidence, kind="stable")
    names = np.asarray(principal, object)
    seen: dict[str, list[int]] = {}
    whole = max(int(allowed), 0)
    for position, row in enumerate(order.tolist()):
        seen.setdefault(names[row], []).append(int(time[row]))
        total = sum(count_incidents(np.sort(np.array(times))) for times in seen.values())
        if total > whole:
            above = float(evidence[order[position - 1]]) if position else float(evidence[row]) + 1.0
            limit = float(np.nextafter((float(evidence[row]) + above) / 2, np.inf))
            return limit if allowed >= 1 else float(evidence[row]) - float(np.log10(max(allowed, 1e-3)))
    return float(evidence.min())


def fit_tails(statistic: Floats, principal: Sequence[str], kind: Sequence[str]) -> dict[str, Tail]:
    """Exponential tails (peaks over the 95 % quantile) of every principal with enough actions, and of every kind."""
    keys: dict[str, list[int]] = {"kind:any": list(range(len(statistic)))}
    for row, (name, of) in enumerate(zip(principal, kind, strict=True)):
        keys.setdefault(name, []).append(row)
        keys.setdefault(f"kind:{of}", []).append(row)
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


def calibrate(table: ActionTable, model: Model, window: int, config: CalibrationConfig) -> CalibrationResult:
    """Fit tails and thresholds on the dataset's calibration split; labels are never seen here."""
    nll = reconstruct(table, model, "calibration", window)
    rows = table.windows["calibration"][:, 0]
    order = np.argsort(table.arrival, kind="stable")
    habits = Habits()
    known = habits.observe(table.attributes[order], table.name_hashes[order], table.group_hashes[order])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    novelty_of = [novelty_levels(known[i]) for i in place[rows].tolist()]
    names, kinds = table.name[rows].tolist(), table.kind[rows].tolist()
    budget: Mapping[str, Any] = {
        "false incidents per 10,000 person-and-pipeline actions": config.person_budget,
        "false incidents per 1,000,000 system actions": config.system_budget,
        "set on": f"{len(rows):,} held-back normal actions",
    }
    unknown = set(config.unscored_fields) - set(FIELDS)
    if unknown:
        raise KubehabitError(f"unscored_fields names {sorted(unknown)}; the fields are {', '.join(FIELDS)}.")
    draft = Calibration(
        weights=tuple(1.0 for _ in ATTRIBUTES),
        field_weights=tuple(0.0 if field in config.unscored_fields else 1.0 for field in FIELDS),
        tails={},
        shrinkage=config.shrinkage,
        sensitivity_weights=config.sensitivity_weights,
        person_threshold=0.0,
        system_threshold=0.0,
        budget=budget,
    )
    statistic = draft.statistic(nll, draft.novelty(novelty_of))
    draft = replace(draft, tails=fit_tails(statistic, names, kinds))
    evidence = draft.evidence(statistic, names, kinds)
    weighed = evidence * np.asarray(config.sensitivity_weights)[table.sensitivity[rows]]
    person = np.array([kind in PEOPLE_AND_PIPELINES for kind in kinds])
    time = table.time[rows]
    count = np.array([novelty_count(level) for level in novelty_of], np.float64)

    def thresholds_of(score: Floats) -> tuple[float, float]:
        limits = []
        for chosen, rate in ((person, config.person_budget / 1e4), (~person, config.system_budget / 1e6)):
            who = [name for name, mine in zip(names, chosen, strict=True) if mine]
            limits.append(threshold_for(score[chosen], who, time[chosen], rate * int(chosen.sum())))
        return limits[0], limits[1]

    limits = thresholds_of(weighed)
    simple = thresholds_of(count)
    calibration = replace(draft, person_threshold=limits[0], system_threshold=limits[1])
    return CalibrationResult(
        calibration=calibration,
        habits=habits,
        rows=rows,
        nll=nll,
        evidence=evidence,
        flagged=evidence >= calibration.thresholds(kinds, table.sensitivity[rows]),
        baselines={"novelty_count": {"person": simple[0], "system": simple[1]}},
    )


def novelty_count(levels: Sequence[int]) -> int:
    """The strongest simple detector: attributes new to the principal, those new to its peers counted double."""
    return sum(min(level, 2) for level in levels)
