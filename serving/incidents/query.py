"""Queries of incidents: filtered, searched, ordered and paged over the narrow table of alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from data.errors import KubehabitError
from serving.schemas import SEVERITIES, FilterText, ListQuery
from serving.storage.incidents import IncidentRow
from serving.storage.tables import ALERT_LINES, INCIDENTS, LARGEST_NUMBER, MEMBERS, microseconds

#: Incidents that people have named as assignees, offered as suggestions.
_MOST_ASSIGNEES = 100
_LONGEST_CURSOR = 40
_LARGEST_KEY = 2**62

IncidentOrder = Literal["newest", "activity", "severity", "oldest"]


class IncidentQuery(ListQuery):
    """Which incidents to show; all filters must match."""

    state: Annotated[
        Literal["", "open", "closed", "merged"], Field(description="Only those in this state; empty: any")
    ] = ""
    severity: Annotated[
        Literal["", "low", "medium", "high", "critical"],
        Field(description="This severity and above; empty: any"),
    ] = ""
    principal: Annotated[
        FilterText, Field(description="Only those with an alert of this principal, by full name; empty: any")
    ] = ""
    namespace: Annotated[
        FilterText, Field(description="Only those that touched this namespace; empty: any")
    ] = ""
    assignee: Annotated[
        FilterText, Field(description="Only those that this person works on, none: nobody yet; empty: any")
    ] = ""
    outcome: Annotated[
        Literal["", "malicious", "normal", "unclear"],
        Field(description="Only those closed with this outcome; empty: any"),
    ] = ""
    text: Annotated[
        FilterText,
        Field(
            alias="q",
            description="Only those with this in the sentence, principal or namespaces of an alert, or in an ID; empty: any",
        ),
    ] = ""
    order: Annotated[
        IncidentOrder,
        Field(
            description="newest: by when it was opened; activity: by its last alert; severity: the most severe first; oldest"
        ),
    ] = "newest"


class IncidentListQuery(IncidentQuery):
    """`GET /v1/incidents`."""

    since: Annotated[
        datetime | None, Field(description="Only incidents still going on at or after this time")
    ] = None
    until: Annotated[datetime | None, Field(description="Only incidents that began before this time")] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[
        str | None, Field(description="Cursor of the previous page", max_length=_LONGEST_CURSOR)
    ] = None


def page_of(
    connection: Connection,
    wanted: IncidentQuery,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    cursor: str | None,
) -> tuple[list[IncidentRow], str | None]:
    """A page of incidents in the wanted order, and the cursor of the next one; None at the end.

    Args:
        since, until: only those still going on at or after the first, and begun before the second.
        cursor: that of the page before.

    Raises:
        KubehabitError: the cursor is not one of this order.
    """
    key, descending = _key(wanted.order)
    query = sa.select(INCIDENTS, key.label("key")).outerjoin(_SPANS, _SPANS.c.incident == INCIDENTS.c.id)
    query = query.where(*_conditions(wanted))
    if since is not None:
        query = query.where(_SPANS.c.last >= microseconds(since))
    if until is not None:
        query = query.where(_SPANS.c.first < microseconds(until))
    number = INCIDENTS.c.number
    if cursor is not None:
        # As large integers: PostgreSQL would take them for small ones, which no time in microseconds is.
        at = sa.tuple_(*(sa.literal(part, sa.BigInteger) for part in _position(cursor, wanted.order)))
        here = sa.tuple_(key, number)
        query = query.where(here < at if descending else here > at)
    ordered = (column.desc() if descending else column.asc() for column in (key, number))
    found = connection.execute(query.order_by(*ordered).limit(limit + 1)).all()
    rows = [IncidentRow(*row[:-1]) for row in found[:limit]]
    if len(found) <= limit:
        return rows, None
    last = found[limit - 1]
    return rows, str(last.number) if wanted.order == "newest" else f"{last.key}-{last.number}"


def assignees(connection: Connection) -> list[str]:
    """Names of people that incidents were assigned to, sorted."""
    column = INCIDENTS.c.assignee
    found = connection.scalars(sa.select(column).where(column != "").distinct().limit(_MOST_ASSIGNEES))
    return sorted(found)


def open_by_severity(connection: Connection) -> dict[str, int]:
    """Number of open incidents of each severity, most severe first; one without alerts counts as the least severe."""
    severity = sa.func.coalesce(_SPANS.c.severity, 1)
    query = (
        sa.select(severity, sa.func.count())
        .select_from(INCIDENTS.outerjoin(_SPANS, _SPANS.c.incident == INCIDENTS.c.id))
        .where(INCIDENTS.c.state == "open")
        .group_by(severity)
    )
    found = {SEVERITIES[rank]: number for rank, number in connection.execute(query)}
    return {name: found.get(name, 0) for name in reversed(SEVERITIES[1:])}


def unattended(connection: Connection) -> int:
    """Number of open incidents that nobody has acknowledged or taken."""
    column = INCIDENTS.c
    open_ = (column.state == "open", column.acknowledged.is_(None), column.assignee.is_(None))
    return connection.scalar(sa.select(sa.func.count()).where(*open_)) or 0


#: Worst severity, begin and end of each incident's alerts.
_SPANS = (
    sa.select(
        MEMBERS.c.incident,
        sa.func.max(ALERT_LINES.c.severity).label("severity"),
        sa.func.min(sa.func.coalesce(ALERT_LINES.c.began, ALERT_LINES.c.first_seen)).label("first"),
        sa.func.max(ALERT_LINES.c.last_seen).label("last"),
    )
    .join(ALERT_LINES, ALERT_LINES.c.id == MEMBERS.c.alert)
    .group_by(MEMBERS.c.incident)
    .subquery()
)


def _key(order: IncidentOrder) -> tuple[sa.ColumnElement[Any], bool]:
    """The column that an order goes by, and whether it descends; equals go by number."""
    columns = {
        "newest": (INCIDENTS.c.number, True),
        "activity": (sa.func.coalesce(_SPANS.c.last, 0), True),
        "severity": (sa.func.coalesce(_SPANS.c.severity, 0), True),
        "oldest": (sa.func.coalesce(_SPANS.c.first, 0), False),
    }
    return columns[order]


def _position(cursor: str, order: IncidentOrder) -> tuple[int, int]:
    """Key and number at which a page ended."""
    parts = [cursor, cursor] if order == "newest" else cursor.split("-")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 20 for part in parts):
        raise KubehabitError("'cursor' is not one of ours: use the value of the page before, or none.")
    key, number = map(int, parts)
    most = LARGEST_NUMBER if order == "newest" else _LARGEST_KEY
    return min(key, most), min(number, LARGEST_NUMBER)


def _conditions(wanted: IncidentQuery) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    column, line = INCIDENTS.c, ALERT_LINES.c
    if "\0" in wanted.principal + wanted.namespace + wanted.assignee or "\n" in wanted.namespace:
        return [sa.false()]  # no name holds them, and no text in PostgreSQL may hold the first
    if wanted.state:
        found.append(column.state == wanted.state)
    if wanted.outcome:
        found.append(column.outcome == wanted.outcome)
    if wanted.assignee:
        nobody = wanted.assignee == "none"
        found.append(column.assignee.is_(None) if nobody else column.assignee == wanted.assignee)
    if wanted.severity:
        found.append(_SPANS.c.severity >= SEVERITIES.index(wanted.severity))
    if wanted.principal:
        found.append(_has_alert(line.principal == wanted.principal))
    if wanted.namespace:
        found.append(_has_alert(line.namespaces.contains(f"\n{wanted.namespace}\n", autoescape=True)))
    if text := wanted.text.replace("\0", "").lower():
        columns = (line.sentence, line.principal, line.namespaces, line.id)
        shown = _has_alert(sa.or_(*(sa.func.lower(one).contains(text, autoescape=True) for one in columns)))
        found.append(sa.or_(shown, sa.func.lower(column.id).contains(text, autoescape=True)))
    return found


def _has_alert(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    held = sa.select(MEMBERS.c.incident).join(ALERT_LINES, ALERT_LINES.c.id == MEMBERS.c.alert)
    return INCIDENTS.c.id.in_(held.where(condition))
