"""The outbox: which sink is due to get which alert; written in the same transaction as the alert.

There is one entry for each sink and alert. The alert is sent as it is now, so an alert that grows while a receiver is down
waits once, not once for each change.

Several processes may work off the outbox of one database. Each claims an entry first, in a transaction of its own, for as long
as sending can take: a lock held while a receiver is slow would block the writers of the alert.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.schemas import SEVERITIES, Alert
from serving.sinks.base import SinkSettings, Update
from serving.storage.database import AlertStore, Writer, read_alert
from serving.storage.tables import ALERTS, DELIVERIES, QUERY_IDS, microseconds

#: How long a claim lasts beyond twice the receiver's time-out (to connect, to answer): time to note the result.
_CLAIM_SECONDS = 20

#: Microseconds by which the clocks of processes that share an outbox may differ.
_SLACK = 60_000_000


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An entry of the outbox that is to be sent."""

    position: int
    number: int
    update: Update


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Outbox:
    """Entries of all sinks; `claimer` is unique among the processes that work off the same outbox.

    `cluster` is the name of the one that the alerts are of, where there are several.
    """

    def __init__(
        self, store: AlertStore, sinks: Sequence[SinkSettings], claimer: str = "", cluster: str = ""
    ) -> None:
        self._store = store
        self._sinks = tuple(sinks)
        self._cluster = cluster
        self._me = claimer or uuid.uuid4().hex

    def note(self, writer: Writer, number: int, alert: Alert) -> None:
        """Queue an alert that was raised or has grown, for every sink whose filter it passes. Part of the writer's transaction.

        It is due at once if the sink has not got it yet or got it as less severe; else `repeat_minutes` after it was sent last.
        """
        moment = now()
        for sink in self._sinks:
            if sink.filter.passes(alert):
                _queue(writer.connection, sink, number, alert, moment)

    def next(self, sink: SinkSettings) -> OutboxEntry | None:
        """Claim the entry that has been due longest, if there is one that nobody else is sending.

        The claim ends with `done` or `release`, or by itself once sending must have failed or its process has died.
        """
        moment = now()
        at = microseconds(moment)
        claim = round(1e6 * (2 * sink.timeout_seconds + _CLAIM_SECONDS))
        # What is further ahead than it can ever be was noted by a clock that was wrong: it must not wait until that time.
        latest = at + round(60e6 * sink.repeat_minutes) + _SLACK
        due = (
            sa.select(DELIVERIES)
            .where(
                DELIVERIES.c.sink == sink.name,
                sa.or_(DELIVERIES.c.due <= at, DELIVERIES.c.due > latest),
                sa.or_(
                    DELIVERIES.c.claimed_until.is_(None),
                    DELIVERIES.c.claimed_until <= at,
                    DELIVERIES.c.claimed_until > at + claim + _SLACK,
                    DELIVERIES.c.claimed_by == self._me,
                ),
            )
            .order_by(DELIVERIES.c.due, DELIVERIES.c.position)
            .limit(1)
        )
        with self._store.reading() as connection:
            if connection.execute(due).first() is None:
                return None  # as nearly always: nothing is written for it
        with self._store.transaction() as connection:
            # What another process claims at this moment is passed over, not waited for.
            row = connection.execute(due.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            connection.execute(
                sa.update(DELIVERIES)
                .where(DELIVERIES.c.position == row.position)
                .values(claimed_by=self._me, claimed_until=at + claim)
            )
            alert = read_alert(connection, row.alert)
        severity = None if row.severity is None else SEVERITIES[row.severity]
        return OutboxEntry(row.position, row.alert, Update(alert, severity, moment, self._cluster))

    def release(self) -> None:
        """Give up all claims of this process, so that the next one can send at once."""
        with self._store.transaction() as connection:
            connection.execute(
                sa.update(DELIVERIES)
                .where(DELIVERIES.c.claimed_by == self._me)
                .values(claimed_by=None, claimed_until=None)
            )

    def done(self, sink: SinkSettings, entry: OutboxEntry, *, delivered: bool) -> None:
        """Close an entry that was sent, or that the receiver refused. What the alert has grown by meanwhile is queued again."""
        moment = now()
        with self._store.transaction() as connection:
            here = DELIVERIES.c.position == entry.position
            found = sa.select(DELIVERIES.c.position).where(here).with_for_update()
            if connection.execute(found).one_or_none() is None:
                return  # the alert was forgotten meanwhile
            alert = read_alert(connection, entry.number)
            sent = entry.update.alert
            known = sent.severity if delivered else entry.update.sent_severity
            severity = None if known is None else SEVERITIES.index(known)
            grown = alert.action_count > sent.action_count
            due = _due(sink, microseconds(moment), severity, alert, moment) if grown else None
            connection.execute(
                sa.update(DELIVERIES)
                .where(here)
                .values(
                    due=due,
                    queued=None if due is None else microseconds(moment),
                    sent=microseconds(moment),
                    severity=severity,
                    actions=sent.action_count,
                    claimed_by=None,
                    claimed_until=None,
                )
            )

    def trim(self, sink: SinkSettings) -> dict[str, int]:
        """Drop what waits beyond `max_queued`, the least severe first and of those the oldest; returns how many by severity."""
        waiting = sa.and_(DELIVERIES.c.sink == sink.name, DELIVERIES.c.due.is_not(None))
        count = sa.select(sa.func.count()).select_from(DELIVERIES).where(waiting)
        with self._store.reading() as connection:
            excess = connection.execute(count).scalar_one() - sink.max_queued
        if excess <= 0:
            return {}
        alert = sa.select(ALERTS.c.severity).where(ALERTS.c.number == DELIVERIES.c.alert)
        severity = sa.func.coalesce(alert.scalar_subquery(), 0)
        with self._store.transaction() as connection:
            # Only what nobody has locked: two that wait for each other's rows would both fail.
            least = (
                sa.select(DELIVERIES.c.position, severity)
                .where(waiting)
                .order_by(severity, DELIVERIES.c.queued, DELIVERIES.c.position)
                .limit(excess)
                .with_for_update(skip_locked=True, of=DELIVERIES)
            )
            rows = connection.execute(least).all()
            for start in range(0, len(rows), QUERY_IDS):
                some = [position for position, _ in rows[start : start + QUERY_IDS]]
                given_up = sa.update(DELIVERIES).where(DELIVERIES.c.position.in_(some))
                connection.execute(given_up.values(due=None, queued=None))
        return Counter(SEVERITIES[number] for _, number in rows)

    def depths(self) -> dict[str, tuple[int, float]]:
        """By the name of each sink how many entries are due, and seconds since the oldest was (0 if none is)."""
        at = microseconds(now())
        query = (
            sa.select(DELIVERIES.c.sink, sa.func.count(), sa.func.min(DELIVERIES.c.due))
            .where(DELIVERIES.c.due <= at)
            .group_by(DELIVERIES.c.sink)
        )
        with self._store.reading() as connection:
            found = {name: (count, (at - due) / 1e6) for name, count, due in connection.execute(query)}
        return {sink.name: found.get(sink.name, (0, 0.0)) for sink in self._sinks}


def _queue(connection: Connection, sink: SinkSettings, number: int, alert: Alert, moment: datetime) -> None:
    here = sa.and_(DELIVERIES.c.sink == sink.name, DELIVERIES.c.alert == number)
    # Locked: `done` of another process decides from the same row, and one of the two must see what the other wrote.
    row = connection.execute(sa.select(DELIVERIES).where(here).with_for_update()).one_or_none()
    at = microseconds(moment)
    if row is None:
        connection.execute(sa.insert(DELIVERIES).values(sink=sink.name, alert=number, due=at, queued=at))
        return
    due = _due(sink, row.sent, row.severity, alert, moment)
    if row.due is None or due < row.due:
        connection.execute(
            sa.update(DELIVERIES).where(here).values(due=due, queued=at if row.due is None else row.queued)
        )


def _due(sink: SinkSettings, sent: int | None, severity: int | None, alert: Alert, moment: datetime) -> int:
    """When a change of an alert is to be sent, microseconds since 1970."""
    at = microseconds(moment)
    if sent is None or severity is None or SEVERITIES.index(alert.severity) > severity:
        return at
    return max(at, sent + round(60e6 * sink.repeat_minutes))
