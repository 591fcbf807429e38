"""Tables of incidents, and of what surrounds their alerts: reads and writes within a transaction of the alert store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.schemas import SEVERITIES, Alert, IncidentLink, Severity, Surrounding
from serving.storage.tables import (
    ALERT_EVENTS,
    ALERT_LINES,
    ALERTS,
    INCIDENTS,
    LARGEST_NUMBER,
    LINKS,
    MEMBERS,
    QUERY_IDS,
    ALERT_CONTEXT,
    TRAIL,
    as_moment,
    microseconds,
)


class IncidentRow(NamedTuple):
    """An incident's own row.

    Attributes:
        number: position in listings.
        merged_into: the incident that has its alerts now; None unless merged.
    """

    number: int
    id: str
    state: str
    merged_into: str | None


class Member(NamedTuple):
    """An alert of an incident, as far as joining needs it. `first` and `last` are microseconds since 1970 UTC."""

    number: int
    alert: str
    principal: str
    first: int
    last: int
    incident: str
    by_hand: bool


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


# -- what surrounds alerts ----------------------------------------------------------------------------------------


def known_context(connection: Connection, number: int, rows: Sequence[Surrounding]) -> set[tuple[str, int]]:
    """Which (audit ID, time in microseconds) of these actions an alert has already."""
    found: set[tuple[str, int]] = set()
    names = list({row.audit_id for row in rows})
    for start in range(0, len(names), QUERY_IDS):
        query = sa.select(ALERT_CONTEXT.c.audit_id, ALERT_CONTEXT.c.time).where(
            ALERT_CONTEXT.c.alert == number, ALERT_CONTEXT.c.audit_id.in_(names[start : start + QUERY_IDS])
        )
        found.update((row.audit_id, row.time) for row in connection.execute(query))
    return found


def add_context(connection: Connection, number: int, rows: Sequence[Surrounding]) -> list[Surrounding]:
    """Add actions around an alert; returns those that are new."""
    known = known_context(connection, number, rows) if rows else set()
    fresh: dict[tuple[str, int], Surrounding] = {}
    for row in rows:
        key = (row.audit_id, microseconds(row.time))
        if key not in known:
            fresh.setdefault(key, row)
    if fresh:
        connection.execute(
            sa.insert(ALERT_CONTEXT),
            [
                {
                    "alert": number,
                    "audit_id": name,
                    "time": time,
                    "role": row.role,
                    "document": row.model_dump_json(by_alias=True, exclude_defaults=True),
                }
                for (name, time), row in fresh.items()
            ],
        )
    return list(fresh.values())


def context_of(connection: Connection, numbers: Sequence[int]) -> list[tuple[int, Surrounding]]:
    """(number of the alert, action) around some alerts, by time; an action of several alerts once."""
    query = (
        sa.select(ALERT_CONTEXT.c.alert, ALERT_CONTEXT.c.document)
        .where(ALERT_CONTEXT.c.alert.in_(numbers))
        .order_by(ALERT_CONTEXT.c.time, ALERT_CONTEXT.c.position)
    )
    found: dict[tuple[str, datetime], tuple[int, Surrounding]] = {}
    for row in connection.execute(query):
        one = Surrounding.model_validate_json(row.document)
        held = found.get((one.audit_id, one.time))
        if held is None or _PRECEDENCE[one.role] < _PRECEDENCE[held[1].role]:
            found[one.audit_id, one.time] = row.alert, one
    return list(found.values())


_PRECEDENCE = {"flagged": 0, "contributor": 1, "session": 2, "before": 3, "consequence": 4}


def flagged_ids(connection: Connection, numbers: Sequence[int]) -> list[str]:
    """Audit IDs of all flagged actions of some alerts, in the order of arrival."""
    query = (
        sa.select(ALERT_EVENTS.c.audit_id)
        .where(ALERT_EVENTS.c.alert.in_(numbers))
        .order_by(ALERT_EVENTS.c.position)
    )
    return list(dict.fromkeys(connection.execute(query).scalars()))


def _alike(link: IncidentLink) -> tuple[str, str, str, str]:
    """Key of links that say the same; the first of them is enough."""
    return link.kind, link.source, link.target, link.via


def add_links(connection: Connection, number: int, links: Sequence[IncidentLink]) -> list[IncidentLink]:
    """Add links found through an alert; returns those that are new."""
    if not links:
        return []
    query = sa.select(LINKS.c.document).where(LINKS.c.alert == number)
    known = {_alike(IncidentLink.model_validate_json(text)) for text in connection.execute(query).scalars()}
    fresh: dict[tuple[str, str, str, str], IncidentLink] = {}
    for link in links:
        if _alike(link) not in known:
            fresh.setdefault(_alike(link), link)
    if fresh:
        connection.execute(
            sa.insert(LINKS),
            [
                {
                    "alert": number,
                    "audit_id": link.audit_id,
                    "kind": link.kind,
                    "source": link.source,
                    "target": link.target,
                    "time": microseconds(link.time),
                    "document": link.model_dump_json(by_alias=True),
                }
                for link in fresh.values()
            ],
        )
    return list(fresh.values())


def links_of(connection: Connection, numbers: Sequence[int]) -> list[IncidentLink]:
    """Links found through some alerts, by time; a link found several times once."""
    query = (
        sa.select(LINKS.c.document).where(LINKS.c.alert.in_(numbers)).order_by(LINKS.c.time, LINKS.c.position)
    )
    found = [IncidentLink.model_validate_json(text) for text in connection.execute(query).scalars()]
    return list({_alike(link): link for link in reversed(found)}.values())[::-1]


def links_into(connection: Connection, targets: Sequence[str], since: int, until: int) -> list[IncidentLink]:
    """Links to any of these targets in a span of time (microseconds since 1970 UTC), by time."""
    query = (
        sa.select(LINKS.c.document)
        .where(LINKS.c.target.in_(targets), LINKS.c.time >= since, LINKS.c.time <= until)
        .order_by(LINKS.c.time)
        .limit(QUERY_IDS)
    )
    return [IncidentLink.model_validate_json(text) for text in connection.execute(query).scalars()]


# -- alerts and their incidents -----------------------------------------------------------------------------------


def _member_query() -> sa.Select[tuple[object, ...]]:
    return sa.select(
        ALERTS.c.number,
        ALERTS.c.id,
        ALERTS.c.principal,
        ALERTS.c.first_seen,
        ALERTS.c.last_seen,
        MEMBERS.c.incident,
        MEMBERS.c.by_hand,
    ).join(MEMBERS, MEMBERS.c.alert == ALERTS.c.id)


def _as_members(connection: Connection, query: sa.Select[tuple[object, ...]]) -> list[Member]:
    return [Member._make((*row[:-1], bool(row[-1]))) for row in connection.execute(query)]


def members(connection: Connection, incident: str) -> list[Member]:
    """Alerts of an incident that still exist, in the order in which they were raised."""
    return _as_members(
        connection, _member_query().where(MEMBERS.c.incident == incident).order_by(ALERTS.c.number)
    )


def member(connection: Connection, alert: str) -> Member | None:
    """The incident of an alert; None while it has none."""
    found = _as_members(connection, _member_query().where(MEMBERS.c.alert == alert))
    return found[0] if found else None


def members_of_principal(
    connection: Connection, principal: str, since: int, until: int, *, prefix: bool = False
) -> list[Member]:
    """Alerts of a principal (or of all with this prefix) that overlap a span of time, the latest last."""
    name = (
        ALERTS.c.principal.startswith(principal, autoescape=True)
        if prefix
        else ALERTS.c.principal == principal
    )
    return _as_members(
        connection,
        _member_query()
        .where(name, ALERTS.c.last_seen >= since, ALERTS.c.first_seen <= until)
        .order_by(ALERTS.c.last_seen)
        .limit(QUERY_IDS),
    )


def alerts_of(connection: Connection, numbers: Sequence[int]) -> list[Alert]:
    """Alerts by number, by time."""
    query = (
        sa.select(ALERTS.c.document)
        .where(ALERTS.c.number.in_(numbers))
        .order_by(ALERTS.c.first_seen, ALERTS.c.number)
    )
    return [Alert.model_validate_json(text) for text in connection.execute(query).scalars()]


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
            brief = Brief(
                principal=row.principal,
                kind=row.kind,
                severity=cast(Severity, SEVERITIES[row.severity]),
                evidence=row.evidence,
                began=as_moment(row.began),
                first_seen=as_moment(row.first_seen),
                last_seen=as_moment(row.last_seen),
                action_count=row.action_count,
                sentence=row.sentence,
            )
            found[row.incident].append((brief.first_seen, row.number, brief))
    for number, name in incomplete.items():
        for alert in alerts_of(connection, [number]):
            brief = Brief(*(getattr(alert, field) for field in _BRIEF))
            found[name].append((brief.first_seen, number, brief))
    return {name: [brief for *_, brief in sorted(of, key=lambda one: one[:2])] for name, of in found.items()}


def incident(connection: Connection, name: str) -> IncidentRow | None:
    """One incident's row, or None."""
    row = connection.execute(sa.select(INCIDENTS).where(INCIDENTS.c.id == name)).one_or_none()
    return None if row is None else IncidentRow(*row)


