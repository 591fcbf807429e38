"""Tables of incidents and of the context of their alerts: reads and writes within a transaction of the alert store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.schemas import SEVERITIES, Alert, IncidentLink, Severity, Surrounding
from serving.storage.tables import (
    ALERT_CONTEXT,
    ALERT_EVENTS,
    ALERT_LINES,
    ALERTS,
    INCIDENTS,
    LINKS,
    MEMBERS,
    QUERY_IDS,
    TRAIL,
    as_moment,
    microseconds,
)


class IncidentRow(NamedTuple):
    """An incident's own row.

    Attributes:
        number: position in listings.
        merged_into: the incident that has its alerts now; None unless merged.
        assignee: who works on it, by name; None if nobody does.
        acknowledged: when a person last took note of it, microseconds since 1970 UTC; None before.
        outcome: how it ended; None while it is open, and for one closed by an older version.
    """

    number: int
    id: str
    state: str
    merged_into: str | None
    assignee: str | None = None
    acknowledged: int | None = None
    outcome: str | None = None


class Member(NamedTuple):
    """An alert of an incident, as far as joining needs it. `first` and `last` are microseconds since 1970 UTC."""

    number: int
    alert: str
    principal: str
    first: int
    last: int
    incident: str
    by_hand: int


class Brief(NamedTuple):
    """An alert as far as a list of incidents needs it; fields as of `Alert`."""

    principal: str
    kind: str
    severity: Severity
    evidence: float
    began: datetime | None
    first_seen: datetime
    last_seen: datetime
    action_count: int
    sentence: str


#: Attributes of an alert, and columns of the narrow table.
_BRIEF = Brief._fields


# -- the context of alerts ----------------------------------------------------------------------------------------


def known_keys(
    connection: Connection, table: sa.Table, number: int, audit_ids: Sequence[str]
) -> set[tuple[str, int]]:
    """Which (audit ID, time in microseconds) a table has of an alert, among those of the given IDs."""
    found: set[tuple[str, int]] = set()
    for start in range(0, len(audit_ids), QUERY_IDS):
        asked = {"number": number, "ids": audit_ids[start : start + QUERY_IDS]}
        found.update((name, time) for name, time in connection.execute(_known_keys_query(table), asked))
    return found


@cache
def _known_keys_query(table: sa.Table) -> sa.Select[tuple[Any, ...]]:
    """Made once: it is asked for each watched alert of each batch."""
    return sa.select(table.c.audit_id, table.c.time).where(
        table.c.alert == sa.bindparam("number"), table.c.audit_id.in_(sa.bindparam("ids", expanding=True))
    )


def add_context(connection: Connection, number: int, rows: Sequence[Surrounding]) -> bool:
    """Add actions to the context of an alert; returns whether any of them is new."""
    by_key = {(row.audit_id, microseconds(row.time)): row for row in reversed(rows)}
    known = known_keys(connection, ALERT_CONTEXT, number, list({name for name, _ in by_key}))
    fresh = [
        {"alert": number, "audit_id": name, "time": time, "role": row.role}
        | {"document": row.model_dump_json(by_alias=True, exclude_defaults=True)}
        for (name, time), row in reversed(by_key.items())
        if (name, time) not in known
    ]
    if fresh:
        connection.execute(sa.insert(ALERT_CONTEXT), fresh)
    return bool(fresh)


def context_of(connection: Connection, numbers: Sequence[int]) -> list[Surrounding]:
    """Actions in the context of some alerts, by time; an action of several alerts once."""
    context = ALERT_CONTEXT.c
    query = sa.select(context.document).where(context.alert.in_(numbers))
    found: dict[tuple[str, datetime], Surrounding] = {}
    for text in connection.scalars(query.order_by(context.time, context.position)):
        one = Surrounding.model_validate_json(text)
        held = found.get((one.audit_id, one.time))
        if held is None or _PRECEDENCE[one.role] < _PRECEDENCE[held.role]:
            found[one.audit_id, one.time] = one
    return list(found.values())


_PRECEDENCE = {"flagged": 0, "contributor": 1, "session": 2, "before": 3, "consequence": 4}


def flagged_ids(connection: Connection, numbers: Sequence[int]) -> list[str]:
    """Audit IDs of all flagged actions of some alerts, in the order of arrival."""
    events = ALERT_EVENTS.c
    query = sa.select(events.audit_id).where(events.alert.in_(numbers)).order_by(events.position)
    return list(dict.fromkeys(connection.scalars(query)))


def distinct_links(links: Sequence[IncidentLink]) -> list[IncidentLink]:
    """Links without those that repeat an earlier one."""
    return list({_link_key(link): link for link in reversed(links)}.values())[::-1]


class _LinkParts(msgspec.Struct, gc=False):
    kind: str
    source: str
    target: str
    via: str = ""


_link_parts = msgspec.json.Decoder(_LinkParts).decode


def _link_key_of(document: str) -> tuple[str, str, str, str]:
    """`_link_key` of a stored link."""
    parts = _link_parts(document)
    return parts.kind, parts.source, parts.target, parts.via


def _link_key(link: IncidentLink) -> tuple[str, str, str, str]:
    return link.kind, link.source, link.target, link.via


_LINKS_OF_ALERT = sa.select(LINKS.c.document).where(LINKS.c.alert == sa.bindparam("number"))


def add_links(connection: Connection, number: int, links: Sequence[IncidentLink]) -> list[IncidentLink]:
    """Add links found through an alert; returns those that are new."""
    if not links:
        return []
    known = set(map(_link_key_of, connection.scalars(_LINKS_OF_ALERT, {"number": number})))
    fresh = [link for link in distinct_links(links) if _link_key(link) not in known]
    if fresh:
        rows = [
            link.model_dump(include={"audit_id", "kind", "source", "target"})
            | {"alert": number, "time": microseconds(link.time)}
            | {"document": link.model_dump_json(by_alias=True)}
            for link in fresh
        ]
        connection.execute(sa.insert(LINKS), rows)
    return fresh


def _links(connection: Connection, query: sa.Select[tuple[Any, ...]]) -> list[IncidentLink]:
    documents = connection.scalars(query.with_only_columns(LINKS.c.document))
    return [IncidentLink.model_validate_json(text) for text in documents]


def links_of(connection: Connection, numbers: Sequence[int]) -> list[IncidentLink]:
    """Links found through some alerts, by time; a link found several times once."""
    query = sa.select(LINKS).where(LINKS.c.alert.in_(numbers)).order_by(LINKS.c.time, LINKS.c.position)
    return distinct_links(_links(connection, query))


def links_into(connection: Connection, targets: Sequence[str], since: int, until: int) -> list[IncidentLink]:
    """Links to any of these targets in a span of time (microseconds since 1970 UTC), by time."""
    within = LINKS.c.target.in_(targets), LINKS.c.time >= since, LINKS.c.time <= until
    return _links(connection, sa.select(LINKS).where(*within).order_by(LINKS.c.time).limit(QUERY_IDS))


# -- alerts and their incidents -----------------------------------------------------------------------------------


_MEMBERS = sa.select(
    *(ALERTS.c[name] for name in ("number", "id", "principal", "first_seen", "last_seen")),
    *(MEMBERS.c[name] for name in ("incident", "by_hand")),
).join(MEMBERS, MEMBERS.c.alert == ALERTS.c.id)


def _as_members(connection: Connection, query: sa.Select[tuple[Any, ...]]) -> list[Member]:
    return [Member._make(row) for row in connection.execute(query)]


def members(connection: Connection, incident: str) -> list[Member]:
    """Alerts of an incident that still exist, in the order in which they were raised."""
    query = _MEMBERS.where(MEMBERS.c.incident == incident).order_by(ALERTS.c.number)
    return _as_members(connection, query)


def member(connection: Connection, alert: str) -> Member | None:
    """The incident of an alert; None while it has none."""
    return next(iter(_as_members(connection, _MEMBERS.where(MEMBERS.c.alert == alert))), None)


def members_of_principal(
    connection: Connection, principal: str, since: int, until: int, *, prefix: bool = False
) -> list[Member]:
    """Alerts of a principal (or of all with this prefix) that overlap a span of time, the latest last."""
    column = ALERTS.c.principal
    name = column.startswith(principal, autoescape=True) if prefix else column == principal
    query = _MEMBERS.where(name, ALERTS.c.last_seen >= since, ALERTS.c.first_seen <= until)
    return _as_members(connection, query.order_by(ALERTS.c.last_seen).limit(QUERY_IDS))


def alerts_of(connection: Connection, numbers: Sequence[int]) -> list[Alert]:
    """Alerts by number, by time."""
    query = sa.select(ALERTS.c.document).where(ALERTS.c.number.in_(numbers))
    ordered = query.order_by(ALERTS.c.first_seen, ALERTS.c.number)
    return [Alert.model_validate_json(text) for text in connection.scalars(ordered)]


def from_line(row: sa.Row[Any], names: Iterable[str]) -> dict[str, Any]:
    """Values of columns of `ALERT_LINES` as those of an alert: times as datetimes, the severity by its name."""
    values = {name: getattr(row, name) for name in names}
    for name in values.keys() & {"began", "first_seen", "last_seen"}:
        values[name] = as_moment(values[name])
    return values | {"severity": SEVERITIES[row.severity]}


def briefs_of(connection: Connection, names: Sequence[str]) -> dict[str, list[Brief]]:
    """Alerts of each incident by time, from the narrow table: their documents are long.

    An older version that runs beside this one leaves lines out or incomplete; for those the documents are read.
    """
    line = ALERT_LINES.c
    found: dict[str, list[tuple[datetime, int, Brief]]] = {name: [] for name in names}
    incomplete: dict[int, str] = {}
    for start in range(0, len(names), QUERY_IDS):
        query = (
            sa.select(MEMBERS.c.incident, ALERTS.c.number, *(line[name] for name in _BRIEF))
            .join(ALERTS, ALERTS.c.id == MEMBERS.c.alert)
            .outerjoin(ALERT_LINES, line.alert == ALERTS.c.number)
            .where(MEMBERS.c.incident.in_(names[start : start + QUERY_IDS]))
        )
        for row in connection.execute(query).all():
            if row.began is None:
                incomplete[row.number] = row.incident
                continue
            brief = Brief(**from_line(row, _BRIEF))
            found[row.incident].append((brief.first_seen, row.number, brief))
    for number, name in incomplete.items():
        for alert in alerts_of(connection, [number]):
            brief = Brief(*(getattr(alert, field) for field in _BRIEF))
            found[name].append((brief.first_seen, number, brief))
    return {name: [brief for *_, brief in sorted(of, key=lambda one: one[:2])] for name, of in found.items()}


def incident(connection: Connection, name: str) -> IncidentRow | None:
    """One incident's row, or None."""
    rows = connection.execute(sa.select(INCIDENTS).where(INCIDENTS.c.id == name))
    return next((IncidentRow(*row) for row in rows), None)


