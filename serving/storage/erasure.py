"""Erases one person from the alert store: their alerts go, and a pseudonym stands for them in what others have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from data.principals.person import Person
from serving.storage.database import AlertStore
from serving.storage.tables import (
    ALERT_CONTEXT,
    ALERT_LINES,
    ALERTS,
    ALLOWED,
    FEEDBACK,
    INCIDENTS,
    LINKS,
    MEMBERS,
    SAVED_VIEWS,
    TRAIL,
)

#: Table, and its columns that may name a person; their documents are JSON.
NAMING: tuple[tuple[sa.Table, tuple[str, ...]], ...] = (
    (ALERTS, ("document",)),
    (ALERT_LINES, ("sentence", "namespaces")),
    (ALERT_CONTEXT, ("document",)),
    (LINKS, ("source", "target", "document")),
    (TRAIL, ("document",)),
    (FEEDBACK, ("document",)),
    (ALLOWED, ("principal", "document")),
    (INCIDENTS, ("assignee",)),
    (SAVED_VIEWS, ("name", "query", "saved_by")),
)
#: Those whose rows belong to no alert.
_OF_NO_ALERT = (TRAIL, ALLOWED, INCIDENTS, SAVED_VIEWS)
_AT_A_TIME = 200


class AlertsOf(NamedTuple):
    """What the alert store holds of a person.

    Attributes:
        alerts: whose principal the person is, by ID; with their actions, context, links and deliveries.
        feedback: verdicts on those alerts.
        named: rows of other alerts, incidents and verdicts, and of actions that exceptions allowed, that name the person.
        open_incidents: incidents under way that have an alert of the person, by ID.
    """

    alerts: list[str]
    feedback: int
    named: int
    open_incidents: list[str]


def alerts_of(store: AlertStore, person: Person) -> AlertsOf:
    """What the store holds of a person; raises StoreError."""
    with store.reading() as connection:
        alerts = _alerts(connection, person)
        feedback = sum(1 for _ in _feedback(connection, alerts))
        mine = {row.number for row in connection.execute(_of(person))}
        named = sum(
            1 for table, row, _ in _rows(connection, person) if not _belongs(table, row, mine, alerts)
        )
        states = sa.select(INCIDENTS.c.id, INCIDENTS.c.state, MEMBERS.c.alert).join(
            MEMBERS, MEMBERS.c.incident == INCIDENTS.c.id
        )
        under_way = {
            row.id for row in connection.execute(states) if row.state == "open" and row.alert in alerts
        }
        return AlertsOf(sorted(alerts), feedback, named, sorted(under_way))


def erase_alerts(store: AlertStore, person: Person, pseudonym: str) -> AlertsOf:
    """Erase a person in one transaction, then let SQLite forget the freed pages; raises StoreError. Returns what there was."""
    found = alerts_of(store, person)
    with store.transaction() as connection:
        alerts = _alerts(connection, person)
        positions = list(_feedback(connection, alerts))
        for start in range(0, len(positions), _AT_A_TIME):
            some = positions[start : start + _AT_A_TIME]
            connection.execute(sa.delete(FEEDBACK).where(FEEDBACK.c.position.in_(some)))
        connection.execute(sa.delete(ALLOWED).where(ALLOWED.c.principal.in_(person.spellings)))
        gone = sorted(alerts)
        for start in range(0, len(gone), _AT_A_TIME):
            some_ids = gone[start : start + _AT_A_TIME]
            connection.execute(sa.delete(MEMBERS).where(MEMBERS.c.alert.in_(some_ids)))
            connection.execute(
                sa.delete(ALERTS).where(ALERTS.c.id.in_(some_ids))
            )  # what belongs to them goes along
        changes = [
            (table, row, {name: person.replaced(getattr(row, name), pseudonym) for name in names})
            for table, row, names in _rows(connection, person)
        ]
        for table, row, values in changes:
            (key,) = table.primary_key
            connection.execute(sa.update(table).where(key == getattr(row, key.name)).values(values))
    store.compact()
    return found


def _of(person: Person) -> sa.Select[Any]:
    return sa.select(ALERTS.c.number, ALERTS.c.id).where(ALERTS.c.principal.in_(person.spellings))


def _alerts(connection: Connection, person: Person) -> set[str]:
    return {row.id for row in connection.execute(_of(person))}


def _feedback(connection: Connection, alerts: set[str]) -> Iterator[int]:
    for row in connection.execute(sa.select(FEEDBACK.c.position, FEEDBACK.c.alert)):
        if row.alert in alerts:
            yield row.position


def _belongs(table: sa.Table, row: Any, mine: set[int], alerts: set[str]) -> bool:
    """Whether a row goes with an alert of the person."""
    if table is ALERTS:
        return row.number in mine
    if table is FEEDBACK:
        return row.alert in alerts
    return table not in _OF_NO_ALERT and row.alert in mine


def _rows(connection: Connection, person: Person) -> Iterator[tuple[sa.Table, Any, tuple[str, ...]]]:
    """Rows that name a person, and the columns that may."""
    for table, names in NAMING:
        either = [
            table.c[name].contains(spelling, autoescape=True)
            for name in names
            for spelling in person.spellings
        ]
        for row in connection.execute(sa.select(table).where(sa.or_(*either))).all():
            if any(person.is_in(getattr(row, name)) for name in names):
                yield table, row, names
