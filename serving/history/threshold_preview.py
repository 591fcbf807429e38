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
        limits: calibrated thresholds by row.
        versions: of the models in force.
    """

    names: list[str]
    principal: Ints
    time: Ints
    new: Floats
    wrong: Floats
    actions: Floats
    stretches: list[tuple[int, int, tuple[float, ...], tuple[float, ...]]]
    limits: list[tuple[float, ...]]
    versions: list[str]

    def alerts(self, scales: Sequence[float], gap: int) -> list[Alerts]:
        """Alerts at each threshold; actions of a principal at most `gap` apart are one alert."""
        flagged = np.zeros((len(self.time), len(scales)), bool)
        for first, end, horizons, activity in self.stretches:
            rows = slice(first, end)
            who, when, new, wrong = self.principal[rows], self.time[rows], self.new[rows], self.wrong[rows]
            limits = np.array(self.limits[rows])
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
        near = "principal IN (SELECT DISTINCT principal FROM additions WHERE reached >= 0.3 AND time >= ? AND time < ?)"
        span = [warm, until]
        oldest = self._reader.rows(
            f"SELECT time FROM additions WHERE time >= ? AND time < ? AND {near} ORDER BY time DESC LIMIT 1 OFFSET {_MOST}",
            [*span, *span],
        )
        if oldest:
            since = max(since, oldest[0]["time"])
            span[0] = oldest[0]["time"] + 1
            notes.append("There was more than can be looked at in this time: only the latest part of it is.")
        names: dict[str, int] = {}
        judged: list[int] = []
        columns: list[npt.NDArray[np.float64]] = []
        query = (
            "SELECT principals.name AS name, time, judge, person, new, wrong, additions.actions AS done FROM additions "
            f"JOIN principals ON principals.id = principal WHERE time >= ? AND time < ? AND {near} ORDER BY number"
        )
        for part in self._reader.parts(query, [*span, *span]):
            rows = [row for row in part if judges[row["judge"]][1]]
            judged += (2 * row["judge"] + row["person"] for row in rows)
            values = [
                (
                    names.setdefault(row["name"], len(names)),
                    *(row[key] for key in ("time", "new", "wrong", "done")),
                )
                for row in rows
            ]
            # Microseconds since 1970 are exact in a float64.
            columns.append(np.array(values, np.float64).reshape(len(rows), 5).T)
        principal, time, new, wrong, actions = np.concatenate([np.empty((5, 0)), *columns], axis=1)
        return since, Additions(
            names=list(names),
            principal=principal.astype(np.int64),
            time=time.astype(np.int64),
            new=new,
            wrong=wrong,
            actions=actions,
            stretches=list(_stretches([(judges[key // 2][1], judges[key // 2][4]) for key in judged])),
            limits=[judges[key // 2][2 if key % 2 else 3] for key in judged],
            versions=list(dict.fromkeys(judges[key // 2][0] for key in judged)),
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