def incidents(
    connection: Connection, *, state: str | None, limit: int, cursor: int | None
) -> list[IncidentRow]:
    """Rows of a listing, newest first."""
    query = sa.select(INCIDENTS).order_by(INCIDENTS.c.number.desc()).limit(limit)
    if state is not None:
        query = query.where(INCIDENTS.c.state == state)
    if cursor is not None:
        query = query.where(INCIDENTS.c.number < min(cursor, LARGEST_NUMBER))
    return [IncidentRow(*row) for row in connection.execute(query)]


def open_incident(connection: Connection, name: str) -> None:
    """Insert an incident."""
    connection.execute(sa.insert(INCIDENTS).values(id=name, state="open"))


def set_state(connection: Connection, name: str, state: str, merged_into: str | None = None) -> None:
    """Open, close or mark as merged."""
    connection.execute(
        sa.update(INCIDENTS).where(INCIDENTS.c.id == name).values(state=state, merged_into=merged_into)
    )


def assign(connection: Connection, alert: str, name: str, *, by_hand: bool) -> None:
    """Put an alert into an incident."""
    known = connection.execute(sa.select(MEMBERS.c.by_hand).where(MEMBERS.c.alert == alert)).one_or_none()
    values = {"incident": name, "by_hand": int(by_hand)}
    if known is None:
        connection.execute(sa.insert(MEMBERS).values(alert=alert, **values))
    else:
        connection.execute(sa.update(MEMBERS).where(MEMBERS.c.alert == alert).values(**values))


def forget(connection: Connection, before: int) -> None:
    """Delete incidents without alerts that nobody has touched since (microseconds since 1970 UTC)."""
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
    return list(connection.execute(query).scalars())
