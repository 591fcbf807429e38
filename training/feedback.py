"""Learning from feedback: what people confirmed as normal becomes habit, what they confirmed as malicious leaves the data.

A feedback file holds one JSON object a line: `principal`, `auditIDs`, `verdict` (`normal` or `malicious`), and optionally
`note` and `time`. The events themselves are read from the logs in which they happened.

Everyone who can write feedback can teach the model, so the threat is an attacker who confirms the alerts about himself. Therefore
one entry teaches only so many actions, and all of them together only a bounded share of what the model sees; only the principal
itself learns, not its peers; thresholds are never set on feedback; and a report lists what was taught, most sensitive first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from data.actions.fields import FIELDS, STATIC_FIELDS, gap_codes, stable_hash
from data.actions.sensitivity import LEVELS
from data.actions.vocabulary import SPECIALS, Vocabulary
from data.arrays import Floats, Hashes, Ints, Names
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from detection.novelty import HabitTable
from training.audit_log import read_log
from training.stretch import LogEncoder


@dataclass(frozen=True, slots=True)
class FeedbackConfig:
    """Limits on what feedback may teach.

    Attributes:
        actions_per_entry: confirmed actions of one entry that are learned; more are left out and reported.
        share: share of all training windows that feedback may make up, all entries together.
        share_per_entry: the same for one entry, so that no single click decides what is normal.
    """

    actions_per_entry: int = 100
    share: float = 0.05
    share_per_entry: float = 0.01


class FeedbackLine(msgspec.Struct, frozen=True):
    """One line of a feedback file."""

    principal: str
    audit_ids: tuple[str, ...] = msgspec.field(name="auditIDs")
    verdict: Literal["normal", "malicious"]
    note: str | None = None
    time: str | float | None = None


@dataclass(slots=True)
class Lesson:
    """Outcome of one entry.

    Attributes:
        found: actions of the entry that the logs hold.
        learned: of those, how many are trained on (verdict normal).
        removed: rows of the dataset that were left out (verdict malicious).
        over_limit: actions beyond `actions_per_entry`.
        share: share of the training windows.
        does: what was taught, as "verb resource in namespace (sensitivity)" with counts, most sensitive first.
    """

    principal: str
    verdict: str
    note: str
    found: int = 0
    learned: int = 0
    removed: int = 0
    over_limit: int = 0
    share: float = 0.0
    does: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """Feedback, ready to be trained on.

    Attributes:
        table: the dataset without what was malicious, its vocabulary widened by the values that were confirmed; for calibration.
        training: the same with the confirmed actions and their context added at the end; for drawing windows.
        weights: float64 [confirmed windows], share of each added window in training; they are the last windows of `training`.
        attributes, names: uint64 [K, attributes] and [K], of the confirmed actions, for the habits.
        lessons: outcome of each entry.
    """

    table: ActionTable
    training: ActionTable
    weights: Floats
    attributes: Hashes
    names: Hashes
    lessons: list[Lesson]

    def count_into(self, habits: HabitTable) -> None:
        """Count the confirmed actions as habits of their principals alone: peers are judged as if they had not happened."""
        private = np.array([stable_hash(f"feedback:{name}") for name in self.names.tolist()], np.uint64)
        if len(self.names):
            habits.observe(self.attributes, self.names, private)

    def to_dict(self) -> dict[str, Any]:
        """The report, in JSON form."""
        return {"lessons": [asdict(lesson) for lesson in self.lessons], "share": float(self.weights.sum())}

    def describe(self) -> str:
        """The report for a person."""
        lines = [f"feedback: {float(self.weights.sum()):.2%} of what is trained on"]
        for one in self.lessons:
            did = f"malicious, {one.removed} actions left out of the data"
            if one.verdict == "normal":
                does = "; ".join(f"{count} x {what}" for what, count in list((one.does or {}).items())[:4])
                did = f"normal, {one.learned} actions learned ({does})"
            lines.append(f"  {one.principal}: {did}")
            if one.over_limit:
                lines.append(f"    {one.over_limit} more were not learned: one entry teaches only so much")
            if not one.found:
                lines.append("    none of its audit IDs is in the feedback logs, so nothing came of it")
        return "\n".join(lines)


def read_feedback(path: Path) -> list[FeedbackLine]:
    """Entries of a feedback file; KubehabitError if it cannot be read, or names the line that is no entry."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KubehabitError(f"Cannot read the feedback {path}: {error}.") from error
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(msgspec.json.decode(line, type=FeedbackLine))
        except msgspec.DecodeError as error:
            raise KubehabitError(
                f"{path}, line {number} is no feedback ({error}). Each line needs principal, auditIDs (a list) and verdict "
                "(normal or malicious)."
            ) from error
    if not entries:
        raise KubehabitError(f"{path} holds no feedback.")
    return entries


