"""Records the history: a few columns of every batch in memory, summed up and written with each snapshot of the state.

Each write carries the position of the journal, as snapshots do: actions that are scored again after a crash count once.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.principals.identity import PEOPLE_AND_PIPELINES
from serving.history.activity import Trained
from serving.history.schema import BINS, DAY, EDGES, HOUR, connect
from serving.schemas import clean

if TYPE_CHECKING:
    from detection.calibration import Calibration
    from detection.detector import Scores

_log = logging.getLogger("kubehabit.history")

#: Hours are kept for eight days; before that there are days.
_HOURS_KEPT = 8 * DAY

#: Actions in memory, 18 bytes each, while the file cannot be written; of more, the oldest are dropped.
_MOST_PENDING = 400_000

_PRUNE_SECONDS = 3600.0

#: Rows that are Python's at a time.
_BLOCK = 2048

_EDGES = np.array(EDGES)

_SUMS = ("actions", "flagged", "nearest", *(f"b{number}" for number in range(BINS)))
_ADD = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS if name != "nearest")
_ADD += ", nearest = max(nearest, excluded.nearest)"


@dataclass(frozen=True, slots=True)
class Judge:
    """The model in force, and its calibration.

    Attributes:
        horizons: seconds over which evidence adds up.
        person, system: calibrated thresholds for each horizon, before any scale.
        scale: factor on the thresholds.
        activity: actions of a principal over which evidence adds up, for each horizon.
    """

    version: str
    horizons: tuple[float, ...]
    person: tuple[float, ...]
    system: tuple[float, ...]
    scale: float = 1.0
    activity: tuple[float, ...] = ()

    @classmethod
    def from_calibration(cls, version: str, calibration: Calibration) -> Judge:
        """The judge for a model's calibration."""
        scale = calibration.scale
        thresholds = (calibration.person_thresholds, calibration.system_thresholds)
        person, system = (tuple(limit / scale for limit in limits) for limits in thresholds)
        return cls(version, tuple(calibration.horizons), person, system, scale, calibration.activity)


@dataclass(slots=True)
class Chunk:
    """Scores since the previous chunk.

    Attributes:
        position: last position of the journal in it.
        names: principals by code.
        who: kind and peer group by code.
        parts: columns of batches: code, time, share of the threshold reached, bin of the error, flagged.
        additions: code, time, judge, whether a person or pipeline, new, wrong, share of the calibrated threshold, and the
            principal's earlier actions.
        unknown: hour -> actions with a verb or resource that the model does not know.
    """

    position: int = 0
    names: dict[str, int] = field(default_factory=dict)
    who: list[tuple[str, str]] = field(default_factory=list)
    parts: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)
    additions: list[tuple[int, int, Judge, bool, float, float, float, int | None]] = field(
        default_factory=list
    )
    unknown: dict[int, int] = field(default_factory=dict)
    held: int = 0