def open_incident(connection: Connection, name: str) -> None:
    """Insert an incident."""
    connection.execute(sa.insert(INCIDENTS).values(id=name, state="open"))


def set_state(
    connection: Connection,
    name: str,
    state: str,
    merged_into: str | None = None,
    *,
    outcome: str | None = None,
) -> None:
    """Open, close with an outcome, or mark as merged."""
    changed = sa.update(INCIDENTS).where(INCIDENTS.c.id == name)
    connection.execute(changed.values(state=state, merged_into=merged_into, outcome=outcome))


def set_work(connection: Connection, name: str, **columns: str | int | None) -> None:
    """Set the columns `assignee`, `acknowledged` or `outcome` of an incident."""
    connection.execute(sa.update(INCIDENTS).where(INCIDENTS.c.id == name).values(columns))


def assign(connection: Connection, alert: str, name: str, *, by_hand: bool) -> None:
    """Put an alert into an incident."""
    values = {"incident": name, "by_hand": int(by_hand)}
    if not connection.execute(sa.update(MEMBERS).where(MEMBERS.c.alert == alert).values(values)).rowcount:
        connection.execute(sa.insert(MEMBERS).values(values | {"alert": alert}))


def forget(connection: Connection, before: int) -> None:
    """Delete incidents without alerts whose trail ends before a moment (microseconds since 1970 UTC)."""
    connection.execute(sa.delete(MEMBERS).where(MEMBERS.c.alert.not_in(sa.select(ALERTS.c.id))))
    held = sa.select(MEMBERS.c.incident)
    connection.execute(sa.delete(TRAIL).where(TRAIL.c.time < before, TRAIL.c.incident.not_in(held)))
    noted = sa.select(TRAIL.c.incident)
    connection.execute(sa.delete(INCIDENTS).where(INCIDENTS.c.id.not_in(held), INCIDENTS.c.id.not_in(noted)))


def add_to_trail(connection: Connection, name: str, time: datetime, document: str) -> None:
    """Append to an incident's trail. Entries cannot be changed or removed."""
    connection.execute(sa.insert(TRAIL).values(incident=name, time=microseconds(time), document=document))


def trail(connection: Connection, name: str) -> list[str]:
    """All documents of `add_to_trail` of an incident, oldest first."""
    query = sa.select(TRAIL.c.document).where(TRAIL.c.incident == name).order_by(TRAIL.c.position)
    return list(connection.scalars(query))