@dataclass(frozen=True, slots=True)
class _Log:
    """The actions of the feedback logs by principals that feedback is about, in arrival order, K rows.

    `values` holds each action's value in each of STATIC_FIELDS, `columns` those of a dataset that need no vocabulary; of them,
    `name` is object [K] and `time` int64 [K], microseconds.
    """

    audit_id: list[str]
    values: list[tuple[str, ...]]
    columns: Mapping[str, npt.NDArray[Any]]
    name: Names
    time: Ints


_COLUMNS = ("attributes", "principal", "group", "name", "kind", "time", "sensitivity")


def _read(logs: Sequence[Path], table: ActionTable, wanted: set[str]) -> _Log:
    encoder = LogEncoder(table.settings, table.vocabulary, table.principals, table.rules, {})
    audit_id: list[str] = []
    values: list[tuple[str, ...]] = []
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [getattr(table, name)[:0]] for name in _COLUMNS}
    for log in logs:
        for events in read_log(log, may_be_empty=True):
            stretch, audit_ids = encoder.encode(events)
            rows = [row for row, name in enumerate(stretch.name.tolist()) if name in wanted]
            audit_id += [audit_ids[row] for row in rows]
            fields = (stretch.values[field] for field in STATIC_FIELDS)
            values += zip(
                *([known[code] for code in codes[rows].tolist()] for known, codes in fields), strict=True
            )
            for name, column in parts.items():
                column.append(getattr(stretch, name)[rows])
    columns = {name: np.concatenate(column) for name, column in parts.items()}
    return _Log(audit_id, values, columns, columns["name"], columns["time"])


def learn(
    table: ActionTable,
    entries: Sequence[FeedbackLine],
    logs: Sequence[Path],
    window: int,
    config: FeedbackConfig,
) -> Learned:
    """Turn feedback into data to train on; a confirmed action is learned in the context of `window` actions.

    What was malicious is found in the dataset by principal and time.

    Raises:
        KubehabitError: no log, an unreadable one, or none of the audit IDs is in them.
    """
    if not logs:
        raise KubehabitError("Feedback needs the log its events are in: --feedback-log LOG")
    log = _read(logs, table, {entry.principal for entry in entries})
    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(log.name.tolist(), log.audit_id, strict=True)):
        rows_of[key].append(row)
    lessons = [Lesson(entry.principal, entry.verdict, entry.note or "") for entry in entries]
    found = [
        [row for audit_id in entry.audit_ids for row in rows_of.get((entry.principal, audit_id), [])]
        for entry in entries
    ]
    if not any(found):
        raise KubehabitError(
            "None of the audit IDs in the feedback is in the feedback logs. Give the log they happened in: --feedback-log LOG"
        )
    # Malicious wins over normal: confirming an action as normal does not undo another's verdict.
    outcomes = list(zip(lessons, found, strict=True))
    malicious = [(lesson, rows) for lesson, rows in outcomes if lesson.verdict == "malicious"]
    bad = {row for _, rows in malicious for row in rows}
    table = _without(table, log, malicious)
    taught: dict[int, int] = {}
    for index, (lesson, rows) in enumerate(outcomes):
        lesson.found = len(rows)
        if lesson.verdict != "normal":
            continue
        fresh = [row for row in dict.fromkeys(rows) if row not in bad and row not in taught]
        kept = fresh[: config.actions_per_entry]
        lesson.learned, lesson.over_limit = len(kept), len(fresh) - len(kept)
        lesson.does = _described(log, kept)
        taught |= dict.fromkeys(kept, index)
    confirmed = sorted(taught)
    table = replace(table, vocabulary=_widened(table.vocabulary, log, confirmed))
    training = _with(table, log, confirmed, bad, window)
    weights = _weights(len(table.windows["train"]), [taught[row] for row in confirmed], config)
    for row, weight in zip(confirmed, weights.tolist(), strict=True):
        lessons[taught[row]].share += weight
    return Learned(
        table,
        training,
        weights,
        log.columns["attributes"][confirmed],
        np.array([stable_hash(name) for name in log.name[confirmed].tolist()], np.uint64),
        lessons,
    )


def _described(log: _Log, rows: Sequence[int]) -> dict[str, int]:
    verb, resource, namespace = (STATIC_FIELDS.index(name) for name in ("verb", "resource", "namespace"))
    counted: Counter[tuple[int, str]] = Counter()
    for row in rows:
        value, level = log.values[row], max(int(log.columns["sensitivity"][row]), 0)
        what = f"{value[verb]} {value[resource]} in {value[namespace]} ({LEVELS[level]} sensitivity)"
        counted[level, what] += 1
    ordered = sorted(counted.items(), key=lambda item: (-item[0][0], -item[1], item[0][1]))
    return {what: count for (_, what), count in ordered}


