"""The outbox: which sink is still to be told of which alert; durable with the alert itself, in the same transaction.

There is one entry for each sink and alert. What is sent is always the alert as it stands, so an alert that grows while a
receiver is down waits once, not once for each change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.alerts import SEVERITIES, Alert
from serving.sinks.contract import SinkSettings, Update
from serving.store import AlertStore, Writer, microseconds, read_alert

_deliveries = sa.Table(
    "deliveries",
    sa.MetaData(),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("sink", sa.String(64)),
    sa.Column("alert", sa.Integer),
    sa.Column("due", sa.BigInteger),
    sa.Column("queued", sa.BigInteger),
    sa.Column("sent", sa.BigInteger),
    sa.Column("severity", sa.SmallInteger),
    sa.Column("actions", sa.BigInteger),
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry of the outbox that is to be sent."""

    position: int
    number: int
    update: Update


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits for one sink: entries, and seconds since the oldest was due (0 when none is)."""

    entries: int
    oldest_seconds: float


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Outbox:
    """Entries of all sinks.

    Args:
        store: where they are kept.
        sinks: settings of every sink; names are unique.
    """

    def __init__(self, store: AlertStore, sinks: Sequence[SinkSettings]) -> None:
        self._store = store
        self._sinks = tuple(sinks)

    def note(self, writer: Writer, number: int, alert: Alert) -> None:
        """Queue an alert that was raised or has grown, for every sink that wants it. Part of the writer's transaction.

        It is due at once if the sink has not heard of it or knows it as less severe; else when `repeat_minutes` have
        passed since it was told last.
        """
        moment = now()
        for sink in self._sinks:
            if sink.filter.passes(alert):
                self._queue(writer.connection, sink, number, alert, moment)

    def _queue(
        self, connection: Connection, sink: SinkSettings, number: int, alert: Alert, moment: datetime
    ) -> None:
        here = sa.and_(_deliveries.c.sink == sink.name, _deliveries.c.alert == number)
        row = connection.execute(sa.select(_deliveries).where(here)).one_or_none()
        at = microseconds(moment)
        if row is None:
            connection.execute(sa.insert(_deliveries).values(sink=sink.name, alert=number, due=at, queued=at))
            return
        due = _due(sink, row.sent, row.severity, alert, moment)
        if row.due is None or due < row.due:
            connection.execute(
                sa.update(_deliveries)
                .where(here)
                .values(due=due, queued=at if row.due is None else row.queued)
            )

    def next(self, sink: SinkSettings) -> Waiting | None:
        """The entry that has been due longest, if any is."""
        moment = now()
        query = (
            sa.select(_deliveries)
            .where(_deliveries.c.sink == sink.name, _deliveries.c.due <= microseconds(moment))
            .order_by(_deliveries.c.due, _deliveries.c.position)
            .limit(1)
        )
        with self._store.reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            alert = read_alert(connection, row.alert)
        told = None if row.severity is None else SEVERITIES[row.severity]
        return Waiting(row.position, row.alert, Update(alert, told, moment))

    def done(self, sink: SinkSettings, entry: Waiting, *, delivered: bool) -> None:
        """Take out an entry that was sent, or that the receiver refused. What the alert has grown by meanwhile waits anew."""
        moment = now()
        with self._store.transaction() as connection:
            here = _deliveries.c.position == entry.position
            if connection.execute(sa.select(_deliveries.c.position).where(here)).one_or_none() is None:
                return  # the alert was forgotten meanwhile
            alert = read_alert(connection, entry.number)
            sent = entry.update.alert
            told = SEVERITIES.index(sent.severity) if delivered else _told(entry.update)
            due = None
            if alert.action_count > sent.action_count:
                due = _due(sink, microseconds(moment), told, alert, moment)
            connection.execute(
                sa.update(_deliveries)
                .where(here)
                .values(
                    due=due,
                    queued=None if due is None else microseconds(moment),
                    sent=microseconds(moment),
                    severity=told,
                    actions=sent.action_count,
                )
            )

    def trim(self, sink: SinkSettings) -> int:
        """Give up the oldest entries beyond `max_queued`; returns how many."""
        waiting = sa.and_(_deliveries.c.sink == sink.name, _deliveries.c.due.is_not(None))
        with self._store.reading() as connection:
            last = connection.execute(
                sa.select(_deliveries.c.queued)
                .where(waiting)
                .order_by(_deliveries.c.queued.desc())
                .offset(sink.max_queued)
                .limit(1)
            ).scalar()
        if last is None:
            return 0
        with self._store.transaction() as connection:
            given_up = connection.execute(
                sa.update(_deliveries)
                .where(waiting, _deliveries.c.queued <= last)
                .values(due=None, queued=None)
            )
            return given_up.rowcount

    def depths(self) -> dict[str, Depth]:
        """What is due for each sink by its name."""
        at = microseconds(now())
        query = (
            sa.select(_deliveries.c.sink, sa.func.count(), sa.func.min(_deliveries.c.due))
            .where(_deliveries.c.due <= at)
            .group_by(_deliveries.c.sink)
        )
        with self._store.reading() as connection:
            found = {name: Depth(count, (at - due) / 1e6) for name, count, due in connection.execute(query)}
        return {sink.name: found.get(sink.name, Depth(0, 0.0)) for sink in self._sinks}


def _told(update: Update) -> int | None:
    return None if update.sent_severity is None else SEVERITIES.index(update.sent_severity)


def _due(sink: SinkSettings, sent: int | None, severity: int | None, alert: Alert, moment: datetime) -> int:
    """When a change of an alert is to be sent, microseconds since 1970."""
    at = microseconds(moment)
    if sent is None or severity is None or SEVERITIES.index(alert.severity) > severity:
        return at
    return max(at, sent + timedelta(minutes=sink.repeat_minutes) // timedelta(microseconds=1))
