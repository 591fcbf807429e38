"""Fits the calibration (tails, rarity of novelty, thresholds) on held-back normal data only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES, HASHED
from data.actions.fields import FIELDS
from data.arrays import Flags, Floats, Ints, runs
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from data.principals.peer_groups import PrincipalTable
from detection.calibration import (
    TAIL_SHARE,
    VERSION,
    ActionFeatures,
    Calibration,
    Tail,
    acts_for_others,
)
from detection.evidence import Accumulator
from detection.novelty import MATURE, HabitTable, counted_levels, novelty_levels, roots
from detection.own_week import ENOUGH_DAYS, observe_week, with_hours
from detection.rarity import Rarity, classes_of, hours_by_class, is_machinery
from detection.reconstruction import Model, Nll
from detection.severity import SeverityScale
from training.stretch import window_inputs, windows_in_order
from training.suspects import Suspects, find_suspects
from training.thresholds import shortfalls, threshold_for, with_thresholds

_CHUNK = 1 << 16
#: Share of a budget a day that is left to the cluster's own machinery.
_MACHINERY_SHARE = 0.2
#: How rare novelty is, is counted only after this share of the log: at first everything is new.
_WARM_SHARE = 0.25
#: Values needed for a tail of one's own: five per cent of them are ten excesses.
_MIN_TAIL = 200
#: What the novelty table looks up.
_TABLE = list(ATTRIBUTES).index("verb_resource_namespace")


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
        suspects: actions of the data whose news the habits leave out; None if nobody looked.
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
    suspects: Suspects | None = None


def reconstruct(table: ActionTable, model: Model, split: str, window: int, batch: int = 512) -> Nll:
    """NLL of the newest action of every window of a split, float32 [M, F]."""
    return reconstruct_windows(table, model, table.windows[split], window, batch)


def reconstruct_windows(
    table: ActionTable, model: Model, windows: Ints, window: int, batch: int = 512
) -> Nll:
    """NLL of the newest action of some windows, int64 [M, 2] (`ActionTable.windows`), float32 [M, F]."""
    parts, newest = [np.empty((0, len(FIELDS)), np.float32)], np.zeros(1, np.int64)
    for begin in range(0, len(windows), batch):
        nll, _ = model(*window_inputs(table, windows[begin : begin + batch], window), newest)
        parts.append(nll[:, 0])
    return np.concatenate(parts)


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


def replay(table: ActionTable, habits: HabitTable) -> tuple[npt.NDArray[np.int8], Ints, ActionFeatures, Ints]:
    """Feed a dataset to habits in the order of the log, which brings them up to date.

    Returns novelty levels of every action, int8 [N, attributes]; earlier actions of its principal, int64 [N]; the held-back
    actions; and days of which the own week of each action's principal knows, int64 [N].
    """
    order = np.argsort(table.arrival, kind="stable")
    late = np.zeros(len(order), bool)
    late[table.windows["calibration"][:, 0]] = True
    levels = np.empty((len(order), table.width), np.int8)
    days = np.zeros(len(order), np.int64)
    pauses = table.pauses
    actions = np.empty(len(order), np.int64)
    names, groups = table.name_hashes, table.group_hashes
    members = group_sizes(table.principals)[table.group]
    held: list[ActionFeatures] = []
    for begin in range(0, len(order), _CHUNK):
        rows = order[begin : begin + _CHUNK]
        known = habits.observe(table.attributes[rows], names[rows], groups[rows])
        if table.width > HASHED:
            followed = ~is_machinery(classes_of(table.kind[rows].tolist()))
            week, _ = observe_week(habits, names[rows], table.time[rows], pauses[rows], followed)
            known, days[rows] = with_hours(known, week), week.days
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
    return levels, actions, ActionFeatures.concatenate(held), days


def _normal_work(
    table: ActionTable, levels: npt.NDArray[np.int8], actions: Ints, days: Ints
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
    hours = None
    if table.width > HASHED:
        judged = days[rows] >= ENOUGH_DAYS
        hours = hours_by_class(classes, table.pauses[rows], judged, counted[:, HASHED] > 0)
    rarity = Rarity.fit(classes, resource, counted, table.vocabulary.sizes[at], names, hours)
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
        "novelty_count": np.minimum(deeds.levels[:, :HASHED], 2).sum(axis=1).astype(np.float64),
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
        levels, actions, deeds, days = replay(table, habits)
        rows = windows_in_order(table, "calibration")[:, 0]
        return cls(rows, deeds, habits, *_normal_work(table, levels, actions, days))


def calibrate(table: ActionTable, model: Model, window: int, config: CalibrationConfig) -> CalibrationResult:
    """Fit tails, rarity and thresholds on normal data; labels are never seen here."""
    held = HeldBack.from_table(table)
    nll = reconstruct(table, model, "calibration", window)
    order = np.argsort(table.arrival[table.windows["calibration"][:, 0]], kind="stable")
    return without_suspects(table, model, window, fit(table, held, nll[order], config))


def without_suspects(
    table: ActionTable, model: Model, window: int, found: CalibrationResult
) -> CalibrationResult:
    """Leave out of the habits what the log shows on one occasion alone and would be flagged by (`training.suspects`)."""
    starts, sizes = runs(table.name)
    history = np.arange(len(table.name)) - np.repeat(starts, sizes)

    def errors(rows: Ints) -> Nll:
        return reconstruct_windows(table, model, np.stack([rows, history[rows]], axis=1), window)

    suspects = find_suspects(table, found.calibration, errors, group_sizes(table.principals)[table.group])
    suspects.leave_out(table, found.habits)
    calibration = replace(found.calibration, left_out=len(suspects.rows))
    return replace(found, calibration=calibration, suspects=suspects)


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
    calibration, covered = with_thresholds(
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
        shortfalls=shortfalls(horizons, covered, span, deeds.classes, person, system),
    )


def _rates(config: CalibrationConfig, machinery: Flags, span: float) -> tuple[float, float]:
    """False incidents wanted per action of people and pipelines, and of the machinery; `span` in seconds."""
    if config.incidents_per_day is None:
        return config.person_budget / 1e4, config.system_budget / 1e6
    wanted = config.incidents_per_day * span / 86_400
    person = (1 - _MACHINERY_SHARE) * wanted / max(int((~machinery).sum()), 1)
    return person, _MACHINERY_SHARE * wanted / max(int(machinery.sum()), 1)
