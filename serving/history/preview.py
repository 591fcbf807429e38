"""What other thresholds would have given: the actions that added up to anything are added up anew, as the service does it.

Every such action is kept, not only those near the threshold: what adds up begins anew once it was told, and when it is told
depends on the threshold. So the count is that of a service with the other threshold, not an estimate.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from data.evidence import Accumulator
from serving.alerts import Model
from serving.history.read import HistoryReader
from serving.settings import LEAST_SCALE, MOST_SCALE
from serving.surroundings import TIE_REACH

SCALES = (
    *(round(0.3 + 0.05 * step, 2) for step in range(15)),
    *(round(1.1 + 0.1 * step, 1) for step in range(10)),
    *(2.5, 3.0, 4.0, 5.0, 7.0, 10.0),
)
"""Thresholds of the curve, as shares of those calibrated."""

_MOST = 100_000
"""Additions of principals that came near that are looked at; with more, the span is shorter, and is told."""

_FADED = 5
"""Times the longest horizon, after which what had added up before no longer matters."""

_LOUDEST = 10
_DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
Floats = npt.NDArray[np.float64]


class Loud(Model):
    """A principal and what it would have raised."""

    principal: str
    alerts: int
    actions: Annotated[int, Field(description="unusual ones in them")]


class PreviewDay(Model):
    """What one day would have given."""

    day: datetime
    alerts: int
    incidents: int


class Count(Model):
    """What a threshold would have given over the span."""

    scale: Annotated[float, Field(description="of the calibrated thresholds")]
    actions: Annotated[int, Field(description="unusual ones")]
    alerts: int
    incidents: Annotated[
        int,
        Field(
            description="alerts of one principal within 12 hours are one; ties between principals are not looked at"
        ),
    ]
    alerts_per_day: Annotated[float | None, Field(description="null for less than a day")] = None
    incidents_per_day: float | None = None


class Detail(Count):
    """What a threshold would have given, day by day and for whom."""

    days: list[PreviewDay]
    loudest: list[Loud]


class Preview(Model):
    """What past weeks would have given with other thresholds. It changes nothing."""

    asked_days: float
    covered_days: Annotated[float, Field(description="for which the history has what it takes")]
    since: datetime
    until: datetime
    least: Annotated[float, Field(description="least scale that can be set and previewed")] = LEAST_SCALE
    most: float = MOST_SCALE
    now: Annotated[Count, Field(description="with the threshold that is in force")]
    wanted: Annotated[Detail | None, Field(description="with the threshold that was asked about")] = None
    per_day: Annotated[float | None, Field(description="alerts a day that were asked for")] = None
    curve: list[Count]
    versions: Annotated[list[str], Field(description="of the model, that judged in this time")]
    setting: Annotated[str, Field(description="how to put it into force")]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Alerted:
    """What would have been one alert; times in microseconds since 1970 UTC."""

    principal: str
    first: int
    last: int
    actions: int


@dataclass(frozen=True, slots=True)
class Additions:
    """Actions that added up to anything, in the order in which they were scored, as columns.

    Attributes:
        principal: names.
        time: int64, microseconds since 1970 UTC.
        new, wrong: float64, decades.
        reached: float64, share of the calibrated threshold that was reached.
        scale: float64, of the threshold that was in force.
        stretches: spans of rows over which the horizons stayed the same: first row, end, horizons.
        limits: calibrated thresholds of each row, float64 [horizons], by row.
        versions: of the models that judged.
    """

    principal: list[str]
    time: npt.NDArray[np.int64]
    new: Floats
    wrong: Floats
    reached: Floats
    scale: Floats
    stretches: list[tuple[int, int, tuple[float, ...]]]
    limits: list[tuple[float, ...]]
    versions: list[str]

    def flagged(self, scale: float) -> npt.NDArray[np.int64]:
        """Rows that a service with a threshold would have flagged.

        Up to the first row at which either threshold is reached, this one or the one in force, both services are the same; so
        whoever reached neither is left out.
        """
        close = self.reached >= np.minimum(scale, self.scale) - 1e-6
        names = {self.principal[row] for row in np.flatnonzero(close).tolist()}
        rows = np.array([row for row, name in enumerate(self.principal) if name in names], np.int64)
        hits = []
        for first, end, horizons in self.stretches:
            mine = rows[(rows >= first) & (rows < end)]
            if not len(mine):
                continue
            limits = scale * np.array([self.limits[row] for row in mine.tolist()])
            sums = Accumulator(horizons).add(
                [self.principal[row] for row in mine.tolist()],
                self.time[mine],
                self.new[mine],
                self.wrong[mine],
                limits,
            )
            hits.append(mine[(sums >= limits).any(axis=1)])
        return np.concatenate(hits) if hits else np.empty(0, np.int64)

    def alerts(self, scale: float, gap: int) -> list[Alerted]:
        """What would have been alerts, in the order of their beginning: actions of a principal at most `gap` apart are one."""
        of: dict[str, list[int]] = {}
        for row in self.flagged(scale).tolist():
            of.setdefault(self.principal[row], []).append(int(self.time[row]))
        made = []
        for principal, times in of.items():
            times.sort()
            begin = 0
            for place in range(1, len(times) + 1):
                if place == len(times) or times[place] - times[place - 1] > gap:
                    made.append(Alerted(principal, times[begin], times[place - 1], place - begin))
                    begin = place
        return sorted(made, key=lambda alert: alert.first)


def incident_starts(alerts: Sequence[Alerted]) -> list[int]:
    """When incidents would have begun: an alert within 12 hours after another of the same principal belongs to its incident.

    Args:
        alerts: in the order of their beginning.
    """
    ended: dict[str, int] = {}
    starts = []
    for alert in alerts:
        before = ended.get(alert.principal)
        if before is None or alert.first - before > TIE_REACH:
            starts.append(alert.first)
        ended[alert.principal] = alert.last if before is None else max(before, alert.last)
    return starts


class Previewer:
    """Answers what other thresholds would have given.

    Args:
        reader: of the history.
        gap_minutes: unusual actions of one principal at most this far apart are one alert.
        scale: of the threshold in force.
    """

    def __init__(self, reader: HistoryReader, *, gap_minutes: float, scale: float) -> None:
        self._reader = reader
        self._gap = round(gap_minutes * 60e6)
        self._scale = scale

    def preview(
        self, days: float = 7, *, scale: float | None = None, per_day: float | None = None
    ) -> Preview | None:
        """What the last so many days would have given.

        Args:
            days: how far to look back from the newest event.
            scale: threshold to tell about in detail.
            per_day: alerts a day; the least threshold that gives no more is told about in detail.

        Returns:
            None before anything was scored.
        """
        newest, began = self._reader.newest(), self._reader.began()
        if newest is None or began is None:
            return None
        until = (newest - _EPOCH) // _MICROSECOND
        since = max(until - round(days * _DAY_US), (began - _EPOCH) // _MICROSECOND)
        notes = [
            "All alerts count, also those that were right. Nothing is changed by looking.",
            "Incidents are counted by principal; ties between principals would bring some of them together.",
        ]
        since, additions = self._additions(since, until, notes)
        covered = (until - since) / _DAY_US
        if covered < days - 1 / 24:
            notes.append(f"The history covers {covered:.1f} of the {days:g} days asked for.")
        if len(additions.versions) > 1:
            notes.append(
                f"Versions {', '.join(additions.versions)} of the model judged in this time; each counts with its own thresholds."
            )
        alerts = {at: self._since(additions.alerts(at, self._gap), since) for at in {*SCALES, self._scale}}
        curve = [_count(at, alerts[at], covered) for at in SCALES]
        chosen = scale
        if per_day is not None:
            enough = (one.scale for one in curve if one.alerts <= per_day * max(covered, 1e-9))
            chosen = next(enough, SCALES[-1])
            if chosen == SCALES[0]:
                notes.append("Even the least threshold would have kept to so many alerts a day.")
            if covered < 1:
                notes.append(
                    "With less than a day, alerts a day are told from what there is, and mean little."
                )
        wanted = None
        if chosen is not None:
            if chosen not in alerts:
                alerts[chosen] = self._since(additions.alerts(chosen, self._gap), since)
            wanted = _detail(chosen, alerts[chosen], covered)
        return Preview(
            asked_days=days,
            covered_days=round(covered, 4),
            since=_EPOCH + since * _MICROSECOND,
            until=newest,
            now=_count(self._scale, alerts[self._scale], covered),
            wanted=wanted,
            per_day=per_day,
            curve=curve,
            versions=additions.versions,
            setting=_setting(chosen if chosen is not None else self._scale),
            notes=notes,
        )

    @staticmethod
    def _since(alerts: list[Alerted], since: int) -> list[Alerted]:
        return [alert for alert in alerts if alert.first >= since]

    def _additions(self, since: int, until: int, notes: list[str]) -> tuple[int, Additions]:
        """What there is from a moment on, or later if that is too much; with what may still have mattered then."""
        judges = {
            row["id"]: (
                row["version"],
                *(tuple(json.loads(row[part])) for part in ("horizons", "person", "system")),
                row["scale"],
            )
            for row in self._reader.rows("SELECT * FROM judges")
        }
        longest = max((max(judge[1], default=0) for judge in judges.values()), default=0)
        warm = since - max(round(_FADED * longest * 1e6), TIE_REACH)
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
        rows = self._reader.rows(
            "SELECT principals.name AS name, time, judge, person, new, wrong, reached FROM additions "
            f"JOIN principals ON principals.id = principal WHERE time >= ? AND time < ? AND {near} ORDER BY number",
            [*span, *span],
        )
        rows = [row for row in rows if judges[row["judge"]][1]]
        stretches = list(_stretches([judges[row["judge"]][1] for row in rows]))
        return since, Additions(
            principal=[row["name"] for row in rows],
            time=np.array([row["time"] for row in rows], np.int64),
            new=np.array([row["new"] for row in rows], np.float64),
            wrong=np.array([row["wrong"] for row in rows], np.float64),
            reached=np.array([row["reached"] for row in rows], np.float64),
            scale=np.array([judges[row["judge"]][4] for row in rows], np.float64),
            stretches=stretches,
            limits=[judges[row["judge"]][2 if row["person"] else 3] for row in rows],
            versions=list(dict.fromkeys(judges[row["judge"]][0] for row in rows)),
        )


def _stretches(horizons: Sequence[tuple[float, ...]]) -> Iterator[tuple[int, int, tuple[float, ...]]]:
    begin = 0
    for row in range(1, len(horizons) + 1):
        if row == len(horizons) or horizons[row] != horizons[begin]:
            yield begin, row, horizons[begin]
            begin = row


def _count(scale: float, alerts: Sequence[Alerted], covered: float) -> Count:
    incidents = len(incident_starts(alerts))
    whole = covered >= 1
    return Count(
        scale=scale,
        actions=sum(alert.actions for alert in alerts),
        alerts=len(alerts),
        incidents=incidents,
        alerts_per_day=round(len(alerts) / covered, 3) if whole else None,
        incidents_per_day=round(incidents / covered, 3) if whole else None,
    )


def _detail(scale: float, alerts: Sequence[Alerted], covered: float) -> Detail:
    by_day: Counter[int] = Counter(alert.first // _DAY_US for alert in alerts)
    starts: Counter[int] = Counter(start // _DAY_US for start in incident_starts(alerts))
    raised: Counter[str] = Counter(alert.principal for alert in alerts)
    actions: Counter[str] = Counter()
    for alert in alerts:
        actions[alert.principal] += alert.actions
    loudest = sorted(raised, key=lambda name: (-raised[name], -actions[name], name))[:_LOUDEST]
    return Detail(
        **_count(scale, alerts, covered).model_dump(),
        days=[
            PreviewDay(day=_EPOCH + day * _DAY_US * _MICROSECOND, alerts=by_day[day], incidents=starts[day])
            for day in sorted(by_day)
        ],
        loudest=[Loud(principal=name, alerts=raised[name], actions=actions[name]) for name in loudest],
    )


def _setting(scale: float) -> str:
    return (
        f"Set alerts.threshold_scale: {scale:g} in serve.yaml (or KUBEHABIT_ALERTS__THRESHOLD_SCALE={scale:g}) and restart "
        "the service."
    )
