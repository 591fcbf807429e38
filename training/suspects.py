"""Suspects of a training log: what it shows on one occasion alone and would be flagged by; it becomes no habit.

A log to learn from may hold an attack already. If every action of it were counted, one earlier copy of an attack would hide the
next. So each action is judged by what the rest of the log shows: by what its principal did further than an occasion away from it,
before or after, and by what other principals did. What would be flagged so, and what added evidence within ten minutes of
it, is treated as the service treats it (`detection.probation`): what was new in it stays out of the habits. What was done on
another occasion as well is a habit. No label is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.actions.attributes import mix
from data.arrays import Flags, Hashes, Ints, Names, runs
from data.dataset.table import ActionTable
from data.visible_text import visible
from detection.calibration import ActionFeatures, Calibration
from detection.evidence import INCIDENT_SECONDS, Accumulator
from detection.novelty import MATURE, HabitTable, PriorCounts
from detection.reconstruction import Nll

_WINDOW = INCIDENT_SECONDS * 1_000_000
#: Share of the log that is one occasion, and its least and most length in microseconds: ten minutes and a day.
_SHARE, _LEAST, _MOST = 1 / 14, _WINDOW, 86_400_000_000
#: Times that a log is judged, each without what was suspect the time before.
_PASSES = 4
#: Principals that are named to a person.
_NAMED = 5
#: Characters of each name that are shown.
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Suspects:
    """Actions of a log that are no habit.

    Attributes:
        rows: int64 [S], rows of the table, in the order of the log.
        new: bool [S, attributes], what was new in each.
        flagged: bool [S], which would be flagged; the others led up to these, or followed.
    """

    rows: Ints
    new: Flags
    flagged: Flags

    def leave_out(self, table: ActionTable, habits: HabitTable) -> None:
        """Take what was new out of habits that counted the whole table."""
        if not len(self.rows):
            return
        names, groups = table.name_hashes[self.rows], table.group_hashes[self.rows]
        order = np.argsort(names, kind="stable")
        for begin, size in zip(*runs(names[order]), strict=True):
            some = order[begin : begin + size]
            attributes = np.unique(table.attributes[self.rows[some]][self.new[some]])
            habits.withdraw(int(names[some[0]]), int(groups[some[0]]), attributes)

    def describe(self, table: ActionTable) -> str:
        """A sentence for a person; empty if there are none."""
        flagged = self.rows[self.flagged]
        if not len(flagged):
            return ""
        often = Counter(table.name[flagged].tolist()).most_common()
        names = ", ".join(f"{visible(name)[:_SHOWN]} ({count})" for name, count in often[:_NAMED])
        rest = f" and {len(often) - _NAMED} more" if len(often) > _NAMED else ""
        return (
            f"{len(flagged):,} actions of the log would be flagged by what the rest of it shows. What was new in them, and in "
            f"{len(self.rows) - len(flagged):,} around them, was done on one occasion and is no habit: by {names}{rest}."
        )


def occasion(time: Ints) -> int:
    """Microseconds that count as one occasion in a log: a day of two weeks, not under ten minutes."""
    return int(np.clip((int(time.max()) - int(time.min())) * _SHARE, _LEAST, _MOST))


def elsewhere(table: ActionTable, away: int, kept: Flags) -> tuple[Ints, PriorCounts]:
    """What the rest of a log knows of each action: further than `away` microseconds from it, or by other principals.

    Args:
        kept: bool [N], rows that the rest consists of.

    Returns:
        Rows of the actions in which something is new to their principal, in the order of the log, and the counts of these;
        `peers` and `anyone` without the principal itself.
    """
    names, groups = table.name_hashes, table.group_hashes
    own = np.empty(table.attributes.shape, np.int32)
    for column, what in enumerate(table.attributes.T):
        own[:, column] = _others_in_time(mix(names, what), table.time, away, kept)
    rows = np.flatnonzero((own == 0).any(axis=1))
    rows = rows[np.argsort(table.arrival[rows], kind="stable")]
    known = own[rows].astype(np.int64)
    peers, anyone = np.zeros_like(known), np.zeros_like(known)
    for column, what in enumerate(table.attributes.T):
        mine, theirs = mix(names, what), mix(groups, what)
        # One row for each principal that ever did it.
        did, once = np.unique(mine[kept], return_index=True)
        new = np.flatnonzero(known[:, column] == 0)
        at = rows[new]
        itself = _counts_of(did, mine[at])
        peers[new, column] = _counts_of(theirs[kept][once], theirs[at]) - itself
        anyone[new, column] = _counts_of(what[kept][once], what[at]) - itself
    everything = np.ones(len(names), bool)
    return rows, PriorCounts(known, peers, anyone, _others_in_time(names, table.time, away, everything)[rows])


def _others_in_time(key: Hashes, time: Ints, away: int, kept: Flags) -> Ints:
    """For each row, kept rows of the same key that are further away in time, int64 [N]."""
    number = np.unique(key, return_inverse=True)[1].astype(np.int64)
    total = np.bincount(number[kept], minlength=int(number.max()) + 1)
    # Keys lie further apart than any two times, so that one sorted array holds them all; milliseconds, lest it overflow.
    since, away = (time - int(time.min())) // 1000, away // 1000
    at = number * (int(since.max()) + 2 * away + 2) + since
    ordered = np.sort(at[kept])
    near = np.searchsorted(ordered, at + away, "right") - np.searchsorted(ordered, at - away, "left")
    return np.asarray(total[number] - near, np.int64)


def _counts_of(keys: Hashes, wanted: Hashes) -> Ints:
    """How often each of the wanted keys is among the keys, int64."""
    found, counts = np.unique(keys, return_counts=True)
    if not len(found):
        return np.zeros(len(wanted), np.int64)
    place = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    return np.where(found[place] == wanted, counts[place], 0).astype(np.int64)


def find_suspects(
    table: ActionTable,
    calibration: Calibration,
    errors: Callable[[Ints], Nll],
    members: Ints,
) -> Suspects:
    """Judge a training log by itself.

    Args:
        calibration: fitted as if there were none.
        errors: NLL of the actions in the given rows of the table, float32 [n, F].
        members: int64 [N], principals of the peer group of each action.
    """
    away, kept = occasion(table.time), np.ones(len(table.time), bool)
    for _ in range(_PASSES):
        found = _judged(table, calibration, errors, members, *elsewhere(table, away, kept))
        if not kept[found.rows].any():
            break
        # What is suspect vouches for nothing: neither for what its principal did on another occasion, nor for others.
        kept[found.rows] = False
    return found


def _judged(
    table: ActionTable,
    calibration: Calibration,
    errors: Callable[[Ints], Nll],
    members: Ints,
    rows: Ints,
    known: PriorCounts,
) -> Suspects:
    features = _features(table, known, rows, members)
    # Only news can be flagged, and what follows from it is none.
    some = np.flatnonzero(features.root.any(axis=1))
    at, known = rows[some], known[some]
    features = _features(table, known, at, members)
    time = table.time[at]
    weighed = calibration.weigh(errors(at), features)
    new, wrong = weighed.novelty_evidence, weighed.error_evidence
    limits = calibration.thresholds(features.kinds)
    sums = Accumulator(calibration.horizons, calibration.activity).add(
        features.principals, time, new, wrong, limits, features.actions
    )
    evidence, threshold = calibration.verdict(sums, features.kinds)
    flagged = evidence >= threshold
    adds = (new > 0) | (wrong > 0)
    # There is no rest of the log to judge one by who was hardly there at another time.
    chosen = (
        adds & (features.actions >= MATURE) & _near(np.asarray(features.principals, object), time, flagged)
    )
    return Suspects(at[chosen], known.own[chosen] == 0, flagged[chosen])


def _features(table: ActionTable, known: PriorCounts, rows: Ints, members: Ints) -> ActionFeatures:
    names, kinds = table.name[rows].tolist(), table.kind[rows].tolist()
    return ActionFeatures.from_counts(
        known, table.tokens[rows], table.vocabulary, names, kinds, table.sensitivity[rows], members[rows]
    )


def _near(names: Names, time: Ints, flagged: Flags) -> Flags:
    """Actions within ten minutes of a flagged one of the same principal, bool [N]."""
    near = np.zeros(len(time), bool)
    for name in set(names[flagged].tolist()):
        mine = np.flatnonzero(names == name)
        hits = np.sort(time[mine][flagged[mine]])
        place = np.searchsorted(hits, time[mine])
        after = hits[np.minimum(place, len(hits) - 1)]
        before = hits[np.maximum(place - 1, 0)]
        near[mine] = np.minimum(abs(after - time[mine]), abs(time[mine] - before)) <= _WINDOW
    return near