def _weights(windows: int, entry_of: Sequence[int], config: FeedbackConfig) -> Floats:
    """Share of each confirmed window in training: an equal one for each entry, capped for one and for all together.

    A confirmed action weighs as much as ten ordinary windows, as long as no cap is reached.
    """
    counts = Counter(entry_of)
    wanted = {
        entry: min(10.0 * count / max(windows, 1), config.share_per_entry) for entry, count in counts.items()
    }
    total = sum(wanted.values())
    scale = min(1.0, config.share / total) if total else 1.0
    return np.array([wanted[entry] * scale / counts[entry] for entry in entry_of], np.float64)


def _widened(vocabulary: Vocabulary, log: _Log, confirmed: Sequence[int]) -> Vocabulary:
    """The vocabulary with a token for each confirmed value that had none or only a broader one; old ids stay."""
    tokens = {field: list(values) for field, values in vocabulary.tokens.items()}
    for column, field in enumerate(STATIC_FIELDS):
        if field == "hour" and not vocabulary.uses_hour:
            continue
        known = set(tokens[field])
        new = dict.fromkeys(log.values[row][column] for row in confirmed)
        tokens[field] += [value for value in new if value not in known]
    return Vocabulary(tokens, vocabulary.uses_hour)


def _without(table: ActionTable, log: _Log, malicious: Sequence[tuple[Lesson, Sequence[int]]]) -> ActionTable:
    """The dataset without the malicious actions, recognised by principal and time; completes their lessons."""
    keys = list(zip(log.name.tolist(), log.time.tolist(), strict=True))
    names = {lesson.principal for lesson, _ in malicious}
    rows_at: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(table.name.tolist(), table.time.tolist(), strict=True)):
        if key[0] in names:
            rows_at[key].append(row)
    gone = np.zeros(len(table.time), bool)
    for lesson, rows in malicious:
        hit = {place for row in rows for place in rows_at.get(keys[row], ())}
        lesson.removed = len(hit)
        gone[list(hit)] = True
    if not gone.any():
        return table
    kept = np.flatnonzero(~gone)
    before = np.concatenate([[0], np.cumsum(~gone)])  # rows kept before each row
    windows = {}
    for split, ends in table.windows.items():
        stay = ends[~gone[ends[:, 0]]]
        start = stay[:, 0] - stay[:, 1]
        windows[split] = np.stack([before[stay[:, 0]], before[stay[:, 0]] - before[start]], axis=1)
    columns = {name: getattr(table, name)[kept] for name in ("tokens", "arrival", *_COLUMNS)}
    return replace(table, windows=windows, **columns)


def _with(table: ActionTable, log: _Log, confirmed: Sequence[int], bad: set[int], window: int) -> ActionTable:
    """The dataset with each principal's actions up to its confirmed ones added; only those that were confirmed end a window."""
    chosen = set(confirmed)
    blocks: list[int] = []  # rows of the log
    ends: dict[int, tuple[int, int]] = {}
    base = len(table.time)
    for name in sorted(set(log.name[list(confirmed)].tolist())):
        mine = [row for row in np.flatnonzero(log.name == name).tolist() if row not in bad]
        needed: set[int] = set()
        for place, row in enumerate(mine):
            if row in chosen:
                needed.update(range(max(0, place - window + 1), place + 1))
        first = len(blocks)
        for place in sorted(needed):
            if mine[place] in chosen:
                ends[mine[place]] = (base + len(blocks), len(blocks) - first)
            blocks.append(mine[place])
    tokens = np.empty((len(blocks), len(FIELDS)), table.tokens.dtype)
    for column, field in enumerate(STATIC_FIELDS):
        tokens[:, column] = table.vocabulary.table(field, [log.values[row][column] for row in blocks])
    names, time = log.name[blocks], log.time[blocks]
    gaps = np.maximum(np.diff(time, prepend=time[:1]), 0)
    gaps[np.r_[True, names[1:] != names[:-1]][: len(blocks)]] = -1
    tokens[:, -1] = gap_codes(gaps) + len(SPECIALS)
    added = {name: values[blocks] for name, values in log.columns.items()}
    added |= {"tokens": tokens, "arrival": np.arange(len(blocks)) + base}
    old = {name: getattr(table, name) for name in added}
    joined: dict[str, Any] = {
        n: np.concatenate([old[n], new.astype(old[n].dtype)]) for n, new in added.items()
    }
    # In the order of the weights.
    windows = np.array([ends[row] for row in confirmed], np.int64).reshape(-1, 2)
    return replace(
        table, **joined, windows=table.windows | {"train": np.concatenate([table.windows["train"], windows])}
    )
