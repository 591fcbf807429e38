"""What every detector has in common: the actions it is shown, what it answers, and how its threshold is set.

The contract is `fit -> infer_threshold -> predict`, and all three are shown actions in the order of the log. A detector is a
stream: what it has been shown counts as history for what comes next, as it does for the real one, so each stretch is shown once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from data.actions import FIELDS, STATIC_FIELDS, ActionEncoder, ActionSettings, gap_codes, stable_hash
from data.dataset import ActionTable
from data.events import AuditEvent
from data.habits import attribute_hashes
from data.principals import PEOPLE_AND_PIPELINES, PrincipalTable
from data.sensitivity import Sensitivity
from data.vocabulary import SPECIALS, Vocabulary
from training.calibrate import threshold_for

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_TAIL = 0.05
"""Share of the largest scores that tells how fast a detector's tail falls."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive actions of a log as columns, N rows in arrival order.

    Attributes:
        tokens: int64 [N, FIELDS], token ids under the training vocabulary.
        attributes: uint64 [N, ATTRIBUTES], stable hashes of combinations of fields.
        principal, group: int64 [N], ids of the principal table; 0 if training never saw it.
        name, kind: object [N], of the principal.
        name_hash, group_hash: uint64 [N], stable hashes of its name and of its peer group.
        time: int64 [N], microseconds since 1970 UTC.
        sensitivity: int64 [N], level in data.sensitivity.LEVELS.
        values: field -> (distinct values, int64 [N] index into them). Of a dataset, rare values are those of the vocabulary.
        events: the audit events the actions came from; None for a dataset, which does not keep them.
    """

    tokens: Ints
    attributes: npt.NDArray[np.uint64]
    principal: Ints
    group: Ints
    name: npt.NDArray[np.object_]
    kind: npt.NDArray[np.object_]
    name_hash: npt.NDArray[np.uint64]
    group_hash: npt.NDArray[np.uint64]
    time: Ints
    sensitivity: Ints
    values: Mapping[str, tuple[Sequence[str], Ints]]
    events: Sequence[AuditEvent] | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def person(self) -> Flags:
        """Which are by people and pipelines."""
        return np.isin(self.kind, list(PEOPLE_AND_PIPELINES))


def of_dataset(table: ActionTable, split: str) -> Stretch:
    """A split ("train" or "calibration") of a dataset, in the order of the log."""
    rows = table.windows[split][:, 0]
    rows = rows[np.argsort(table.arrival[rows], kind="stable")]
    tokens = table.tokens[rows].astype(np.int64)
    return Stretch(
        tokens=tokens,
        attributes=table.attributes[rows],
        principal=table.principal[rows].astype(np.int64),
        group=table.group[rows].astype(np.int64),
        name=table.name[rows],
        kind=table.kind[rows],
        name_hash=table.name_hashes[rows],
        group_hash=table.group_hashes[rows],
        time=table.time[rows],
        sensitivity=table.sensitivity[rows].astype(np.int64),
        values={
            field: (table.vocabulary.tokens[field], tokens[:, i]) for i, field in enumerate(STATIC_FIELDS)
        },
    )


class LogEncoder:
    """Turns the events of a log, chunk by chunk, into the stretches that detectors are shown."""

    def __init__(
        self,
        settings: ActionSettings,
        vocabulary: Vocabulary,
        principals: PrincipalTable,
        rules: Sequence[Mapping[str, Any]],
        last: Mapping[str, int],
    ) -> None:
        """Start a log.

        Args:
            settings, vocabulary, principals, rules: of the dataset or of the bundle made of it.
            last: principal name -> time (microseconds) of its last action before the log.
        """
        self._encoder = ActionEncoder(settings)
        self._vocabulary, self._principals = vocabulary, principals
        self._sensitivity = Sensitivity(rules)
        self._last = dict(last)

    def encode(self, events: Sequence[AuditEvent]) -> tuple[Stretch, list[str]]:
        """The next chunk, and the audit ID of each of its actions."""
        batch = self._encoder.encode(events)
        who = batch.principal.tolist()
        groups = [self._principals.group(principal) for principal in batch.principals]
        names = [principal.name for principal in batch.principals]
        tokens = self._vocabulary.encode(batch, self._encoder).astype(np.int64)
        name = np.array([names[code] for code in who], object)
        tokens[:, -1] = self._gaps(name, batch.time)
        used = set(who)
        name_hash = {code: stable_hash(names[code]) for code in used}
        group_hash = {code: stable_hash(groups[code]) for code in used}
        stretch = Stretch(
            tokens=tokens,
            attributes=attribute_hashes(batch, self._encoder),
            principal=np.array([self._principals.ids.get(names[code], 0) for code in who], np.int64),
            group=np.array([self._principals.groups.get(groups[code], 0) for code in who], np.int64),
            name=name,
            kind=np.array([batch.principals[code].kind for code in who], object),
            name_hash=np.array([name_hash[code] for code in who], np.uint64),
            group_hash=np.array([group_hash[code] for code in who], np.uint64),
            time=batch.time,
            sensitivity=self._sensitivity.levels(batch, self._encoder).astype(np.int64),
            values={
                field: (self._encoder.interners[field].values, batch.codes[field].astype(np.int64))
                for field in STATIC_FIELDS
            },
            events=events,
        )
        return stretch, [events[i].auditID for i in batch.event.tolist()]

    def _gaps(self, name: npt.NDArray[np.object_], time: Ints) -> Ints:
        """Tokens of the time since each principal's previous action."""
        gaps = np.empty(len(time), np.int64)
        last = self._last
        for row, (who, when) in enumerate(zip(name.tolist(), time.tolist(), strict=True)):
            before = last.get(who)
            gaps[row] = -1 if before is None else max(when - before, 0)
            last[who] = when
        return gap_codes(gaps) + len(SPECIALS)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A detector's answer for each action of a stretch.

    Attributes:
        score: float64 [N], higher is more suspicious.
        flagged: bool [N], whether it is beyond the threshold.
        severity: [N], one of data.detector.SEVERITIES; "none" where not flagged.
        fields: float64 [N, FIELDS], what each field contributed; None where a detector cannot say.
    """

    score: Floats
    flagged: Flags
    severity: list[str]
    fields: Floats | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """False incidents wanted: per 10,000 actions of people and pipelines, per 1,000,000 of the cluster's own machinery."""

    person: float = 3.0
    system: float = 4.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which actions are flagged: of people and pipelines, and of the cluster's own machinery."""

    person: float
    system: float

    def exceeded(self, score: Floats, person: Flags) -> Flags:
        """Which scores are flagged, bool [N]."""
        flagged: Flags = score >= np.where(person, self.person, self.system)
        return flagged


