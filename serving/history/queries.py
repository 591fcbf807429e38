"""Queries of the history: principals, how near each came to its threshold over time, and drift of the cluster."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from detection.fit import ENOUGH, USUAL, FitTotals, FitVerdict, judge_fit
from detection.novelty import MATURE
from detection.version_records import DriftRecord
from serving.history.schema import BINS, DAY, EDGES, EXPECTED, HOUR, HistoryError, connect
from serving.schemas import ApiModel, clean
from serving.storage.tables import as_moment, microseconds

Order = Literal["last", "name", "nearest"]
DriftVerdict = FitVerdict
_NEAREST_DAYS = 7
_MOST_PEERS = 50
_PART = 5000
_SUMMED_BINS = ", ".join(f"sum(b{number}) AS b{number}" for number in range(BINS))


class PrincipalRow(ApiModel):
    """One principal in a listing."""

    principal: str
    kind: str
    peer_group: str
    last_seen: Annotated[datetime | None, Field(description="in training if not since")] = None
    actions: Annotated[int, Field(description="since the history began")] = 0
    flagged: Annotated[int, Field(description="unusual ones among them")] = 0
    nearest: Annotated[
        float | None,
        Field(
            description="greatest share of its threshold that an action reached in the last 7 days; 1 is an alert"
        ),
    ] = None


class PrincipalPage(ApiModel):
    """One page of principals."""

    principals: list[PrincipalRow]
    total: Annotated[int, Field(description="matching principals on all pages")]
    cursor: str | None = None


class Moment(ApiModel):
    """One hour, or one day, of a principal."""

    at: Annotated[datetime, Field(description="when it began")]
    actions: int
    flagged: int
    nearest: Annotated[
        float,
        Field(description="greatest share of its threshold that an action reached; from 1 on it was flagged"),
    ]
    typical: Annotated[
        float,
        Field(
            description="median surprise, as a share of what one in twenty of its actions reached in calibration"
        ),
    ]


class Surprise(ApiModel):
    """How near a principal came to its threshold over time. Hours and days without actions are left out."""

    principal: str
    kind: str
    peer_group: str
    began: Annotated[datetime | None, Field(description="how far back the history goes")] = None
    hours: Annotated[list[Moment], Field(description="the last eight days")] = []
    days: list[Moment] = []


class Beyond(ApiModel):
    """Share of actions more surprising than a mark set by calibration."""

    one_in: Annotated[int, Field(description="of so many actions one was expected beyond it")]
    expected: float
    seen: float


class DriftComparison(ApiModel):
    """A recent log compared with the model by `kubehabit drift`, which looks at each principal by itself."""

    time: datetime
    log: str
    actions: int
    retrain: Annotated[bool, Field(description="whether its advice was to train again")]
    surprising: Annotated[float, Field(description="share beyond what one in twenty reached in calibration")]
    unknown: Annotated[
        float, Field(description="share of actions with a verb or resource that training never saw")
    ]
    reasons: Annotated[list[str], Field(description="why to train again")]

    @classmethod
    def from_record(cls, record: DriftRecord) -> DriftComparison:
        """What the registry keeps of a comparison."""
        return cls(
            time=record.time,
            log=record.log,
            actions=record.actions,
            retrain=record.retrain,
            surprising=record.surprising,
            unknown=record.unknown,
            reasons=list(record.reasons),
        )


class DriftDay(ApiModel):
    """One day of the whole cluster."""

    day: datetime
    actions: int
    flagged: int
    unknown: Annotated[
        float, Field(description="share of actions with a verb or resource that training never saw")
    ]
    surprising: Annotated[float, Field(description="share beyond what one in twenty reached in calibration")]


class Drift(ApiModel):
    """Whether the cluster still does what the model was calibrated on, as far as the service can tell."""

    since: datetime
    actions: int
    unknown: float
    beyond: list[Beyond]
    verdict: DriftVerdict
    sentence: str
    days: list[DriftDay]
    compared: Annotated[
        DriftComparison | None,
        Field(description="the last log that was compared with this version by `kubehabit drift`"),
    ] = None


class HistoryReadiness(ApiModel):
    """How much of what happens is done by principals whose habits are known."""

    share: Annotated[
        float | None,
        Field(description="of the actions: by principals of the training, or with enough actions since"),
    ]
    actions: int
    principals: Annotated[int, Field(description="that acted in this time")]
    ready: Annotated[int, Field(description="principals with habits among them")]
    enough: Annotated[int, Field(description="actions from which on a new principal has habits of its own")]


class JudgingVersion(ApiModel):
    """A version of the model and what it judged, as far as the history goes."""

    version: str
    first: Annotated[datetime, Field(description="time of the first action with evidence that it judged")]
    last: datetime
    actions: Annotated[int, Field(description="actions with evidence")]
    flagged: Annotated[int, Field(description="those that reached the threshold in force then")]


class HistoryReader:
    """Reads the history of a service that runs, ran, or was copied.

    Args:
        path: its file.

    Raises:
        HistoryError: there is none, or it cannot be read; all methods raise it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reading():
            pass

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        file = connect(self._path, to_write=False)
        try:
            yield file
        except sqlite3.Error as error:
            raise HistoryError(f"The history in {self._path} cannot be read: {error}.") from error
        finally:
            file.close()

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of a query; its text must not come from outside."""
        with self._reading() as file:
            return file.execute(query, values).fetchall()

    def parts(self, query: str, values: Sequence[Any] = ()) -> Iterator[list[sqlite3.Row]]:
        """As `rows`, in parts, for large results."""
        with self._reading() as file:
            cursor = file.execute(query, values)
            while part := cursor.fetchmany(_PART):
                yield part

    def newest(self) -> datetime | None:
        """End of the newest hour with actions, or now if that is earlier."""
        hour = self.rows("SELECT max(hour) AS hour FROM totals")[0]["hour"]
        return None if hour is None else min(as_moment((hour + 1) * HOUR), datetime.now(UTC))

    def began(self) -> datetime | None:
        """Begin of the history."""
        day = self.rows("SELECT min(hour) AS hour FROM totals")[0]["hour"]
        return None if day is None else as_moment(day * HOUR)

    def principals(
        self,
        *,
        search: str = "",
        kind: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: Order = "last",
        limit: int = 50,
        cursor: str | None = None,
    ) -> PrincipalPage:
        """List principals that training knew or that have acted since.

        Args:
            search: part of the name or of the peer group.
            since, until: only those whose last action was at or after the first, and before the second.
            order: by last action, by name, or by how near they came to their threshold in the last 7 days.
            cursor: that of the page before.
        """
        begin = int(cursor) if cursor and cursor.isdecimal() and len(cursor) < 10 else 0
        pattern = "%" + "".join(f"\\{sign}" if sign in "\\%_" else sign for sign in search) + "%"
        where = (
            "(name LIKE ? ESCAPE '\\' OR peers LIKE ? ESCAPE '\\') AND coalesce(kind = ?, true) "
            "AND coalesce(last >= ?, ? IS NULL) AND coalesce(last < ?, ? IS NULL)"
        )
        begin_us, end_us = (None if one is None else microseconds(one) for one in (since, until))
        values = [pattern, pattern, kind, begin_us, begin_us, end_us, end_us]
        newest = self.newest()
        near_since = 0 if newest is None else _hour(newest) // DAY - _NEAREST_DAYS
        nearest = "(SELECT max(nearest) FROM days WHERE days.principal = principals.id AND day > ?)"
        orders = {
            "last": "last DESC, id",  # those that never acted are last
            "name": "name",
            "nearest": "nearest IS NULL, nearest DESC, name",
        }
        total = self.rows(f"SELECT count(*) AS total FROM principals WHERE {where}", values)[0]["total"]
        found = self.rows(
            f"SELECT name, kind, peers, last, actions, flagged, {nearest} AS nearest FROM principals WHERE {where} "
            f"ORDER BY {orders[order]} LIMIT ? OFFSET ?",
            [near_since, *values, limit, begin],
        )
        rows = [
            PrincipalRow(
                principal=row["name"],
                kind=row["kind"],
                peer_group=row["peers"],
                last_seen=None if row["last"] is None else as_moment(row["last"]),
                actions=row["actions"],
                flagged=row["flagged"],
                nearest=None if row["nearest"] is None else round(row["nearest"], 4),
            )
            for row in found
        ]
        more = str(begin + limit) if begin + limit < total else None
        return PrincipalPage(principals=rows, total=total, cursor=more)

    def surprise(self, principal: str) -> Surprise | None:
        """How near a principal came to its threshold, by hour and day; None if it is unknown."""
        found = self.rows("SELECT id, name, kind, peers FROM principals WHERE name = ?", [clean(principal)])
        if not found:
            return None
        row = found[0]
        series = {}
        for table, hours in (("hours", 1), ("days", DAY)):
            query = f"SELECT *, {table[:-1]} AS at FROM {table} WHERE principal = ? ORDER BY at"
            series[table] = [_moment_from_row(one, hours) for one in self.rows(query, [row["id"]])]
        return Surprise(
            principal=row["name"], kind=row["kind"], peer_group=row["peers"], began=self.began(), **series
        )

    def peers(self, principal: str) -> list[str]:
        """At most fifty others of the same peer group, those that acted last first."""
        found = self.rows(
            "SELECT other.name FROM principals AS mine JOIN principals AS other ON other.peers = mine.peers "
            "WHERE mine.name = ? AND other.id <> mine.id ORDER BY other.last IS NULL, other.last DESC, other.name LIMIT ?",
            [clean(principal), _MOST_PEERS],
        )
        return [row["name"] for row in found]

    def readiness(self, days: float = 7) -> HistoryReadiness | None:
        """How many of the last days' actions are of principals with habits; None before anything was scored."""
        newest = self.newest()
        if newest is None:
            return None
        since = _hour(newest) // DAY - round(days)
        row = self.rows(
            "SELECT sum(days.actions) AS actions, sum(CASE WHEN trained OR principals.actions >= ? THEN days.actions END) "
            "AS known, count(DISTINCT principal) AS principals, "
            "count(DISTINCT CASE WHEN trained OR principals.actions >= ? THEN principal END) AS ready "
            "FROM days JOIN principals ON principals.id = days.principal WHERE day > ?",
            [MATURE, MATURE, since],
        )[0]
        actions = row["actions"] or 0
        return HistoryReadiness(
            share=(row["known"] or 0) / actions if actions else None,
            actions=actions,
            principals=row["principals"],
            ready=row["ready"],
            enough=MATURE,
        )

    def versions(self, days: float = 28) -> list[JudgingVersion]:
        """The versions that judged in the last days, in the order in which they took over; empty before anything was."""
        newest = self.newest()
        if newest is None:
            return []
        found = self.rows(
            "SELECT version, min(time) AS first, max(time) AS last, count(*) AS actions, sum(reached >= scale) AS flagged "
            "FROM additions JOIN judges ON judges.id = judge WHERE time >= ? GROUP BY version ORDER BY first",
            [microseconds(newest - timedelta(days=days))],
        )
        return [
            JudgingVersion(
                version=row["version"],
                first=as_moment(row["first"]),
                last=as_moment(row["last"]),
                actions=row["actions"],
                flagged=row["flagged"] or 0,
            )
            for row in found
        ]

    def drift(self, days: float = 7, compared: DriftComparison | None = None) -> Drift | None:
        """Drift over the last days; None before anything was scored.

        Args:
            days: how far to look back.
            compared: the last log that was compared with the version; its advice to train again holds here too.
        """
        newest = self.newest()
        if newest is None:
            return None
        since = newest - timedelta(days=days)
        found = self.rows(
            f"SELECT hour / {DAY} AS day, sum(actions) AS actions, sum(flagged) AS flagged, sum(unknown) AS unknown, "
            f"{_SUMMED_BINS} FROM totals WHERE hour >= ? GROUP BY hour / {DAY} ORDER BY day",
            [_hour(since)],
        )
        actions = sum(row["actions"] for row in found)
        bins = [sum(row[f"b{number}"] for row in found) for number in range(BINS)]
        unknown = sum(row["unknown"] for row in found) / max(actions, 1)
        beyond = [
            Beyond(one_in=round(1 / share), expected=share, seen=sum(bins[-at:]) / max(actions, 1))
            for share, at in zip(EXPECTED, range(len(EXPECTED), 0, -1), strict=True)
        ]
        totals = FitTotals(actions, beyond[0].seen, unknown)
        verdict, reasons = judge_fit(totals, compared is not None and compared.retrain)
        by_day = [
            DriftDay(
                day=as_moment(row["day"] * DAY * HOUR),
                actions=row["actions"],
                flagged=row["flagged"],
                unknown=row["unknown"] / max(row["actions"], 1),
                surprising=sum(row[f"b{at}"] for at in range(BINS - len(EXPECTED), BINS))
                / max(row["actions"], 1),
            )
            for row in found
        ]
        return Drift(
            since=since,
            actions=actions,
            unknown=unknown,
            beyond=beyond,
            verdict=verdict,
            sentence=_in_words(totals, verdict, reasons, compared),
            days=by_day,
            compared=compared,
        )


