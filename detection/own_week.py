"""Whether an hour is strange to a principal: its own week as counts of days on which it was active in each hour.

What an account does every day, done at three in the morning by a thief, is news of its hour alone. An hour is strange to a
principal that was hardly ever active around it, on weekdays, or on any day for an hour of a weekend: a first Saturday at one's
usual time is no strange hour. Days are counted, not requests, and those of an hour when the principal is active in another one,
so that all requests of a first night are strange.

Counts are kept among the habits, under keys of the principal's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.actions.attributes import HOURS, attribute_hash
from data.actions.fields import hour_of_week, stable_hash
from data.actions.recent_hashes import Hashes
from detection.novelty import MATURE, HabitTable, PriorCounts

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
#: Hours before and after an hour that count as around it.
_AROUND = 3
#: Days of activity around an hour from which it is usual.
_USUAL = 2
#: Days that a principal must have been seen before an hour can be strange to it.
ENOUGH_DAYS = 5

_KINDS = ("weekday", "weekend")
#: Attribute hash of each quarter of a day, of both kinds of day: nights that were flagged or judged are known by it.
_QUARTERS = np.array(
    [attribute_hash(HOURS, (f"{kind} {6 * part:02d}",)) for kind in _KINDS for part in range(4)], np.uint64
)
#: What is counted: days of each hour, then days at all.
_COUNTED = np.array(
    [stable_hash(f"days of {kind} {hour:02d}") for kind in _KINDS for hour in range(24)]
    + [stable_hash("days")],
    np.uint64,
)
_DAYS = 48
_LOOKED_UP = np.concatenate([_COUNTED, _QUARTERS])


def _window(slot: int) -> list[int]:
    """Slots around a slot, and for a weekend those of weekdays; each twice for a weekday, so that all are as many."""
    near = [(slot + step) % 24 for step in range(-_AROUND, _AROUND + 1)]
    return [*near, *(24 + hour for hour in near)] if slot >= 24 else [*near, *([_DAYS + 1] * len(near))]


_WINDOWS = np.array([_window(slot) for slot in range(48)])


def hour_hashes(time: Ints) -> Hashes:
    """Value of the attribute `hours`, its quarter of the day, as a stable hash, uint64 [N]."""
    return _QUARTERS[hour_of_week(time) // 6]


@dataclass(frozen=True, slots=True)
class Week:
    """What the week of N actions' principals said of their hours before them.

    Attributes:
        strange: bool [N].
        days: int64 [N], days on which the principal was active before; 0 for the machinery.
    """

    strange: Flags
    days: Ints

    @classmethod
    def nothing(cls, count: int) -> Week:
        """Of so many actions of which no hour is followed."""
        return cls(np.zeros(count, bool), np.zeros(count, np.int64))


def with_hours(known: PriorCounts, week: Week) -> PriorCounts:
    """Counts of the hashed attributes with a column for `hours`: 0 where the hour is strange, else 1."""
    usual = ~(week.strange & (known.actions >= MATURE))
    none = np.zeros((len(usual), 1), np.int64)
    return PriorCounts(
        np.concatenate([known.own, usual[:, None]], axis=1),
        np.concatenate([known.peers, none], axis=1),
        np.concatenate([known.anyone, none], axis=1),
        known.actions,
    )


def observe_week(
    habits: HabitTable, principal: Hashes, time: Ints, pauses: Ints, followed: Flags
) -> tuple[Week, Callable[[], None]]:
    """Count hours of actions in the order of the log; returns what was known before each, and what undoes the counting.

    Args:
        principal: uint64 [N], stable hashes.
        time: int64 [N], microseconds.
        pauses: int64 [N], microseconds since the previous action of the principal; 0 for its first.
        followed: bool [N], whose hours are counted: people and pipelines.
    """
    week, rows = Week.nothing(len(time)), np.flatnonzero(followed)
    if not len(rows):
        return week, lambda: None
    who, whose = np.unique(principal[rows], return_inverse=True)
    now, before = time[rows], time[rows] - pauses[rows]
    slot, left = hour_of_week(now), hour_of_week(before)
    held = habits.own_counts(who, _LOOKED_UP)
    hour_over, day_over = now // _HOUR != before // _HOUR, now // _DAY != before // _DAY
    around, seen = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    changed = np.zeros(len(who), bool)
    changed[whose[hour_over]] = True
    same = ~changed[whose]
    counts = np.concatenate([held[:, : _DAYS + 1], np.zeros((len(who), 1), np.int64)], axis=1)
    around[same] = np.take_along_axis(counts[whose[same]], _WINDOWS[slot[same]], axis=1).sum(axis=1)
    seen[same] = counts[whose[same], _DAYS]
    for one in np.flatnonzero(changed).tolist():
        mine = np.flatnonzero(whose == one)
        known = np.zeros((len(mine), _DAYS + 2), np.int64)
        over = np.flatnonzero(hour_over[mine])
        known[over, left[mine[over]]] = 1
        known[:, _DAYS] = day_over[mine]
        known = counts[one] + known.cumsum(axis=0)
        around[mine] = np.take_along_axis(known, _WINDOWS[slot[mine]], axis=1).sum(axis=1)
        seen[mine] = known[:, _DAYS]
    granted = held[:, _DAYS + 1 :][whose, slot // 6] > 0
    week.strange[rows] = (around < _USUAL) & (seen >= ENOUGH_DAYS) & ~granted
    week.days[rows] = seen
    names = np.concatenate([principal[rows[hour_over]], principal[rows[day_over]]])
    keys = np.concatenate([_COUNTED[left[hour_over]], np.full(int(day_over.sum()), _COUNTED[_DAYS])])
    return week, habits.count_own(names, keys)
