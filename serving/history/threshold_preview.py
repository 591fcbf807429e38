"""Previews thresholds: recorded evidence is added up again, exactly as the service does it.

Every action with evidence is recorded, not only those near the threshold: evidence starts over after an alert, and when that
happens depends on the threshold. So the count is that of a service with the other threshold, but for what would have been on
probation then (`detection.probation`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from detection.evidence import replay
from serving.history.queries import HistoryReader
from serving.incidents.context import LINK_REACH
from serving.schemas import ApiModel
from serving.settings import LEAST_SCALE, MOST_SCALE
from serving.storage.tables import as_moment, microseconds

#: Thresholds of the curve, as shares of those calibrated.
SCALES = (
    *(round(0.3 + 0.05 * step, 2) for step in range(15)),
    *(round(1.1 + 0.1 * step, 1) for step in range(10)),
    *(2.5, 3.0, 4.0, 5.0, 7.0, 10.0),
)

#: Most evidence to add up again; with more, the span is shorter, and a note says so.
_MOST = 100_000

#: Share of a threshold from which on an action is near it: who never came near would have raised nothing at any scale.
_NEAR = 0.3

#: Of the query for evidence.
_COLUMNS = 9

#: Times the longest horizon, after which what had added up before no longer matters.
_FADED = 5

_LOUDEST = 10
_DAY_US = 86_400_000_000
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Loud(ApiModel):
    """A principal and what it would have raised."""

    principal: str
    alerts: int
    actions: Annotated[int, Field(description="unusual ones in them")]


class PreviewDay(ApiModel):
    """What one day would have given."""

    day: datetime
    alerts: int
    incidents: int


class Count(ApiModel):
    """What a threshold would have given over the span."""

    scale: Annotated[float, Field(description="of the calibrated thresholds")]
    actions: Annotated[int, Field(description="unusual ones")]
    alerts: int
    incidents: Annotated[
        int,
        Field(
            description="alerts of one principal within 12 hours are one; links between principals are ignored"
        ),
    ]
    alerts_per_day: Annotated[float | None, Field(description="null for less than a day")] = None
    incidents_per_day: float | None = None


class Detail(Count):
    """What a threshold would have given, day by day and for whom."""

    days: list[PreviewDay]
    loudest: list[Loud]


class Preview(ApiModel):
    """What past weeks would have raised with other thresholds. It changes nothing."""

    asked_days: float
    covered_days: Annotated[float, Field(description="days that the history covers")]
    since: datetime
    until: datetime
    least: Annotated[float, Field(description="least scale that can be set and previewed")] = LEAST_SCALE
    most: float = MOST_SCALE
    now: Annotated[Count, Field(description="with the threshold that is in force")]
    wanted: Annotated[Detail | None, Field(description="with the threshold that was asked about")] = None
    per_day: Annotated[float | None, Field(description="alerts a day that were asked for")] = None
    curve: list[Count]
    versions: Annotated[list[str], Field(description="of the models that judged in this time")]
    setting: Annotated[str, Field(description="how to apply it")]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Additions:
    """Actions with evidence, in the order in which they were scored, as columns.

    Attributes:
        names: of principals, by code.
        principal: int64, code.
        time: int64, microseconds since 1970 UTC.
        new, wrong: float64, decades.
        actions: float64, earlier actions of the principal; NaN where they were not recorded.
        stretches: (first row, end, horizons, activity) of rows with the same ones.
        judged: int64, which of `limits` holds for each row.
        limits: calibrated thresholds.
        versions: of the models in force.
    """

    names: list[str]
    principal: Ints
    time: Ints
    new: Floats
    wrong: Floats
    actions: Floats
    stretches: list[tuple[int, int, tuple[float, ...], tuple[float, ...]]]
    judged: Ints
    limits: list[tuple[float, ...]]
    versions: list[str]

    def alerts(self, scales: Sequence[float], gap: int) -> list[Alerts]:
        """Alerts at each threshold; actions of a principal at most `gap` apart are one alert."""
        flagged = np.zeros((len(self.time), len(scales)), bool)
        for first, end, horizons, activity in self.stretches:
            rows = slice(first, end)
            who, when, new, wrong = self.principal[rows], self.time[rows], self.new[rows], self.wrong[rows]
            keys, place = np.unique(self.judged[rows], return_inverse=True)
            limits = np.array([self.limits[key] for key in keys])[place]
            given = who, when, new, wrong, horizons, limits, np.array(scales)
            flagged[rows] = replay(*given, activity, self.actions[rows])
        order = np.lexsort((self.time, self.principal))
        principal, time = self.principal[order], self.time[order]
        made = []
        for hits in flagged[order].T:
            who, when = principal[hits], time[hits]
            begins = _begins(who, when[1:] - when[:-1] > gap)
            ends = np.append(begins[1:], len(when)) - 1 if len(begins) else begins
            made.append(Alerts(who[begins], when[begins], when[ends], ends - begins + 1))
        return made


@dataclass(frozen=True, slots=True)
class Alerts:
    """Alerts that would have been raised, by principal and time, as columns; times in microseconds since 1970 UTC."""

    principal: Ints
    first: Ints
    last: Ints
    actions: Ints

    def __len__(self) -> int:
        return len(self.first)

    def since(self, moment: int) -> Alerts:
        """Those that began then or later."""
        kept = self.first >= moment
        return Alerts(self.principal[kept], self.first[kept], self.last[kept], self.actions[kept])

    def incidents(self) -> Ints:
        """Begins of incidents: an alert within 12 hours after another of its principal belongs to the same one."""
        return self.first[_begins(self.principal, self.first[1:] - self.last[:-1] > LINK_REACH)]


def _begins(who: Ints, apart: npt.NDArray[np.bool_]) -> Ints:
    """Places where another principal begins, or the same one too long after."""
    if not len(who):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], (who[1:] != who[:-1]) | apart]))


class Previewer:
    """Previews thresholds.

    Args:
        gap_minutes: flagged actions of one principal at most this far apart are one alert.
        scale: of the threshold in force.
    """

    def __init__(self, reader: HistoryReader, *, gap_minutes: float, scale: float) -> None:
        self._reader = reader
        self._gap = round(gap_minutes * 60e6)
        self._scale = scale

    def preview(
        self, days: float = 7, *, scale: float | None = None, per_day: float | None = None
    ) -> Preview | None:
        """What the last days would have raised; None before anything was scored.

        Args:
            days: how far to look back from the newest event.
            scale: a threshold to detail.
            per_day: alerts a day; the least threshold that gives no more is detailed.
        """
        newest, began = self._reader.newest(), self._reader.began()
        if newest is None or began is None:
            return None
        until = microseconds(newest)
        since = max(until - round(days * _DAY_US), microseconds(began))
        notes = [
            "All alerts count, also those that were right. Nothing is changed by looking.",
            "Incidents are counted by principal; links between principals would join some of them.",
        ]
        since, additions = self._additions(since, until, notes)
        covered = (until - since) / _DAY_US
        if covered < days - 1 / 24:
            number, unit = (
                (round(covered, 1), "day") if covered >= 1 else (max(round(24 * covered), 1), "hour")
            )
            notes.append(f"Only {number:g} {unit}{'' if number == 1 else 's'} of history so far.")
        if len(additions.versions) > 1:
            notes.append(
                f"Versions {', '.join(additions.versions)} of the model judged in this time; each counts with its own thresholds."
            )
        asked = list(dict.fromkeys([*SCALES, self._scale, *([] if scale is None else [scale])]))
        found = additions.alerts(asked, self._gap)
        alerts = {at: one.since(since) for at, one in zip(asked, found, strict=True)}
        curve = [_count(at, alerts[at], covered) for at in SCALES]
        chosen = scale
        if per_day is not None and covered < 1:
            # An hour says nothing about a day.
            notes.append("Alerts a day need at least a day of history: no threshold is recommended yet.")
        elif per_day is not None:
            enough = (one.scale for one in curve if one.alerts <= per_day * covered)
            chosen = next(enough, SCALES[-1])
            if chosen == SCALES[0]:
                notes.append("Even the least threshold would have kept to so many alerts a day.")
        wanted = None if chosen is None else _detail(chosen, alerts[chosen], additions.names, covered)
        return Preview(
            asked_days=days,
            covered_days=round(covered, 4),
            since=as_moment(since),
            until=newest,
            now=_count(self._scale, alerts[self._scale], covered),
            wanted=wanted,
            per_day=per_day,
            curve=curve,
            versions=additions.versions,
            setting=_setting(chosen if chosen is not None else self._scale),
            notes=notes,
        )

    def _additions(self, since: int, until: int, notes: list[str]) -> tuple[int, Additions]:
        """Evidence from a moment on, or from later if that is too much, with what may still have counted then."""
        parts = ("horizons", "person", "system", "activity")
        judges = {
            row["id"]: (row["version"], *(tuple(json.loads(row[part])) for part in parts))
            for row in self._reader.rows("SELECT * FROM judges")
        }
        longest = max((max(judge[1], default=0) for judge in judges.values()), default=0)
        warm = since - max(round(_FADED * longest * 1e6), LINK_REACH)
        span = [warm, until]
        near = f"SELECT principal FROM additions WHERE reached >= {_NEAR} AND time >= ? AND time < ?"
        query = (
            "SELECT number, principal, time, judge, person, new, wrong, reached, actions FROM additions "
            f"WHERE time >= ? AND time < ? AND +principal IN ({near}) ORDER BY time DESC LIMIT {_MOST + 1}"
        )
        # By time, not by principal (the plus): most of them are wanted. Numbers and microseconds are exact in a float64.
        read = [
            np.array([tuple(row) for row in part], np.float64)
            for part in self._reader.parts(query, [*span, *span])
        ]
        rows = np.concatenate([np.empty((0, _COLUMNS)), *read])
        if len(rows) > _MOST:
            oldest = int(rows[_MOST, 2])
            since = max(since, oldest)
            rows = rows[rows[:, 2] > oldest]
            rows = rows[np.isin(rows[:, 1], rows[rows[:, 7] >= _NEAR, 1])]
            notes.append("There was more than can be looked at in this time: only the latest part of it is.")
        usable = [number for number, judge in judges.items() if judge[1]]
        rows = rows[np.isin(rows[:, 3], usable)]
        rows = rows[np.argsort(rows[:, 0])]
        ids, principal = np.unique(rows[:, 1].astype(np.int64), return_inverse=True)
        query = f"SELECT id, name FROM principals WHERE id IN ({near})"
        names = {row["id"]: row["name"] for row in self._reader.rows(query, span)}
        judge, person = rows[:, 3].astype(np.int64), rows[:, 4].astype(np.int64)
        _, first = np.unique(judge, return_index=True)
        limits: list[tuple[float, ...]] = [()] * (2 * max(judges, default=0) + 2)
        for number, (_, _, of_person, of_system, _) in judges.items():
            limits[2 * number], limits[2 * number + 1] = of_system, of_person
        return since, Additions(
            names=[names[one] for one in ids.tolist()],
            principal=principal.astype(np.int64),
            time=rows[:, 2].astype(np.int64),
            new=rows[:, 5],
            wrong=rows[:, 6],
            actions=rows[:, 8],
            stretches=list(_stretches([(judges[key][1], judges[key][4]) for key in judge.tolist()])),
            judged=2 * judge + person,
            limits=limits,
            versions=list(dict.fromkeys(judges[one][0] for one in judge[np.sort(first)].tolist())),
        )


def _stretches(
    terms: Sequence[tuple[tuple[float, ...], tuple[float, ...]]],
) -> Iterator[tuple[int, int, tuple[float, ...], tuple[float, ...]]]:
    end = 0
    for value, rows in groupby(terms):
        begin, end = end, end + sum(1 for _ in rows)
        yield begin, end, *value


def _count(scale: float, alerts: Alerts, covered: float) -> Count:
    incidents = len(alerts.incidents())
    whole = covered >= 1
    return Count(
        scale=scale,
        actions=int(alerts.actions.sum()),
        alerts=len(alerts),
        incidents=incidents,
        alerts_per_day=round(len(alerts) / covered, 3) if whole else None,
        incidents_per_day=round(incidents / covered, 3) if whole else None,
    )


def _detail(scale: float, alerts: Alerts, names: Sequence[str], covered: float) -> Detail:
    by_day = Counter((alerts.first // _DAY_US).tolist())
    starts = Counter((alerts.incidents() // _DAY_US).tolist())
    raised = Counter(alerts.principal.tolist())
    actions: Counter[int] = Counter()
    for code, number in zip(alerts.principal.tolist(), alerts.actions.tolist(), strict=True):
        actions[code] += number
    loudest = sorted(raised, key=lambda code: (-raised[code], -actions[code], names[code]))[:_LOUDEST]
    days = [
        PreviewDay(day=as_moment(day * _DAY_US), alerts=by_day[day], incidents=starts[day])
        for day in sorted(by_day)
    ]
    loud = [Loud(principal=names[code], alerts=raised[code], actions=actions[code]) for code in loudest]
    return Detail(**_count(scale, alerts, covered).model_dump(), days=days, loudest=loud)


def _setting(scale: float) -> str:
    return (
        f"Set alerts.threshold_scale: {scale:g} in serve.yaml (or KUBEHABIT_ALERTS__THRESHOLD_SCALE={scale:g}) and restart "
        "the service."
    )