_BY_SENSITIVITY = ("low", "low", "medium", "high")
"""Severity of a flagged action, from what it touches: the same table of sensitivity that the champion's severity begins with."""


class Baseline(ABC):
    """A detector that learns from a dataset alone and knows nothing of labels.

    Attributes:
        title: name in tables.
        thresholds: set by `infer_threshold`.
    """

    title: ClassVar[str]

    def __init__(self) -> None:
        self.thresholds: Thresholds | None = None

    @abstractmethod
    def fit(self, train: Stretch) -> Self:
        """Learn from normal actions."""

    @abstractmethod
    def score(self, stretch: Stretch) -> tuple[Floats, Floats | None]:
        """Score the next actions: float64 [N], and by field float64 [N, FIELDS] where the detector can say."""

    def infer_threshold(self, held_back: Stretch, budget: Budget) -> Self:
        """Set thresholds to a budget of false incidents on normal actions that were not fitted on."""
        score, _ = self.score(held_back)
        self.thresholds = thresholds_for(score, held_back, budget)
        return self

    def predict(self, stretch: Stretch) -> Prediction:
        """Score and judge the next actions."""
        if self.thresholds is None:
            raise RuntimeError(
                f"{type(self).__name__}.predict needs a threshold: call infer_threshold first."
            )
        score, fields = self.score(stretch)
        flagged = self.thresholds.exceeded(score, stretch.person)
        return Prediction(score, flagged, severities(flagged, stretch), fields)