class History:
    """Surprise over time. `observe` and `pop` belong to the scoring thread; `write` may run in another.

    Args:
        path: SQLite file; created if it does not exist.
        retention_days: how long days and additions are kept.
        max_rows: most rows; beyond it the oldest are deleted.
        clock: time of receipt, microseconds since 1970 UTC (`serving.storage.receipt_clock`).

    Raises:
        HistoryError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_days: float,
        max_rows: int,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._clock = clock
        self.path = path
        self._retention_hours = round(retention_days * DAY)
        self._max_rows = max_rows
        self._file = connect(path, to_write=True)
        self._writing = threading.Lock()
        self._judge = Judge("", (), (), ())
        self._pending = Chunk()
        self._counted = 0
        self._pruned = 0.0
        self._ids: dict[Judge, int] = {}

    def resume(self, restored: int, journal: int) -> None:
        """Continue from a snapshot.

        Args:
            restored: position of the snapshot; what came after it will be scored again.
            journal: position of the last record. A file that is ahead of it belongs to another journal.
        """
        row = self._file.execute("SELECT value FROM meta WHERE key = 'position'").fetchone()
        position = 0 if row is None else int(row[0])
        self._counted = position if restored < position <= journal else 0
        query = "INSERT OR REPLACE INTO meta VALUES ('position', ?)"
        try:
            with self._writing:
                self._file.execute(query, (self._counted or restored,))
        except sqlite3.Error as error:  # as on a full disk, where scoring goes on
            _log.error("the history cannot be written", extra={"reason": str(error)})

    def set_judge(self, judge: Judge, trained: Trained | None = None) -> None:
        """Set the model that judges from the next batch on, and the principals that its training knew."""
        self._judge = judge
        if trained is None:
            return
        rows = (
            (clean(name), trained.kind(name), clean(group), trained.last.get(name))
            for name, group in trained.group_of.items()
        )
        try:
            with self._writing, self._file:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.executemany(
                    "INSERT INTO principals (name, kind, peers, last, trained) VALUES (?, ?, ?, ?, 1) "
                    "ON CONFLICT (name) DO UPDATE SET peers = excluded.peers, trained = 1",
                    rows,
                )
        except sqlite3.Error as error:
            _log.error("the history cannot be written", extra={"reason": str(error)})

    def observe(self, scores: Scores) -> None:
        """Keep the scores of a batch until they are written."""
        count = len(scores.event)
        if not count:
            return
        pending, judge = self._pending, self._judge
        names, who = pending.names, pending.who
        for name, kind, group in zip(scores.principal, scores.kind, scores.group, strict=True):
            if name not in names:
                names[name] = len(who)
                who.append((kind, group))
        codes = np.array([names[name] for name in scores.principal], np.int32)
        times = scores.time.astype(np.int64)
        reached = (scores.evidence / scores.threshold).astype(np.float32)
        bins = np.searchsorted(_EDGES, scores.error, side="right").astype(np.uint8)
        pending.parts.append((codes, times, reached, bins, scores.flagged))
        pending.held += count
        if len(scores.unknown):
            for hour in (times[scores.unknown] // HOUR).tolist():
                pending.unknown[hour] = pending.unknown.get(hour, 0) + 1
        if len(scores.novelty_evidence):
            for row in np.flatnonzero((scores.novelty_evidence > 0) | (scores.error_evidence > 0)).tolist():
                person = scores.kind[row] in PEOPLE_AND_PIPELINES
                new, wrong = float(scores.novelty_evidence[row]), float(scores.error_evidence[row])
                near = float(reached[row]) * judge.scale
                done = int(scores.own_actions[row]) if len(scores.own_actions) else None
                entry = int(codes[row]), int(times[row]), judge, person, new, wrong, near, done
                pending.additions.append(entry)
        while pending.held > _MOST_PENDING:
            pending.held -= len(pending.parts.pop(0)[0])

    def after(self, position: int) -> None:
        """Discard what is pending if it was counted before a crash; everything up to `position` is scored."""
        if position <= self._counted:
            self._pending = Chunk()

    def pop(self, position: int) -> Chunk:
        """Remove and return what came since the last call, to be written."""
        popped, self._pending = self._pending, Chunk()
        popped.position = position
        return popped

    def write(self, chunk: Chunk) -> None:
        """Add a chunk to the file. A failure costs history, never verdicts."""
        try:
            with self._writing:
                self._file.execute("BEGIN IMMEDIATE")
                with self._file:
                    if chunk.parts:
                        self._add(chunk)
                    self._file.execute(
                        "INSERT INTO meta VALUES ('position', ?) "
                        "ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
                        (chunk.position,),
                    )
                if time.monotonic() - self._pruned >= _PRUNE_SECONDS or not self._pruned:
                    self._pruned = time.monotonic()
                    self.prune()
        except sqlite3.Error as error:
            self._ids.clear()  # what was undone may be among them
            extra = {"reason": str(error), "path": str(self.path)}
            _log.error("history is lost: its file cannot be written", extra=extra)

    def close(self) -> None:
        """Close the file."""
        with self._writing:
            self._file.close()

    # -- writing ------------------------------------------------------------------------------------------------

    def _add(self, chunk: Chunk) -> None:
        codes, times, reached, bins, flagged = (
            np.concatenate([part[column] for part in chunk.parts]) for column in range(5)
        )
        ids = self._principals(chunk, codes, times, flagged)
        hours = times // HOUR
        for table, column, spans in (("hours", "hour", hours), ("days", "day", hours // DAY)):
            first, breadth = int(spans.min()), int(spans.max() - spans.min()) + 1
            rows = _summed(codes.astype(np.int64) * breadth + spans - first, reached, bins, flagged)
            # Rows go as they are made: a full chunk of ten thousand principals would be many megabytes of them.
            named = ((ids[key // breadth], first + key % breadth, *sums) for key, *sums in rows)
            self._add_rows(table, ("principal", column), named)
        base, unknown = int(hours.min()), chunk.unknown
        totals = _summed(hours - base, reached, bins, flagged)
        by_hour = ((base + key, *sums, unknown.get(base + key, 0)) for key, *sums in totals)
        self._add_rows("totals", ("hour",), by_hour, also=("unknown",))
        self._file.executemany(
            "INSERT INTO additions (principal, time, judge, person, new, wrong, reached, actions) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (ids[code], moment, self._judge_id(judge), *rest)
                for code, moment, judge, *rest in chunk.additions
            ],
        )

    def _principals(
        self, chunk: Chunk, codes: npt.NDArray[Any], times: npt.NDArray[Any], flagged: npt.NDArray[Any]
    ) -> list[int]:
        """Count each principal's actions; returns its ID in the file, by code."""
        size = len(chunk.who)
        actions = np.bincount(codes, minlength=size).tolist()
        unusual = np.bincount(codes, weights=flagged, minlength=size).astype(int).tolist()
        last = np.zeros(size, np.int64)
        # A principal whose event is dated 2099 must not outlive all others.
        np.maximum.at(last, codes, np.minimum(times, self._clock() + DAY * HOUR))
        first = np.full(size, np.iinfo(np.int64).max)
        np.minimum.at(first, codes, times)
        ids: list[int] = []
        for name, code in chunk.names.items():
            kind, group = chunk.who[code]
            values = (clean(name), kind, clean(group), int(first[code]), int(last[code]))
            row = self._file.execute(
                "INSERT INTO principals (name, kind, peers, first, last, actions, flagged) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, peers = excluded.peers, "
                "first = min(coalesce(first, excluded.first), excluded.first), "
                "last = max(coalesce(last, 0), excluded.last), actions = actions + excluded.actions, "
                "flagged = flagged + excluded.flagged RETURNING id",
                (*values, actions[code], unusual[code]),
            ).fetchone()
            ids.append(int(row[0]))
        return ids

    def _add_rows(
        self, table: str, keys: Sequence[str], rows: Iterable[Sequence[Any]], also: Sequence[str] = ()
    ) -> None:
        names = (*keys, *_SUMS, *also)
        more = "".join(f", {name} = {name} + excluded.{name}" for name in also)
        self._file.executemany(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {_ADD}{more}",
            rows,
        )

    def _judge_id(self, judge: Judge) -> int:
        if judge not in self._ids:
            parts = (judge.horizons, judge.person, judge.system, judge.activity)
            values = (judge.version, *(json.dumps(list(part)) for part in parts), judge.scale)
            row = self._file.execute(
                "INSERT INTO judges (version, horizons, person, system, activity, scale) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET scale = excluded.scale RETURNING id",
                values,
            ).fetchone()
            self._ids[judge] = int(row[0])
        return self._ids[judge]

    # -- bounds -------------------------------------------------------------------------------------------------

    def prune(self) -> None:
        """Delete what is too old, then the oldest while there is too much."""
        newest = self._file.execute("SELECT max(hour) FROM totals").fetchone()[0]
        if newest is None:
            return
        # By the clock of the events, for an old log that is read in; never by one that is ahead of the receipts.
        now = min(int(newest), self._clock() // HOUR)
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            self._forget(now - _HOURS_KEPT, now - self._retention_hours)
            while (too_many := self._rows() - self._max_rows) > 0:
                oldest = self._file.execute(
                    "SELECT min(first) FROM (SELECT min(hour) AS first FROM hours UNION ALL SELECT min(day) * 24 FROM days "
                    "UNION ALL SELECT min(time) / 3600000000 FROM additions)"
                ).fetchone()[0]
                # In steps of a share of all there is, so that it ends soon whatever the distribution.
                step = max(1, (now - oldest) * too_many // (4 * (self._max_rows + too_many)))
                if oldest + step > now:
                    break
                self._forget(oldest + step, oldest + step)
            self._forget_principals((now - self._retention_hours) * HOUR)

    def _forget_principals(self, before: int) -> None:
        """Delete principals that training did not know and that have not acted since; of too many, those quiet longest."""
        self._file.execute(
            "DELETE FROM principals WHERE NOT trained AND last < ? AND NOT EXISTS (SELECT 1 FROM days WHERE principal = id) "
            "AND NOT EXISTS (SELECT 1 FROM additions WHERE principal = id)",
            (before,),
        )
        too_many = self._file.execute("SELECT count(*) FROM principals").fetchone()[0] - self._max_rows
        if too_many > 0:
            quiet = "(SELECT id FROM principals ORDER BY trained, last LIMIT ?)"
            for column in (
                "hours WHERE principal",
                "days WHERE principal",
                "additions WHERE principal",
                "principals WHERE id",
            ):
                self._file.execute(f"DELETE FROM {column} IN {quiet}", (too_many,))

    def _rows(self) -> int:
        counts = " + ".join(f"(SELECT count(*) FROM {table})" for table in ("hours", "days", "additions"))
        return int(self._file.execute(f"SELECT {counts}").fetchone()[0])

    def _forget(self, hour: int, all_before: int) -> None:
        self._file.execute("DELETE FROM hours WHERE hour < ?", (hour,))
        self._file.execute("DELETE FROM days WHERE day < ?", (-(-all_before // DAY),))
        self._file.execute("DELETE FROM totals WHERE hour < ?", (all_before,))
        self._file.execute("DELETE FROM additions WHERE time < ?", (all_before * HOUR,))


def _summed(
    keys: npt.NDArray[np.int64],
    reached: npt.NDArray[np.float32],
    bins: npt.NDArray[np.uint8],
    flagged: npt.NDArray[np.bool_],
) -> Iterator[tuple[Any, ...]]:
    """One row for each key: the key, actions, flagged ones, greatest share reached, actions in each bin."""
    found, place = np.unique(keys, return_inverse=True)
    size = len(found)
    nearest = np.zeros(size, np.float32)
    np.maximum.at(nearest, place, reached)
    counts = np.bincount(place * BINS + bins, minlength=size * BINS).reshape(size, BINS)
    unusual = np.bincount(place, weights=flagged, minlength=size).astype(np.int64)
    actions = counts.sum(axis=1)
    for begin in range(0, size, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        yield from zip(
            found[block].tolist(),
            actions[block].tolist(),
            unusual[block].tolist(),
            nearest[block].tolist(),
            *counts[block].T.tolist(),
            strict=True,
        )