def _in_words(
    totals: FitTotals, verdict: FitVerdict, reasons: list[str], compared: DriftComparison | None
) -> str:
    if verdict == "changed" and compared is not None and not reasons:
        return (
            f"All actions together are not conspicuous, but kubehabit drift compared {compared.log} on "
            f"{compared.time:%Y-%m-%d} and said to train again: {' '.join(compared.reasons)}"
        )
    if verdict == "too few":
        return f"Too few actions ({totals.actions:,}) to say anything about drift; it takes {ENOUGH:,}."
    if verdict == "steady":
        return (
            "All actions together are as surprising as in calibration: there is no reason to train again. The command "
            "kubehabit drift compares a log principal by principal."
        )
    return (
        f"The cluster has changed: {' and '.join(reasons)}. Look through the incidents first, because an "
        "attack looks the same; then train again (kubehabit drift says for whom)."
    )


def _moment_from_row(row: sqlite3.Row, hours: int) -> Moment:
    return Moment(
        at=as_moment(row["at"] * hours * HOUR),
        actions=row["actions"],
        flagged=row["flagged"],
        nearest=round(row["nearest"], 4),
        typical=round(median([row[f"b{number}"] for number in range(BINS)]) / USUAL, 4),
    )


def median(counts: Sequence[int]) -> float:
    """Median of values of which only counts per bin are known, taken as evenly spread within each bin, decades."""
    middle, before = sum(counts) / 2, 0
    # The last bin has no upper edge: its actions count as at the lower one.
    bounds = (0.0, *EDGES, EDGES[-1])
    for number, count in enumerate(counts):
        if count and before + count >= middle:
            return bounds[number] + (bounds[number + 1] - bounds[number]) * (middle - before) / count
        before += count
    return 0.0


def _hour(moment: datetime) -> int:
    return microseconds(moment) // HOUR