def severities(flagged: Flags, stretch: Stretch) -> list[str]:
    """Severity of each action by what it touches alone; "none" where it is not flagged."""
    return [
        _BY_SENSITIVITY[level] if hit else "none"
        for hit, level in zip(flagged.tolist(), stretch.sensitivity.tolist(), strict=True)
    ]


def thresholds_for(score: Floats, held_back: Stretch, budget: Budget) -> Thresholds:
    """Thresholds at which held-back normal actions raise no more incidents than the budget allows.

    The rule is the champion's (`training.calibrate.threshold_for`), which where the data is too short to see the budget goes
    beyond what was seen as far as peaks spread. So that this holds on any scale, it is given what a score exceeds its 95 %
    quantile by, in units of the mean excess.
    """
    person = held_back.person
    limits = []
    for chosen, rate in ((person, budget.person / 1e4), (~person, budget.system / 1e6)):
        values = score[chosen]
        start, unit = 0.0, 1.0
        if len(values):
            start = float(np.quantile(values, 1 - _TAIL))
            beyond = values[values > start] - start
            unit = float(beyond.mean()) if len(beyond) else 1.0
        names = held_back.name[chosen].tolist()
        excess = np.maximum(values - start, 0.0) / unit
        limit = threshold_for(excess, names, held_back.time[chosen], rate * int(chosen.sum()))
        limits.append(start + unit * limit)
    return Thresholds(*limits)


def windows(tokens: Ints, history: Mapping[int, Ints], who: Ints, window: int) -> tuple[Ints, Ints]:
    """The last `window` actions of each action's principal, up to and including it.

    Args:
        tokens: int64 [N, K], of the actions in order.
        history: principal key -> int64 [<= window - 1, K], its actions before these.
        who: int64 [N], principal key of each action.
        window: length W.

    Returns:
        int64 [N, W, K], padded with 0 in front, and lengths int64 [N].
    """
    out = np.zeros((len(tokens), window, tokens.shape[1]), np.int64)
    lengths = np.empty(len(tokens), np.int64)
    for key in np.unique(who).tolist():
        rows = np.flatnonzero(who == key)
        before = history.get(key)
        had = 0 if before is None else len(before)
        pad = np.zeros((window - 1 - had, tokens.shape[1]), np.int64)
        block = np.concatenate([pad, tokens[rows]] if before is None else [pad, before, tokens[rows]])
        view = np.lib.stride_tricks.sliding_window_view(block, window, axis=0)  # [rows, K, W]
        out[rows] = view.transpose(0, 2, 1)
        lengths[rows] = np.minimum(had + 1 + np.arange(len(rows)), window)
    return out, lengths


class Recent:
    """The last actions of each principal between one stretch and the next."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._keys: dict[str, int] = {}
        self._history: dict[int, Ints] = {}

    def append(self, names: npt.NDArray[np.object_], tokens: Ints) -> tuple[Ints, Ints]:
        """Windows of new actions, see `windows`."""
        keys = self._keys
        who = np.array([keys.setdefault(name, len(keys)) for name in names.tolist()], np.int64)
        found = windows(tokens, self._history, who, self.window)
        for key in np.unique(who).tolist():
            mine = tokens[who == key][-(self.window - 1) :]
            before = self._history.get(key)
            if before is not None:
                mine = np.concatenate([before, mine])[-(self.window - 1) :]
            self._history[key] = mine
        return found


FIELD_COUNT = len(FIELDS)
